"""The record checker: python -m tlrec.check.

1. It counts rows, likes, histories, repeated and doubtful rows of each file.
2. It finds rows and users that train, valid and test share, as the true ids have it.
3. It measures prompts in tokens when it is given a tokenizer.
4. A file that is not valid is one line with its path and row, and exit status 2.
"""

import json
import runpy
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from tlrec import check
from tlrec.check import describe_lengths, main, short_names
from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import Item, Preference, build_record, read_checked
from tlrec.data.records import write_records
from tlrec.errors import InputError
from tlrec.model.prompts import load_frame


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
        [record("x y", "z", "w", False)] * 2
        + [record("", "", "v", True), record("v", "", "v", True)]
        + [build_record(Preference((Item('p "q'), Item("r"), Item("r")), (), Item("s"), "movie"), True)],
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


def test_paths_of_any_kind_and_the_same_file_twice(folder, capsys, monkeypatch):
    """Absolute beside relative, through a link, or spelled otherwise: nothing counts twice."""
    monkeypatch.chdir(folder)
    (folder / "link").symlink_to(folder)
    (folder / "deep").mkdir()
    (folder / "deep" / "hard.json").hardlink_to(folder / "valid.json")
    again = ["train.json", str(folder / "train.json"), "link/train.json", "deep/../train.json", "deep/hard.json"]
    main([*again, str(folder / "valid.json")])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "same file" in line] == 3 * [
        "  is the same file as train.json and counts once"
    ] + ["  is the same file as deep/hard.json and counts once"]
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
        (["/x/y/a.json", "/x/b.json"], ["y/a.json", "b.json"]),
        (["/x/a.json"], ["a.json"]),
        (["C:/x/a.json", "D:/x/a.json", "b.json"], ["C:/x/a.json", "D:/x/a.json", "b.json"]),
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
    assert [(o.earlier, o.later, o.rows, o.users) for o in overlaps] == [
        ("train", "valid", 0, 1),
        ("train", "test", 0, 0),
        ("valid", "test", 0, 1),
    ]


class Words:
    """A tokenizer with one id for a word, a line end or a full stop."""

    bos_token_id, eos_token_id, words = 1, 2, [" pad", " bos", " eos"]

    def __call__(self, texts, add_special_tokens):
        marked = [text.replace("\n", " \n ").replace(".", " .").split(" ") for text in texts]
        self.words += sorted({word for text in marked for word in text} - set(self.words))
        return {"input_ids": [[self.words.index(word) for word in text] for text in marked]}

    def decode(self, ids, **_):
        return " ".join(self.words[place] for place in ids)


def test_lengths_count_prompt_answer_and_both_ends(folder):
    records, preferences = read_checked(folder / "train.json")
    frame = load_frame("alpaca")
    (length,) = {len(Words()([frame.prompt(row) + row["output"]], False)["input_ids"][0]) + 2 for row in records}
    line = describe_lengths(records, preferences, Words(), frame, cutoff_len=length - 4)
    assert line == (  # of each row: User, Preference:, and two of its eight titles
        f"tokens: {length} to {length} (mean {length}.0), 99th percentile {length}; "
        f"18 rows (100.0%) are longer than {length - 4}, and lose 36 of all 144 titles in histories"
    )
    assert describe_lengths(records, preferences, Words(), frame, cutoff_len=length).endswith(
        f"; 0 rows (0.0%) are longer than {length}"
    )


def test_instruction_records_have_free_answers(tmp_path, capsys):
    path = tmp_path / "stage123.json"
    write_records(path, [{"instruction": "Recommend.", "input": "", "output": f"1. a - {k % 2}"} for k in range(3)])
    main([str(path)])
    assert capsys.readouterr().out.splitlines() == [str(path), "  3 instruction records", "  repeated rows: 1"]


TEXT = {"instruction": "i", "input": "x"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**TEXT, "output": "Yes."}], "row 1: 'input' does not parse: expected 'User Preference"),
        ([record("a", "", "b", True), {**TEXT, "output": "Maybe"}], "row 2: 'output' must be 'Yes.' or 'No.'"),
        ([1], "row 1: a record is a JSON object, this is a int (1 of 1 rows)"),
    ],
)
def test_invalid_files(tmp_path, monkeypatch, capsys, rows, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setattr("sys.argv", ["check", str(path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(check.__file__, run_name="__main__")
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and err.startswith(f"error: {path}: {message}") and err.count("\n") == 1


def test_paths_and_tokenizers_that_are_not_there(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([tmp_path / "nowhere.json"], "nowhere.json: no such file"),
        ([tmp_path / "empty"], "empty: holds no train.json, valid.json or test.json"),
        ([folder, "--tokenizer", tmp_path / "empty"], "--tokenizer .*empty: no tokenizer there"),
    ):
        with pytest.raises(InputError, match=message):
            main(list(map(str, arguments)))
