"""Leak and sanity checks: what to know before trusting a number."""

from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd

from tlrec.errors import InputError
from tlrec.report.cells import shots_name
from tlrec.report.collect import revision_of

ONE_SIDED = 0.9  # if one label has this share, accuracy says little
SILENT = 0.5  # with less probability on the two answers, the model has not understood the question
LEVELS = ("warning", "note", "ok")


def check(test_sets, files):
    """All checks of all test sets as a table, warnings first: level (of LEVELS), what was looked at, what was found.
    files: the DataFiles."""
    found = []
    for test_set in test_sets:
        found += [*shared_rows(test_set, files), *labels(test_set), *of_cells(test_set, files), *code(test_set)]
    table = pd.DataFrame(found, columns=["", "What", "Found"]).drop_duplicates()
    return table.sort_values("", key=lambda levels: levels.map(LEVELS.index), kind="stable")


def shared_rows(test_set, files):
    """Rows and users shared between the files of training, validation and test, pair by pair."""
    by_part = {"train": {}, "valid": {}, "test": {test_set.test["sha256"]: test_set.test}}
    for run in (run for evaluation in test_set.evaluations for run in evaluation.runs):
        for part in ("train", "valid"):
            if data := run["data"].get(part):
                by_part[part].setdefault(data["sha256"], data)
    for one, other in combinations(by_part, 2):
        for first, second in ((a, b) for a in by_part[one].values() for b in by_part[other].values()):
            subject = f"{files.shown(first)} ({one}) and {files.shown(second)} ({other})"
            if first["sha256"] == second["sha256"]:
                yield "warning", subject, "the same rows"
                continue
            try:
                found = files.overlap(first, second)
            except InputError as error:
                yield "note", subject, f"not compared: {error}"
                continue
            text = f"shared rows: {found.rows}; shared users: {found.users}"
            if found.users is None:
                text = f"shared rows: {found.rows}; users not compared, because not all rows are preference records"
            elif found.users:
                share = found.user_rows / second["rows"]
                text += f", with {found.user_rows} rows ({share:.1%}) of the latter"
            yield "warning" if found.rows or found.users else "ok", subject, text


def labels(test_set):
    """How many test rows carry the more frequent label."""
    liked, rows = float(test_set.labels.mean()), len(test_set.labels)
    share, name = max((liked, "Yes."), (1 - liked, "No."))
    text = f"{rows} test rows, {share:.1%} {name!r}" + (": AUC is not defined" if share == 1 else "")
    yield "warning" if share >= ONE_SIDED else "ok", f"{test_set.target}: labels", text


def of_cells(test_set, files):
    """What is to be known of single cells; one line for each text, naming its cells."""
    found = {}
    for cell in test_set.cells:
        seeds = {seed for one in test_set.cells if one.method == cell.method and one.shots for seed in one.seeds}
        for key in of_cell(cell, seeds - {None} if cell.shots else set(), files):
            found.setdefault(key, []).append(f"{cell.method}, {shots_name(cell.shots)}")
    for (level, text), names in found.items():
        yield level, f"{test_set.target}: {'; '.join(names)}", text


def of_cell(cell, seeds, files):
    """(level, text) about selection, seeds, silent models, scoring settings and cut prompts of one cell. seeds: those
    of its method at any number of shots."""
    selected = f"checkpoints were selected by {cell.selected}"
    if " test rows" in cell.selected:
        yield "warning", f"{selected}: the result is of no use"
    elif cell.shots == 0 and " target rows" in cell.selected:
        hint = "VALID=source in the launcher selects on source data"
        yield "note", f"{selected}, so this is zero-shot only in its training; {hint}"
    if missing := sorted(seeds - set(cell.seeds)):
        yield "warning", f"seeds missing: {', '.join(map(str, missing))}"
    if repeated := [str(seed) for seed, times in Counter(cell.seeds).items() if seed is not None and times > 1]:
        yield "warning", f"more than one run with seed {', '.join(repeated)}; all of them are in the mean"
    mass = float(np.mean([evaluation.metrics["answer_mass"] for evaluation in cell.evaluations]))
    if mass < SILENT:
        silent = f"only {mass:.1%} of the probability is on the two answers"
        yield "note", f"{silent}: the model would often say something else"
    if cell.other_scoring:
        yield "warning", f"scored with {', '.join(cell.other_scoring)}"
    cut = {}
    for run in (run for evaluation in cell.evaluations for run in evaluation.runs):
        for part, count in (run["results"].get("truncated") or {}).items():
            path = files.shown(run["data"][part]) if part in run["data"] else part
            cut[path] = max(count, cut.get(path, 0))
    if rows := ", ".join(f"prompts of {count} rows of {path}" for path, count in sorted(cut.items()) if count):
        yield "warning", f"{rows} were cut; raise --cutoff_len"


def code(test_set):
    """Runs made from uncommitted or different code, or with different libraries."""
    runs = [run for evaluation in test_set.evaluations for run in evaluation.runs]
    told = {name: {run["versions"].get(name) for run in runs} for name in ("torch", "transformers", "peft")}
    told["revision"] = set(map(revision_of, runs))
    for name, values in told.items():
        values = sorted(values - {None})
        if len(values) > 1 or any(value.endswith("+ changes") for value in values):
            yield "note", f"{test_set.target}: code", f"runs with {name} {', '.join(values)}"
