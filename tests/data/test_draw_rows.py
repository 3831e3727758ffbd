"""A smaller test set with all its users: rec_data/draw_rows.py.

1. Every user keeps the same share of rows, at least one, equally spaced; the seed says from where.
2. On real Movie windows, users inferred from the drawn rows are the true ones; with too few rows that is one line.
3. The draw does not move the uAUC of the rule that counts likes; rows that follow one another would.
4. What existed stays, and what cannot be drawn is one line.
"""

import csv
import importlib.util

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.preparation import prepare
from tlrec.data.preferences import read_checked
from tlrec.data.records import labels_of, read_records
from tlrec.data.users import infer_users
from tlrec.evaluation.metrics import uauc
from tlrec.files import sha256

SCRIPT = "rec_data/draw_rows.py"


def draw_rows(*arguments):
    spec = importlib.util.spec_from_file_location("draw_rows", REPOSITORY / SCRIPT)
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


def test_the_draw_does_not_move_the_uauc_of_counting_likes():
    random, rows = np.random.default_rng(0), 100
    likes = random.random((400, rows + 10)) < 0.55  # of 400 users, each depending on nothing
    counted = np.stack([likes[:, start : start + rows] for start in range(10)]).sum(axis=0)
    users, answers, counted = np.repeat(np.arange(400), rows), likes[:, 10:].ravel(), counted.ravel()
    drawn = draw_rows(users, 400 * 22, 0)
    first = np.concatenate([user * rows + np.arange(22) for user in range(400)])
    whole, spaced, run = (
        uauc(answers[places], counted[places], users[places]) for places in (slice(None), drawn, first)
    )
    assert abs(spaced - whole) < 0.02 and run < whole - 0.05, (whole, spaced, run)


@pytest.mark.slow
def test_users_are_still_known(shared_data, tmp_path, run_script):
    raw, output = shared_data / "raw" / "ml-100k", tmp_path / "by user"
    if not raw.exists():
        pytest.skip(f"no raw MovieLens ratings at {raw}")
    prepare("movie", raw, output, "--split", "user", "--last", "-1")
    status, out, err = run_script(SCRIPT, output / "test.json", "--rows", 2000, "--output", tmp_path / "test.json")
    assert status == 0, err
    said = out.replace(str(tmp_path), "")  # whose number may hold a 92
    assert "2001 of 9187 rows" in said and "of 92 users" in said
    every = [record["input"] for record in read_records(output / "test.json")]
    records, preferences = read_checked(tmp_path / "test.json")
    with open(output / "test.csv", newline="") as file:
        true = [row["user_id"] for row in csv.DictReader(file)]
    true = [true[every.index(record["input"])] for record in records]
    found = infer_users(preferences, labels_of(records)).tolist()
    assert len(set(true)) == 92 == len(set(zip(true, found)))  # one number for each user, and one user for each number
    before = sha256(tmp_path / "test.json")
    status, _, err = run_script(SCRIPT, output / "test.json", "--rows", 20, "--output", tmp_path / "test.json")
    assert status == 2 and "exists, and nothing is overwritten" in err and sha256(tmp_path / "test.json") == before
    status, _, err = run_script(SCRIPT, output / "test.json", "--rows", 900, "--output", tmp_path / "new.json")
    assert status == 2 and "--rows 900: the 92 users look like " in err and "give more rows" in err
    for rows in (0, 9188):
        status, _, err = run_script(SCRIPT, output / "test.json", "--rows", rows, "--output", tmp_path / "new.json")
        assert status == 2 and f"--rows {rows} --seed 0: give 1 to 9187 rows" in err
    assert not (tmp_path / "new.json").exists()
