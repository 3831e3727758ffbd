"""The data files that runs name, as far as they are still there: what they share, and what selected a checkpoint."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from tlrec.data.overlap import Overlap, measure_overlap
from tlrec.data.preferences import read_checked
from tlrec.errors import InputError
from tlrec.files import sha256


def digest_of(path):
    """The SHA-256 of a file; None of what is none, or cannot be read."""
    with suppress(OSError):  # of a file that may not be read, or a name that cannot be one
        return sha256(path) if path.is_file() else None


class DataFiles:
    """Data files are found where they were given or below the workspace `root`, and only if unchanged."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        self.files, self.overlaps = {}, {}  # by digest, and by two digests
        self.digest = cache(digest_of)

    def read(self, data):
        """(records, Preferences or None) of a file described by {"path", "sha256"}; InputError if it is not there or
        holds no records."""
        if data["sha256"] not in self.files:
            if (path := self._find(data)) is None:
                raise InputError(f"{self.shown(data)} is gone or has changed")
            self.files[data["sha256"]] = read_checked(path)
        return self.files[data["sha256"]]

    def overlap(self, first, second):
        """What two described files share, computed once: `tlrec.data.overlap.Overlap`; its users are None if a file
        holds free text. Raises InputError if one of them cannot be read."""
        key = (first["sha256"], second["sha256"])
        if key not in self.overlaps:
            files = {"first": self.read(first), "second": self.read(second)}
            if any(preferences is None for _, preferences in files.values()):
                inputs = {record["input"] for record in files["first"][0]}
                rows = sum(record["input"] in inputs for record in files["second"][0])
                self.overlaps[key] = Overlap(*files, rows=rows, users=None, user_rows=None)
            else:
                self.overlaps[key] = measure_overlap(files)[1][0]
        return self.overlaps[key]

    def shown(self, data):
        """The path of a described file, relative to the workspace if it is inside."""
        path = Path(os.path.abspath(data["path"]))
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else data["path"])

    def selected(self, evaluations):
        """What selected the checkpoints of these evaluations' stages, in words: "1000 target rows", "200 source rows",
        "nothing". Which rows they are is told by their content, wherever they lie."""
        found = {}
        for evaluation in evaluations:
            adapter, chain = evaluation.metrics["run"].get("adapter"), evaluation.chain
            if chain[0].get("start_adapter") if chain else adapter:  # not of these scripts
                found["not known"] = None
            for run in evaluation.runs:
                if (valid := run["data"].get("valid")) and run.get("metric_for_best_model") != "last":
                    found[f"{valid['rows']} {self._whose(valid, evaluation)} rows"] = None
        return ", ".join(found) or "nothing"

    def _whose(self, valid, evaluation):
        """ "test", "target" or "source"; "unknown" where the file is gone."""
        targets = self._target_files(evaluation)
        if valid["sha256"] in targets:
            return "test" if valid["sha256"] == evaluation.facts["test_sha256"] else "target"
        try:
            inputs = {record["input"] for record in self.read(valid)[0]}
        except InputError:
            return "unknown"
        for data in targets.values():
            with suppress(InputError):  # of a file that is gone, or holds no records, such as prepared.json
                if any(record["input"] in inputs for record in self.read(data)[0]):
                    return "target"
        return "source"

    def _target_files(self, evaluation):
        """{sha256: described file} of the target's files: beside the test file, or a copy of it in `rec_data`, and what
        few-shot stages learnt from."""
        test = evaluation.metrics["run"]["data"]["test"]
        copies = [path for path in self.root.glob("rec_data/*/*.json") if self.digest(path) == test["sha256"]]
        folders = {path.parent for path in (self._find(test), *copies) if path}
        beside = [path for folder in folders for path in sorted(folder.glob("*.json"))]
        found = {sha: {"path": str(path), "sha256": sha} for path in beside if (sha := self.digest(path))}
        learnt_from = [run["data"]["train"] for run in evaluation.runs if run.get("shots") and "train" in run["data"]]
        return found | {data["sha256"]: data for data in (test, *learnt_from)}

    def _find(self, data):
        """The path of a described file; None if it is gone or has changed."""
        places = (Path(data["path"]), self.root / data["path"])
        return next((path for path in places if self.digest(path) == data["sha256"]), None)
