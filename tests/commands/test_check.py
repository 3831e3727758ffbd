"""The record checker: python -m tlrec.check.

1. It counts rows, likes, histories, repeated and doubtful rows of each file.
2. It finds rows and users that train, valid and test share, as the true ids have it; the same file counts once.
3. It measures prompts in tokens when it is given a tokenizer.
4. A file that is not valid is one line with its path and row, and exit status 2.
"""

import json
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from tests.support.synthetic import preference
from tlrec.check import short_names
from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import build_record, read_checked
from tlrec.data.records import write_records
from tlrec.model.prompts import load_frame


@pytest.fixture(scope="module")
def check(run_script):
    return lambda *words: run_script("tlrec/check.py", *words)


def record(likes, dislikes, target, liked=True):
    return build_record(preference(likes, dislikes, target), liked)


def windows(user, count, first=0):
    """Records of one user who likes every title: eight of them predict the next."""
    titles = [f"{user}{k}" for k in range(30)]
    return [record(titles[k : k + 8], "", titles[k + 8]) for k in range(first, first + count)]


@pytest.fixture
def folder(tmp_path):
    write_records(tmp_path / "train.json", windows("a", 12) + windows("b", 6))
    write_records(tmp_path / "valid.json", windows("b", 5, first=5) + windows("c", 3))
    odd = [record("", "", "v"), record("v", "", "v"), record(['p "q', "r", "r"], "", "s")]
    write_records(tmp_path / "test.json", [record("xy", "z", "w", False)] * 2 + odd)
    return tmp_path


def test_counts_and_overlap(check, folder):
    lines = check(folder)[1].splitlines()
    assert lines[:6] == [
        f"{folder}/train.json",
        "  18 preference records",
        "  100.0% Yes",
        "  history: 8 to 8 (mean 8.0) items, 8 to 8 (mean 8.0) of them liked",
        "  repeated rows: 0",
        "  items repeated in a prompt: none",
    ]
    assert lines[14:] == [
        f"{folder}/test.json",
        "  5 preference records",
        "  60.0% Yes",
        "  history: 0 to 3 (mean 2.0) items, 0 to 3 (mean 1.6) of them liked",
        "  without any history: 1 (row 3)",
        "  repeated rows: 1",
        "  items repeated in a prompt: 2 (row 4, 5)",
        "  titles ambiguous to parse: 1 (row 5)",
        "users, inferred from overlapping windows",
        "  train.json: 2",
        "  valid.json: 2",
        "  test.json: 4",
        "  valid.json: 1 rows are in train.json too; 5 rows (62.5%) are of 1 users who are in train.json too",
        "  test.json: 0 rows are in train.json too; 0 rows (0.0%) are of 0 users who are in train.json too",
        "  test.json: 0 rows are in valid.json too; 0 rows (0.0%) are of 0 users who are in valid.json too",
    ]
    write_records(folder / "stage123.json", [{"instruction": "Recommend.", "input": "", "output": "1. a - b"}] * 2)
    found = check(folder / "stage123.json")[1].splitlines()
    assert found == [f"{folder}/stage123.json", "  2 instruction records", "  repeated rows: 1"]


def test_paths_of_any_kind_and_the_same_file_twice(check, folder, monkeypatch):
    """Absolute beside relative, through a link, or spelled otherwise: nothing counts twice."""
    monkeypatch.chdir(folder)
    (folder / "link").symlink_to(folder)
    (folder / "deep").mkdir()
    (folder / "deep" / "hard.json").hardlink_to(folder / "valid.json")
    again = ["train.json", folder / "train.json", "link/train.json", "deep/../train.json", "deep/hard.json"]
    lines = check(*again, folder / "valid.json")[1].splitlines()
    names = ["train.json"] * 3 + ["deep/hard.json"]
    assert [f"  is the same file as {name} and counts once" for name in names] == [
        line for line in lines if "same file" in line
    ]
    assert lines[lines.index("users, inferred from overlapping windows") + 1 :] == [
        "  train.json: 2",
        "  deep/hard.json: 2",
        "  deep/hard.json: 1 rows are in train.json too; 5 rows (62.5%) are of 1 users who are in train.json too",
    ]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/b/train.json", "a/c/train.json"], ["b/train.json", "c/train.json"]),
        (["/x/a.json", "rel.json"], ["/x/a.json", "rel.json"]),
        (["//host/share/x/a.json", "C:/x/b.json"], ["//host/share/x/a.json", "C:/x/b.json"]),
    ],
)
def test_names_without_the_common_folders(paths, names):
    kind = PureWindowsPath if any(":" in path for path in paths) else PurePosixPath
    assert [name.replace("\\", "/") for name in short_names([kind(path) for path in paths])] == names


@pytest.mark.slow
def test_published_movie_splits_have_the_true_users(shared_data):
    names = ("train", "valid", "test")
    files = {name: read_checked(shared_data / "rec_data" / "movie" / f"{name}.json") for name in names}
    users, overlaps = measure_overlap(files)
    assert users == {"train": 80, "valid": 14, "test": 16}  # counted from the ids in u.data
    shared = {(o.earlier, o.later): (o.rows, o.users) for o in overlaps}
    assert shared == {("train", "valid"): (0, 1), ("train", "test"): (0, 0), ("valid", "test"): (0, 1)}


def test_lengths_count_prompt_answer_and_both_ends(check, tiny_llama, pieces, tmp_path):
    write_records(tmp_path / "a.json", rows := windows("b", 1) * 2)
    length = len(pieces.encode(load_frame("alpaca").prompt(rows[0]) + "Yes.")) + 2
    two = len(pieces.encode('User Preference: "b0", "b1", ')) - 1
    flags = [tmp_path / "a.json", "--tokenizer", tiny_llama, "--cutoff_len"]
    spread = f"  tokens: {length} to {length} (mean {length}.0), 99th percentile {length}; "
    assert f"{spread}0 rows (0.0%) are longer than {length}\n" in check(*flags, length)[1]
    cut = f"2 rows (100.0%) are longer than {length - two}, and lose 4 of all 16 titles in histories\n"
    assert f"{spread}{cut}" in check(*flags, length - two)[1]


TEXT = {"instruction": "i", "input": "x"}


def test_mistakes_are_one_line(check, folder):
    empty, bad = folder / "empty", folder / "bad.json"
    empty.mkdir()
    for rows, message in (
        ([{**TEXT, "output": "Yes."}], "row 1: 'input' does not parse: expected 'User Preference"),
        ([record("a", "", "b"), {**TEXT, "output": "Maybe"}], "row 2: 'output' must be 'Yes.' or 'No.'"),
        ([1], "row 1: a record is a JSON object, this is a int (1 of 1 rows)"),
    ):
        bad.write_text(json.dumps(rows))
        status, out, err = check(bad)
        assert (status, out) == (2, "") and err.startswith(f"error: {bad}: {message}") and err.count("\n") == 1
    for words, message in (
        ([folder / "nowhere.json"], f"{folder}/nowhere.json: no such file"),
        ([empty], f"{empty}: holds no train.json, valid.json or test.json"),
        ([folder, "--tokenizer", empty], f"--tokenizer {empty}: no tokenizer there"),
    ):
        status, _, err = check(*words)
        assert status == 2 and err.startswith(f"error: {message}")
