"""A smaller test set with all its users: rec_data/draw_rows.py.

1. Every user keeps the same share of rows, at least one, which follow one another; the seed says from where.
2. On real Movie windows, users inferred from the drawn rows are the true ones; rows drawn singly would fall apart.
3. What existed stays, and what cannot be drawn is one line.
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
from tlrec.files import sha256

SCRIPT = "rec_data/draw_rows.py"


def draw_rows(*arguments):
    spec = importlib.util.spec_from_file_location("draw_rows", REPOSITORY / SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.draw_rows(*arguments)


def test_every_user_keeps_the_same_share_in_a_row():
    users = np.repeat([0, 1, 2, 1], [40, 10, 2, 10])  # rows of user 1 in two places of the file
    places = draw_rows(users, 31, 0)
    assert np.bincount(users[places]).tolist() == [20, 10, 1]
    for user in range(3):
        kept = np.searchsorted(np.flatnonzero(users == user), places[users[places] == user])
        assert np.array_equal(kept, np.arange(kept[0], kept[0] + len(kept)))
    assert np.array_equal(places, np.sort(places)) and np.array_equal(places, draw_rows(users, 31, 0))
    assert not np.array_equal(places, draw_rows(users, 31, 1))
    assert np.array_equal(draw_rows(users, 62, 0), np.arange(62))


@pytest.mark.slow
def test_users_are_still_known(shared_data, tmp_path, run_script):
    raw, output = shared_data / "raw" / "ml-100k", tmp_path / "by user"
    if not raw.exists():
        pytest.skip(f"no raw MovieLens ratings at {raw}")
    prepare("movie", raw, output, "--split", "user", "--last", "-1")
    status, out, err = run_script(SCRIPT, output / "test.json", "--rows", 2000, "--output", tmp_path / "test.json")
    assert status == 0, err
    said = out.replace(str(tmp_path), "")  # whose number may hold a 92
    assert "1995 of 9187 rows" in said and said.count("92") == 2
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
    for rows in (0, 9188):
        status, _, err = run_script(SCRIPT, output / "test.json", "--rows", rows, "--output", tmp_path / "new.json")
        assert status == 2 and f"--rows {rows} --seed 0: give 1 to 9187 rows" in err
    assert not (tmp_path / "new.json").exists()
