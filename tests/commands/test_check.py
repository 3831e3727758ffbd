"""The record checker: python -m tlrec.check.

1. It counts rows, likes, histories, repeated and doubtful rows of each file.
2. It finds rows and users that train, valid and test share, as the true ids have it.
3. It measures prompts in tokens when it is given a tokenizer.
4. A file that is not valid is one line with its path and row, and exit status 2.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tlrec.check import describe_lengths, main
from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import Item, Preference, build_record, read_checked
from tlrec.data.records import FORM, write_records
from tlrec.errors import InputError
from tlrec.model.prompts import load_frame

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def record(likes, dislikes, target, liked):
    items = [tuple(Item(title) for title in titles.split()) for titles in (likes, dislikes)]
    return build_record(Preference(*items, Item(target), "movie"), liked)


def windows(titles, count):
    """Records of one user who likes every title: eight of them predict the next."""
    return [record(" ".join(titles[k : k + 8]), "", titles[k + 8], liked=True) for k in range(count)]


@pytest.fixture
def folder(tmp_path):
    ann, bob, cat = ([f"{user}{k}" for k in range(30)] for user in "abc")
    write_records(tmp_path / "train.json", windows(ann, 12) + windows(bob, 6))
    write_records(tmp_path / "valid.json", windows(bob, 10)[5:] + windows(cat, 3))
    write_records(
        tmp_path / "test.json",
        [record("x y", "z", "w", False), record("x y", "z", "w", False), record("", "", "v", True)]
        + [build_record(Preference((Item('p "q'), Item("r")), (), Item("s"), "movie"), True)],
    )
    return tmp_path


def test_counts_and_overlap(folder, capsys):
    main([str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        f"{folder}/train.json",
        "  18 preference records",
        "  100.0% Yes",
        "  history: 8 to 8 (mean 8.0) items, 8 to 8 (mean 8.0) of them liked",
        "  repeated rows: 0",
        "  titles ambiguous to parse: none",
    ]
    assert lines[12:] == [
        f"{folder}/test.json",
        "  4 preference records",
        "  50.0% Yes",
        "  history: 0 to 3 (mean 2.0) items, 0 to 2 (mean 1.5) of them liked",
        "  without any history: 1 (row 3)",
        "  repeated rows: 1",
        "  titles ambiguous to parse: 1 (row 4)",
        "users, inferred from overlapping windows",
        "  train.json: 2",
        "  valid.json: 2",
        "  test.json: 3",
        "  valid.json: 1 rows are in train.json too; 5 rows (62.5%) are of 1 users who are in train.json too",
        "  test.json: 0 rows are in train.json too; 0 rows (0.0%) are of 0 users who are in train.json too",
        "  test.json: 0 rows are in valid.json too; 0 rows (0.0%) are of 0 users who are in valid.json too",
    ]


@pytest.mark.slow
def test_published_movie_splits_have_the_true_users(shared_data):
    names = ("train", "valid", "test")
    files = {name: read_checked(shared_data / "rec_data" / "movie" / f"{name}.json") for name in names}
    users, overlaps = measure_overlap(files)
    assert users == {"train": 80, "valid": 14, "test": 16}  # counted from the ids in u.data
    assert [(o.earlier, o.later, o.rows, o.users) for o in overlaps] == [
        ("train", "valid", 0, 1),
        ("train", "test", 0, 0),
        ("valid", "test", 0, 1),
    ]


def test_instruction_records_have_free_answers(tmp_path, capsys):
    path = tmp_path / "stage123.json"
    write_records(path, [{"instruction": "Recommend.", "input": "", "output": f"1. a - {k % 2}"} for k in range(3)])
    main([str(path)])
    assert capsys.readouterr().out.splitlines() == [str(path), "  3 instruction records", "  repeated rows: 1"]


class Words:
    """A tokenizer with one id for a word, a line end or a full stop."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, texts, add_special_tokens):
        ids = {}
        marked = [text.replace("\n", " \n ").replace(".", " .") for text in texts]
        return {"input_ids": [[ids.setdefault(word, len(ids) + 3) for word in text.split(" ")] for text in marked]}

    def decode(self, ids, **_):
        return "".join(map(chr, ids))


def test_lengths_count_prompt_answer_and_both_ends(folder):
    records, _ = read_checked(folder / "train.json")
    (length,) = {
        len(Words()([load_frame("alpaca").prompt(row) + row["output"]], False)["input_ids"][0]) + 2 for row in records
    }
    line = describe_lengths(records, Words(), load_frame("alpaca"), cutoff_len=length - 1)
    assert line == (
        f"tokens: {length} to {length} (mean {length}.0), 99th percentile {length}; "
        f"18 rows (100.0%) are longer than {length - 1}"
    )
    assert "; 0 rows (0.0%)" in describe_lengths(records, Words(), load_frame("alpaca"), cutoff_len=length)


TEXT = {"instruction": "i", "input": "x"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**TEXT, "output": "Yes."}], "row 1: 'input' does not parse: expected 'User Preference"),
        ([record("a", "", "b", True), {**TEXT, "output": "Maybe"}], "row 2: 'output' must be 'Yes.' or 'No.'"),
        ([record("a", "", "b", True), {"input": "x", "output": "No."}], "row 2: the field 'instruction' is missing"),
    ],
)
def test_invalid_files(tmp_path, rows, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError) as error:
        main([str(path)])
    assert str(error.value).startswith(f"{path}: {message}")


def test_paths_and_tokenizers_that_are_not_there(tmp_path, folder):
    with pytest.raises(InputError, match="nowhere.json: no such file"):
        main([str(tmp_path / "nowhere.json")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no train.json, valid.json or test.json"):
        main([str(tmp_path / "empty")])
    with pytest.raises(InputError, match="--tokenizer .*empty: no tokenizer there"):
        main([str(folder), "--tokenizer", str(tmp_path / "empty")])


def test_command_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]")
    command = [sys.executable, "-m", "tlrec.check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {path}: row 1: a record is a JSON object, this is a int (1 of 1 rows); {FORM}\n"
