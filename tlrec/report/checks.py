"""Leak and sanity checks: what to know before trusting a number."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from tlrec.data.overlap import Overlap, measure_overlap
from tlrec.data.preferences import read_checked
from tlrec.errors import InputError
from tlrec.files import sha256

ONE_SIDED = 0.9  # if one label has this share, accuracy says little
SILENT = 0.5  # with less probability on the two answers, the model has not understood the question


@dataclass(frozen=True)
class Check:
    """level: "ok", "note" or "warning"; subject: what was looked at; text: what was found, in a sentence."""

    level: str
    subject: str
    text: str


def check(test_sets, root):
    """All checks of all test sets, warnings first."""
    files = DataFiles(root)
    checks = []
    for test_set in test_sets:
        checks += shared_rows(test_set, files)
        checks += selection(test_set, files)
        checks += label_share(test_set)
        checks += scoring(test_set)
        checks += truncation(test_set, files)
        checks += answer_mass(test_set)
        checks += seeds(test_set)
        checks += environments(test_set)
    levels = ("warning", "note", "ok")
    return sorted(dict.fromkeys(checks), key=lambda found: levels.index(found.level))


class DataFiles:
    """The data files that runs name, found where they were given or below the workspace, and only if unchanged."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        self.files = {}
        self.overlaps = {}

    def read(self, data):
        """(records, Preferences or None) of a file described by {"path", "sha256"}; InputError if it is not there, has
        changed, or holds no records."""
        if data["sha256"] not in self.files:
            for path in (Path(data["path"]), self.root / data["path"]):
                with suppress(OSError):  # of a file that may not be read, or a name that cannot be one
                    if path.is_file() and sha256(path) == data["sha256"]:
                        self.files[data["sha256"]] = read_checked(path)
                        break
            else:
                raise InputError(f"{self.shown(data)} is gone or has changed")
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


def shared_rows(test_set, files):
    """Rows and users shared between the files of training, validation and test, pair by pair."""
    by_part = {"train": {}, "valid": {}, "test": {test_set.test["sha256"]: test_set.test}}
    for evaluation in test_set.evaluations:
        for run in (*evaluation.chain, evaluation.run):
            for part in ("train", "valid"):
                if data := run["data"].get(part):
                    by_part[part].setdefault(data["sha256"], data)
    checks = []
    for first_part, second_part in combinations(by_part, 2):
        for first in by_part[first_part].values():
            for second in by_part[second_part].values():
                subject = f"{files.shown(first)} ({first_part}) and {files.shown(second)} ({second_part})"
                if first["sha256"] == second["sha256"]:
                    checks.append(Check("warning", subject, "the same rows"))
                    continue
                try:
                    checks.append(overlap_check(subject, files.overlap(first, second), second["rows"]))
                except InputError as error:
                    checks.append(Check("note", subject, f"not compared: {error}"))
    return checks


def overlap_check(subject, found, rows):
    """What a file of `rows` rows shares with an earlier one, as a Check."""
    if found.users is None:
        text = f"shared rows: {found.rows}; users not compared, because not all rows are preference records"
    else:
        text = f"shared rows: {found.rows}; shared users: {found.users}"
        text += f", with {found.user_rows} rows ({found.user_rows / rows:.1%}) of the latter" if found.users else ""
    return Check("warning" if found.rows or found.users else "ok", subject, text)


def merged(test_set, found):
    """Checks of [(cell, level, text)], one for each text, naming its cells."""
    cells = {}
    for cell, level, text in found:
        cells.setdefault((level, text), []).append(cell_name(cell))
    return [Check(level, f"{test_set.target}: {'; '.join(names)}", text) for (level, text), names in cells.items()]


def selection(test_set, files):
    """Which rows selected the checkpoint of a "zero-shot" result."""
    found = []
    for cell in test_set.cells:
        if cell.shots == 0 and (validations := target_selection(cell, test_set)):
            paths = ", ".join(map(files.shown, validations))
            text = (
                f"checkpoints were selected on labelled rows of the target ({paths}), so this is zero-shot only in its "
                "training; VALID=source in the launcher selects on source data"
            )
            found.append((cell, "note", text))
    return merged(test_set, found)


def scoring(test_set):
    """Cells scored with other settings than most: their differences to others do not come from the method alone."""
    found = [(cell, other_scoring(cell, test_set)) for cell in test_set.cells]
    return merged(test_set, [(cell, "warning", f"scored with {', '.join(other)}") for cell, other in found if other])


def other_scoring(cell, test_set):
    """Settings that affect this cell's scores and differ from most evaluations of the test set: a list of words."""
    known = [evaluation.run["scoring"] for evaluation in test_set.evaluations if evaluation.run.get("scoring")]
    names = dict.fromkeys(name for one in known for name in one)
    usual = {name: Counter(str(one[name]) for one in known if name in one).most_common(1)[0][0] for name in names}
    here = [item for evaluation in cell.evaluations for item in (evaluation.run.get("scoring") or {}).items()]
    return [f"{name} {value} (most: {usual[name]})" for name, value in dict.fromkeys(here) if str(value) != usual[name]]


def target_selection(cell, test_set):
    """The validation files of a cell's stages that selected a checkpoint and lie in the folder of the test file: the
    target's own."""
    folder = Path(test_set.test["path"]).parent
    chains = [run for evaluation in cell.evaluations for run in evaluation.chain]
    found = [run["data"].get("valid") for run in chains if run.get("metric_for_best_model") != "last"]
    return list({data["sha256"]: data for data in found if data and Path(data["path"]).parent == folder}.values())


def label_share(test_set):
    """How many test rows carry the more frequent label."""
    labels = test_set.labels
    liked = float(labels.mean())
    share, name = max((liked, "Yes."), (1 - liked, "No."))
    subject = f"{test_set.target}: labels"
    text = f"{len(labels)} test rows, {share:.1%} {name!r}"
    if share == 1:
        return [Check("warning", subject, f"{text}: AUC is not defined")]
    return [Check("warning" if share >= ONE_SIDED else "ok", subject, text)]


def truncation(test_set, files):
    """Prompts that were cut to fit, in training, validation and test."""
    found, counted = [], False
    for cell in test_set.cells:
        cut = {}
        for evaluation in cell.evaluations:
            for run in (*evaluation.chain, evaluation.run):
                for part, count in (run.get("results", {}).get("truncated") or {}).items():
                    counted = True
                    if count:
                        path = files.shown(run["data"][part]) if part in run["data"] else part
                        cut[path] = max(count, cut.get(path, 0))
        if cut:
            text = ", ".join(f"prompts of {count} rows of {path}" for path, count in sorted(cut.items()))
            found.append((cell, "warning", f"{text} were cut; raise --cutoff_len"))
    if found or not counted:
        return merged(test_set, found)
    return [Check("ok", f"{test_set.target}: cut prompts", "none")]


def answer_mass(test_set):
    """Whether a model puts its probability on the two answers at all."""
    found = []
    for cell in test_set.cells:
        mass = float(np.mean([evaluation.metrics["answer_mass"] for evaluation in cell.evaluations]))
        if mass < SILENT:
            text = f"only {mass:.1%} of the probability is on the two answers: the model would often say something else"
            found.append((cell, "note", text))
    return merged(test_set, found)


def seeds(test_set):
    """Seeds that only other cells of the method have, and seeds that a cell has twice."""
    found = []
    for cell in test_set.cells:
        if cell.missing_seeds:
            found.append((cell, "warning", f"seeds missing: {', '.join(map(str, cell.missing_seeds))}"))
        if cell.repeated_seeds:
            repeated = ", ".join(map(str, cell.repeated_seeds))
            text = f"more than one run with seed {repeated}; all of them are in the mean"
            found.append((cell, "warning", text))
    return merged(test_set, found)


def environments(test_set):
    """Runs made from uncommitted or different code, or with different libraries."""
    runs = [run for evaluation in test_set.evaluations for run in (*evaluation.chain, evaluation.run)]
    checks = []
    revisions = {run["git"]["revision"][:10] for run in runs if run.get("git")}
    if len(revisions) > 1:
        text = f"runs of {len(revisions)} revisions: {', '.join(sorted(revisions))}"
        checks.append(Check("note", f"{test_set.target}: code", text))
    if any(run["git"]["dirty"] for run in runs if run.get("git")):
        checks.append(Check("note", f"{test_set.target}: code", "some runs were made from a checkout with changes"))
    for package in ("torch", "transformers", "peft"):
        versions = {run.get("versions", {}).get(package) for run in runs} - {None}
        if len(versions) > 1:
            text = f"runs with {package} {', '.join(sorted(versions))}"
            checks.append(Check("note", f"{test_set.target}: versions", text))
    return checks


def cell_name(cell):
    """A cell in words: "cot + source netflix, 16 shots"."""
    return f"{cell.method}, {shots_name(cell.shots)}"


def shots_name(shots):
    """0, 16 or -1 in words."""
    return {0: "zero-shot", -1: "all rows"}.get(shots, f"{shots} shots")
