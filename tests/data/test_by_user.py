"""Files cut by user: rec_data/draw_rows.py makes a smaller test set with all its users, instruction_data/split_users.py takes
validation users out of source records.

1. A draw keeps the same share of every user's rows, at least one, equally spaced; the seed says from where; the users inferred
   from the drawn rows are the true ones, or it is refused.
2. The draw does not move the uAUC of the rule that counts likes; rows that follow one another would.
3. A split has no user in both files, every row in one of them, in the order of the file; the record says what made them.
4. The same seed draws the same users, another one others; several files are joined.
5. What existed stays, and what cannot be cut is one line; then nothing is written.
"""

import importlib.util
import json
import random

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.synthetic import make_records, windows
from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import build_record, read_checked
from tlrec.data.records import labels_of, read_records, write_records
from tlrec.data.users import infer_users
from tlrec.evaluation.metrics import uauc
from tlrec.files import sha256

DRAW, SPLIT = "rec_data/draw_rows.py", "instruction_data/split_users.py"


def said(run_script, *words):
    status, out, err = run_script(*words)
    assert status == 0, err
    return out


# ------------------------------------------------------------------------------------------------------ 1. and 2. a draw


def draw_rows(*arguments):
    spec = importlib.util.spec_from_file_location("draw_rows", REPOSITORY / DRAW)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.draw_rows(*arguments)


def test_every_user_keeps_the_same_share_equally_spaced():
    users = np.repeat([0, 1, 2, 1], [40, 11, 2, 10])  # rows of user 1 in two places of the file
    places = draw_rows(users, 21, 0)
    assert np.bincount(users[places]).tolist() == [13, 7, 1]
    for user in (0, 1):
        kept = np.searchsorted(np.flatnonzero(users == user), places[users[places] == user])
        assert np.array_equal(np.diff(kept), np.full(len(kept) - 1, 3))
    assert np.array_equal(places, np.sort(places)) and np.array_equal(places, draw_rows(users, 21, 0))
    assert not np.array_equal(places, draw_rows(users, 21, 1))
    assert np.array_equal(draw_rows(users, 63, 0), np.arange(63))


def test_users_are_still_known(tmp_path, run_script):
    every = make_records(users=12, seed=0, windows_each=60)
    write_records(tmp_path / "test.json", every)
    words = [DRAW, tmp_path / "test.json", "--output", tmp_path / "drawn.json", "--rows"]
    out = said(run_script, *words, 180)
    assert out.startswith(f"{tmp_path / 'drawn.json'}: 180 of 720 rows, ") and " of 12 users, all that " in out
    records, preferences = read_checked(tmp_path / "drawn.json")
    true = [every.index(record) // 60 for record in records]
    assert infer_users(preferences, labels_of(records)).tolist() == true

    before = sha256(tmp_path / "drawn.json")
    assert "exists, and nothing is overwritten" in run_script(*words, 180)[2]
    assert sha256(tmp_path / "drawn.json") == before
    words[3] = tmp_path / "new.json"
    status, _, err = run_script(*words, 50)
    assert status == 2 and "--rows 50: the 12 users look like " in err and "give more rows" in err
    for rows in (0, 721):
        assert f"--rows {rows} --seed 0: give 1 to 720 rows" in run_script(*words, rows)[2]
    assert not (tmp_path / "new.json").exists()


def test_the_draw_does_not_move_the_uauc_of_counting_likes():
    rng, rows = np.random.default_rng(0), 100
    likes = rng.random((400, rows + 10)) < 0.55  # of 400 users, each depending on nothing
    counted = np.stack([likes[:, start : start + rows] for start in range(10)]).sum(axis=0)
    users, answers, counted = np.repeat(np.arange(400), rows), likes[:, 10:].ravel(), counted.ravel()
    drawn = draw_rows(users, 400 * 22, 0)
    first = np.concatenate([user * rows + np.arange(22) for user in range(400)])
    whole, spaced, run = (
        uauc(answers[places], counted[places], users[places]) for places in (slice(None), drawn, first)
    )
    assert abs(spaced - whole) < 0.02 and run < whole - 0.05, (whole, spaced, run)


# ---------------------------------------------------------------------------------------------------- 3. to 5. a split


def records_of(user, rows, rng):
    rated = [(f"{user} film {k}", rng.random() < 0.6) for k in range(rows + 10)]
    return [build_record(*window) for window in windows(rated)]


def user_of(record):
    return record["input"].rsplit('"', 2)[1].partition(" film ")[0]


@pytest.fixture
def source(tmp_path):
    rng = random.Random(0)
    records = [record for user in range(60) for record in records_of(f"user {user}", rng.randint(1, 9), rng)]
    write_records(tmp_path / "train.json", records)
    return tmp_path / "train.json"


def test_no_user_is_in_both_files(source, tmp_path, run_script):
    output = tmp_path / "by user"
    out = said(run_script, SPLIT, source, "--output", output, "--valid_rows", 70)
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
        assert made[name]["liked"] == pytest.approx(labels_of(part).mean(), abs=1e-4)
    assert f"train {len(train):6} records" in out and "no user is in both, 0 rows are" in out


def test_several_files_are_joined_and_the_seed_draws_the_users(source, tmp_path, run_script):
    other, drawn = tmp_path / "other.json", []
    write_records(other, records_of("other", 9, random.Random(1)))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        said(run_script, SPLIT, source, other, "--output", tmp_path / name, "--valid_rows", 70, "--seed", seed)
        parts = [read_records(tmp_path / name / f"{part}.json") for part in ("train", "valid")]
        inputs = sorted(record["input"] for part in parts for record in part)
        assert inputs == sorted(record["input"] for record in read_records(source) + read_records(other))
        drawn.append(parts[1])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (None, ["--valid_rows", "0"], "--valid_rows 0: give 1 to"),
        (None, ["--seed", "-1"], "--seed -1: give 0 or more"),
        (None, ["--output", "."], "--output .: exists, and nothing is overwritten"),
        (records_of("one", 9, random.Random(0)), ["--valid_rows", "8"], "1 users in 9 rows: valid would be empty"),
        ([{"instruction": "Rank.", "input": "", "output": "1. Night"}], [], "holds instruction records"),
    ],
)
def test_what_cannot_be_split(source, tmp_path, run_script, rows, flags, message):
    if rows:
        write_records(source, rows)
    status, _, err = run_script(SPLIT, source, "--output", tmp_path / "new", *flags)
    assert status == 2 and message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]


@pytest.mark.slow
def test_published_rows(shared_data, tmp_path, run_script):
    said(run_script, SPLIT, shared_data / "instruction_data/netflix/train.json", "--output", tmp_path / "new")
    files = {name: read_checked(tmp_path / "new" / f"{name}.json") for name in ("train", "valid")}
    users, (overlap,) = measure_overlap(files)
    assert (overlap.users, overlap.rows) == (0, 0)
    assert {name: len(rows) for name, (rows, _) in files.items()} == {"train": 7000, "valid": 1000}
    assert users == {"train": 1539, "valid": 225}
