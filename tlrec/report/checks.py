"""Leak and sanity checks: what to know before trusting a number."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tlrec.errors import InputError
from tlrec.report.cells import shots_name

ONE_SIDED = 0.9  # if one label has this share, accuracy says little
SILENT = 0.5  # with less probability on the two answers, the model has not understood the question


@dataclass(frozen=True)
class Check:
    """level: "ok", "note" or "warning"; subject: what was looked at; text: what was found, in a sentence."""

    level: str
    subject: str
    text: str


def check(test_sets, files):
    """All checks of all test sets, warnings first; files: the DataFiles."""
    found = []
    for test_set in test_sets:
        found += shared_rows(test_set, files)
        found += labels(test_set)
        found += of_cells(test_set, files)
        found += environments(test_set)
    levels = ("warning", "note", "ok")
    return sorted(dict.fromkeys(found), key=lambda one: levels.index(one.level))


def shared_rows(test_set, files):
    """Rows and users shared between the files of training, validation and test, pair by pair."""
    by_part = {"train": {}, "valid": {}, "test": {test_set.test["sha256"]: test_set.test}}
    for evaluation in test_set.evaluations:
        for run in (*evaluation.chain, evaluation.run):
            for part in ("train", "valid"):
                if data := run["data"].get(part):
                    by_part[part].setdefault(data["sha256"], data)
    for one, other in combinations(by_part, 2):
        for first in by_part[one].values():
            for second in by_part[other].values():
                subject = f"{files.shown(first)} ({one}) and {files.shown(second)} ({other})"
                if first["sha256"] == second["sha256"]:
                    yield Check("warning", subject, "the same rows")
                    continue
                try:
                    yield overlap_check(subject, files.overlap(first, second), second["rows"])
                except InputError as error:
                    yield Check("note", subject, f"not compared: {error}")


def overlap_check(subject, found, rows):
    """What a file of `rows` rows shares with an earlier one, as a Check."""
    if found.users is None:
        text = f"shared rows: {found.rows}; users not compared, because not all rows are preference records"
    else:
        text = f"shared rows: {found.rows}; shared users: {found.users}"
        text += f", with {found.user_rows} rows ({found.user_rows / rows:.1%}) of the latter" if found.users else ""
    return Check("warning" if found.rows or found.users else "ok", subject, text)


def labels(test_set):
    """How many test rows carry the more frequent label."""
    liked, rows = float(test_set.labels.mean()), len(test_set.labels)
    share, name = max((liked, "Yes."), (1 - liked, "No."))
    text = f"{rows} test rows, {share:.1%} {name!r}" + (": AUC is not defined" if share == 1 else "")
    yield Check("warning" if share >= ONE_SIDED else "ok", f"{test_set.target}: labels", text)


def of_cells(test_set, files):
    """What is to be known of single cells; one Check for each text, naming its cells."""
    found, counted = {}, False
    for cell in test_set.cells:
        texts = [*selection(cell), *seeds(cell), *silence(cell)]
        if other := other_scoring(cell, test_set):
            texts.append(("warning", f"scored with {', '.join(other)}"))
        cut, known = cut_prompts(cell, files)
        counted = counted or known
        if cut:
            rows = ", ".join(f"prompts of {count} rows of {path}" for path, count in sorted(cut.items()))
            texts.append(("warning", f"{rows} were cut; raise --cutoff_len"))
        for key in texts:
            found.setdefault(key, []).append(f"{cell.method}, {shots_name(cell.shots)}")
    for (level, text), names in found.items():
        yield Check(level, f"{test_set.target}: {'; '.join(names)}", text)
    if counted and not any("were cut" in text for _, text in found):
        yield Check("ok", f"{test_set.target}: cut prompts", "none")


def selection(cell):
    """Zero-shot whose checkpoint labelled target rows selected, and whatever test rows selected."""
    if " test rows" in cell.selected:
        yield "warning", f"checkpoints were selected by {cell.selected}: the result is of no use"
    elif cell.shots == 0 and " target rows" in cell.selected:
        yield (
            "note",
            f"checkpoints were selected by {cell.selected}, so this is zero-shot only in its training; VALID=source in "
            "the launcher selects on source data",
        )


def seeds(cell):
    """Seeds that only other cells of the method have, and seeds that a cell has twice."""
    if cell.missing_seeds:
        yield "warning", f"seeds missing: {', '.join(map(str, cell.missing_seeds))}"
    if cell.repeated_seeds:
        repeated = ", ".join(map(str, cell.repeated_seeds))
        yield "warning", f"more than one run with seed {repeated}; all of them are in the mean"


def silence(cell):
    """Whether a model puts its probability on the two answers at all."""
    mass = float(np.mean([evaluation.metrics["answer_mass"] for evaluation in cell.evaluations]))
    if mass < SILENT:
        said = "the model would often say something else"
        yield "note", f"only {mass:.1%} of the probability is on the two answers: {said}"


def other_scoring(cell, test_set):
    """Settings that affect this cell's scores and differ from most evaluations of the test set: a list of words. Their
    differences to others do not come from the method alone."""
    known = [evaluation.run["scoring"] for evaluation in test_set.evaluations if evaluation.run.get("scoring")]
    names = dict.fromkeys(name for one in known for name in one)
    usual = {name: Counter(str(one[name]) for one in known if name in one).most_common(1)[0][0] for name in names}
    here = [item for evaluation in cell.evaluations for item in (evaluation.run.get("scoring") or {}).items()]
    return [f"{name} {value} (most: {usual[name]})" for name, value in dict.fromkeys(here) if str(value) != usual[name]]


def cut_prompts(cell, files):
    """({path: rows with a prompt cut to fit}, whether they were counted), in training, validation and test."""
    cut, counted = {}, False
    for evaluation in cell.evaluations:
        for run in (*evaluation.chain, evaluation.run):
            for part, count in (run["results"].get("truncated") or {}).items():
                counted = True
                path = files.shown(run["data"][part]) if part in run["data"] else part
                cut[path] = max(count, cut.get(path, 0))
    return {path: count for path, count in cut.items() if count}, counted


def environments(test_set):
    """Runs made from uncommitted or different code, or with different libraries."""
    runs = [run for evaluation in test_set.evaluations for run in (*evaluation.chain, evaluation.run)]
    gits = [run["git"] for run in runs if run["git"]]
    revisions = sorted({git["revision"][:10] for git in gits})
    if len(revisions) > 1:
        yield Check("note", f"{test_set.target}: code", f"runs of {len(revisions)} revisions: {', '.join(revisions)}")
    if any(git["dirty"] for git in gits):
        yield Check("note", f"{test_set.target}: code", "some runs were made from a checkout with changes")
    for package in ("torch", "transformers", "peft"):
        versions = sorted({run["versions"].get(package) for run in runs} - {None})
        if len(versions) > 1:
            yield Check("note", f"{test_set.target}: versions", f"runs with {package} {', '.join(versions)}")
