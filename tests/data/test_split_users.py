"""Validation users out of source records: instruction_data/split_users.py.

1. No user is in both files, every row is in one of them, in the order of the file; the record says what made them.
2. The same seed draws the same users, another one others; several files are joined.
3. What existed stays, and what cannot be split is one line; then nothing is written.
4. Published source rows: no user in both.
"""

import json
import random

import pytest

from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import Item, Preference, build_record, read_checked
from tlrec.data.records import read_records, write_records
from tlrec.files import sha256

SCRIPT = "instruction_data/split_users.py"


def windows(user, rows, rng):
    """Records of one user: ten ratings in a row predict the next, as in the published files."""
    rated = [(Item(f"{user} film {k}"), rng.random() < 0.6) for k in range(rows + 10)]
    for k in range(rows):
        history = rated[k : k + 10]
        likes, dislikes = (tuple(item for item, liked in history if liked == wanted) for wanted in (True, False))
        target, liked = rated[k + 10]
        yield build_record(Preference(likes, dislikes, target, "movie"), liked)


def user_of(record):
    return record["input"].rsplit('"', 2)[1].partition(" film ")[0]


@pytest.fixture
def source(tmp_path):
    rng = random.Random(0)
    records = [record for user in range(60) for record in windows(f"user {user}", rng.randint(1, 9), rng)]
    write_records(tmp_path / "train.json", records)
    return tmp_path / "train.json"


def split(run_script, *arguments):
    status, out, err = run_script(SCRIPT, *arguments)
    assert status == 0, err
    return out


def test_no_user_is_in_both_files(source, tmp_path, run_script):
    output = tmp_path / "by user"
    out = split(run_script, source, "--output", output, "--valid_rows", 70)
    records, train, valid = (read_records(path) for path in (source, output / "train.json", output / "valid.json"))
    users = [{user_of(record) for record in part} for part in (train, valid)]
    assert not users[0] & users[1] and len(users[0] | users[1]) == 60
    assert train == [r for r in records if user_of(r) in users[0]]
    assert valid == [r for r in records if user_of(r) in users[1]]
    assert 61 <= len(valid) <= 70  # no user has ten rows, so one more would fit below that
    made = json.loads((output / "split.json").read_text())
    assert made["records"] == {str(source): {"rows": len(records), "sha256": sha256(source)}}
    assert (made["seed"], made["valid_rows"], made["rows of valid that train repeats"]) == (0, 70, 0)
    for name, part, its_users in zip(("train", "valid"), (train, valid), users):
        assert (made[name]["rows"], made[name]["users"]) == (len(part), len(its_users))
        assert made[name]["sha256"] == sha256(output / f"{name}.json")
        assert made[name]["liked"] == pytest.approx(sum(r["output"] == "Yes." for r in part) / len(part), abs=1e-4)
    assert f"train {len(train):6} records" in out and "no user is in both, 0 rows are" in out


def test_several_files_are_joined_and_the_seed_draws_the_users(source, tmp_path, run_script):
    other, drawn = tmp_path / "other.json", []
    write_records(other, list(windows("other", 9, random.Random(1))))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(run_script, source, other, "--output", tmp_path / name, "--valid_rows", 70, "--seed", seed)
        parts = [read_records(tmp_path / name / f"{part}.json") for part in ("train", "valid")]
        inputs = sorted(record["input"] for part in parts for record in part)
        assert inputs == sorted(record["input"] for record in read_records(source) + read_records(other))
        drawn.append(parts[1])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (None, ["--valid_rows", "0"], "--valid_rows 0: give 1 to"),
        (None, ["--valid_rows", "99999"], "--valid_rows 99999: give 1 to"),
        (None, ["--seed", "-1"], "--seed -1: give 0 or more"),
        (None, ["--output", "."], "--output .: exists, and nothing is overwritten"),
        (list(windows("one", 9, random.Random(0))), ["--valid_rows", "8"], "1 users in 9 rows: valid would be empty"),
        ([{"instruction": "Rank.", "input": "", "output": "1. Night"}], [], "holds instruction records"),
    ],
)
def test_what_cannot_be_split(source, tmp_path, run_script, rows, flags, message):
    if rows:
        write_records(source, rows)
    status, _, err = run_script(SCRIPT, source, "--output", tmp_path / "new", *flags)
    assert status == 2 and message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]


@pytest.mark.slow
def test_published_rows(shared_data, tmp_path, run_script):
    source = shared_data / "instruction_data" / "netflix" / "train.json"
    split(run_script, source, "--output", tmp_path / "new")
    files = {name: read_checked(tmp_path / "new" / f"{name}.json") for name in ("train", "valid")}
    users, (overlap,) = measure_overlap(files)
    assert (overlap.users, overlap.rows) == (0, 0)
    assert {name: len(rows) for name, (rows, _) in files.items()} == {"train": 7000, "valid": 1000}
    assert users == {"train": 1539, "valid": 225}
