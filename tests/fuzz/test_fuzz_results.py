"""run.json, metrics.json and predictions.jsonl with any damage.

1. Any value of theirs replaced or left out, and any bytes: read, or an InputError of one line that names the file.
2. The report lists a damaged run and is about the others as before.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import as_json, damaged, values
from tests.support.synthetic import evaluate, make_records, score, tune
from tlrec.data.records import read_records, write_records
from tlrec.errors import InputError
from tlrec.evaluation.results import read_evaluation
from tlrec.report import cells, checks, collect, datafiles, tables
from tlrec.runs import read_run

pytestmark = pytest.mark.slow

FILES = ("run.json", "metrics.json", "predictions.jsonl")


class Contents(dict):
    """{name of a file: its bytes}; pages of them would hide what a failing test says."""

    def __repr__(self):
        return "contents"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A run of two stages and its evaluation, and another one that stays as it is; with the contents of the files."""
    root = tmp_path_factory.mktemp("fuzz results")
    paths = {name: root / f"{name}.json" for name in ("source", "train", "valid", "test")}
    for seed, path in enumerate(paths.values()):
        write_records(path, make_records(users=3, seed=seed, windows_each=4))
    test, train = read_records(paths["test"]), read_records(paths["train"])
    source = tune(root / "source", paths, "source", history=[(10, 0.6), (20, 0.66)], source="netflix")
    run = tune(root / "run", paths, "few-shot", source, 16, 0, history=[(10, 0.6), (20, 0.66)])
    evaluate(run, paths["test"], test, *score(test, 0.3, 2), run, train)
    evaluate(root / "other", paths["test"], test, *score(test, 0, 1), train_records=train)
    return root, Contents((name, (run / name).read_bytes()) for name in FILES)


@st.composite
def changed_json(draw, content):
    """`content` (bytes of JSON) with one value somewhere in it replaced or left out."""
    value = json.loads(content)
    holder, place = None, None
    inner = value
    while isinstance(inner, (dict, list)) and inner and (holder is None or draw(st.integers(0, 4))):
        place = draw(st.sampled_from(sorted(inner)) if isinstance(inner, dict) else st.integers(0, len(inner) - 1))
        holder, inner = inner, inner[place]
    if draw(st.booleans()):
        holder[place] = draw(st.one_of(values, st.sampled_from([None, {}, [], "x", -1, 1e308, 2**60, float("nan")])))
    else:
        del holder[place]
    return as_json(value).encode()


def check(root, contents, name, content):
    folder = root / "run"
    for each, good in contents.items():
        (folder / each).write_bytes(content if each == name else good)
    for read in (read_run, read_evaluation):
        try:
            read(folder)
        except InputError as error:
            assert len(str(error).splitlines()) == 1 and str(error).startswith(str(folder))
    workspace = collect.collect(root)
    files = datafiles.DataFiles(root)
    test_sets = cells.test_sets(workspace.evaluations, files, workspace.problems)
    pictures = {one.target: {} for one in test_sets} | {None: {}}
    tables.sections(test_sets, checks.check(test_sets, files), workspace, pictures)
    found = {evaluation.folder for evaluation in workspace.evaluations}
    assert "other" in found
    assert "run" in found | {folder for folder, _ in workspace.problems}
    assert all(len(text.splitlines()) == 1 for _, text in workspace.problems)


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
@given(st.data())
@pytest.mark.slow
def test_any_value_changed(workspace, name, data):
    root, contents = workspace
    check(root, contents, name, data.draw(changed_json(contents[name])))


@given(st.data())
def test_any_value_of_a_prediction_changed(workspace, data):
    root, contents = workspace
    lines = contents["predictions.jsonl"].splitlines(keepends=True)
    row = data.draw(st.integers(0, len(lines) - 1))
    lines[row] = data.draw(changed_json(lines[row])) + b"\n"
    check(root, contents, "predictions.jsonl", b"".join(lines))


@pytest.mark.parametrize("name", FILES)
@given(damaged())
@pytest.mark.slow
def test_any_bytes_changed(workspace, name, damage):
    root, contents = workspace
    check(root, contents, name, damage(contents[name]))


@pytest.mark.parametrize("name", FILES)
@given(values, st.integers(1, 200_000))
@pytest.mark.slow
def test_any_json_and_any_depth(workspace, name, value, depth):
    root, contents = workspace
    check(root, contents, name, as_json(value).encode() + b"\n")
    check(root, contents, name, b"[" * depth + b"]" * depth)
