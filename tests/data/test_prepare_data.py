"""What rec_data/prepare_data.py and instruction_data/prepare_data.py share; the tests of each source stand in files of its own.

1. Windows are those of the plain definition, whatever is left unsorted for speed; the splits keep what they promise.
2. Arguments that do not fit each other are one line, and no output appears.
3. What existed is not overwritten unasked, and a broken run leaves nothing behind.
"""

import random
import runpy

import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.support.preparation import U_DATA, expect_error, prepare, run
from tlrec.data.preparation import FILES, Example, last_windows, shuffled_histories, split_examples
from tlrec.errors import InputError

# -------------------------------------------------------------------------------------------- 1. windows and splits


def random_ratings(seed, users=9, count=120):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": rng.integers(0, users, count),
            "item": rng.permutation(count),
            "rating": rng.integers(1, 6, count),
            "timestamp": rng.integers(0, 40, count).astype(str),
        }
    ).assign(order=lambda table: table["timestamp"])


@pytest.mark.parametrize("last", [1, 7, 50, 10_000, -1])
def test_windows_are_those_of_the_definition(last):
    ratings = random_ratings(seed=last + 2)
    by_user = {}
    for row in ratings.itertuples(index=False):
        by_user.setdefault(row.user, []).append(row)
    expected = []
    for rated in by_user.values():
        rated.sort(key=lambda row: row.timestamp)
        for k in range(4, len(rated)):
            before, target = rated[k - 4 : k], rated[k]
            history = tuple(row.item for row in before), tuple(row.rating for row in before)
            expected.append(Example(target.user, *history, target.item, target.rating, target.timestamp, target.order))
    expected = expected if last == -1 else expected[-last:]
    assert last_windows(ratings, history=4, last=last) == expected


def test_user_split_shares_no_user():
    examples = last_windows(random_ratings(seed=0, users=40, count=900), history=3, last=-1)
    splits = split_examples(examples, "user", [8, 1, 1], seed=0)
    users = [{example.user for example in part} for part in splits.values()]
    assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
    assert sorted(map(str, sum(splits.values(), []))) == sorted(map(str, examples))
    assert 0.74 < len(splits["train"]) / len(examples) <= 0.8
    other = split_examples(examples, "user", [8, 1, 1], seed=1)
    assert {example.user for example in other["train"]} != users[0]


def test_one_example_a_user_is_cut_exactly():
    examples = [Example(user, ("a",), (1,), "b", 5, None, None) for user in range(97)]
    splits = split_examples(examples, "user", [8, 1, 1], seed=3)
    users = list(range(97))
    random.Random(3).shuffle(users)
    assert [example.user for part in splits.values() for example in part] == users
    assert [len(part) for part in splits.values()] == [77, 10, 10]


def test_shuffled_histories_take_the_last_as_target():
    ratings = pd.DataFrame({"user": [1] * 14 + [2] * 3, "item": range(17), "rating": [6] * 17})
    (example,) = shuffled_histories(ratings, history=10, min_ratings=4, seed=42)
    order = list(range(14))
    random.Random(42).shuffle(order)
    assert example == Example(1, tuple(order[:10]), (6,) * 10, order[-1], 6, None, None)


# ------------------------------------------------------------------------------------------------- 2. arguments


NO_RAW = "give the raw ratings: --raw PATH, a folder or a file"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--domain", "movie"], f"{NO_RAW}, or --download"),
        ([], NO_RAW),
        (
            ["--domain", "movie", "--raw", "x", "--download"],
            "--download is for --domain movie or book, and takes no --raw",
        ),
        (["--format", "goodbooks", "--download"], "--download is for --domain movie or book, and takes no --raw"),
        (["--domain", "movie", "--raw", "x", "--url", "y"], "--url and --digest need --download"),
        (["--raw", "nowhere"], "nowhere: no such file or folder"),
        (
            ["--raw", "x", "--format", "goodbooks", "--columns", "user=u"],
            "--columns is for a table of your own, not for --format goodbooks",
        ),
        (["--raw", "x", "--kind", "board game"], "--kind board game: give one word, such as game"),
        (["--raw", __file__, "--items", "nowhere", "--format", "table"], "--items nowhere: no such file"),
        (
            ["--domain", "netflix", "--download"],
            "an account is needed: get https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data "
            "(combined_data_1.txt, movie_titles.csv) and give their folder as --raw",
        ),
    ],
)
def test_sources_that_do_not_fit(arguments, message, tmp_path):
    expect_error(lambda: run(*arguments, "--output", tmp_path / "out"), message, tmp_path / "out")


def test_both_scripts(movie, tmp_path, monkeypatch, capsys):
    def call(script, raw, output):
        arguments = f"{script} --domain movie --history 2 --ratio 2:1:1 --raw {raw} --output {output}"
        monkeypatch.setattr("sys.argv", arguments.split())
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")

    with pytest.raises(SystemExit) as stop:
        call("rec_data/prepare_data.py", tmp_path / "nowhere", tmp_path / "out")
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'}: no such file or folder\n"
    for folder in ("rec_data", "instruction_data"):
        call(f"{folder}/prepare_data.py", movie, tmp_path / folder)
        assert capsys.readouterr().out == (
            "format: movielens (u.data, u.item)\n"
            "8 ratings of 4 items by 2 users\n"
            "ratings from 1 to 5: more than 3 is a like (--liked_above)\n"
            "train      2 records, 50.0% Yes, 1 users\n"
            "valid      1 records, 100.0% Yes, 1 users, 0 of them also in train\n"
            "test       1 records,  0.0% Yes, 1 users, 0 of them also in train\n"
            f"written to {tmp_path / folder}\n"
        )
    for name in FILES:
        assert (tmp_path / "rec_data" / name).read_bytes() == (tmp_path / "instruction_data" / name).read_bytes()


# ------------------------------------------------------------------------------------------------ 3. what is there


def test_what_is_there_stays_unless_asked(movie, tmp_path):
    flags = ["--history", 2, "--ratio", "2:1:1"]
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    message = f"{output}: already holds notes.txt; give another --output, or --overwrite"
    with pytest.raises(InputError) as error:
        prepare("movie", movie, output, *flags)
    assert str(error.value) == message
    prepare("movie", movie, output, *flags, "--overwrite")
    assert (output / "notes.txt").read_text() == "mine"
    before = {name: (output / name).read_bytes() for name in FILES}

    (movie / "u.data").write_text(U_DATA.replace("5\t2\t4\t300", "5\t2\tx\t300"))
    with pytest.raises(InputError, match="line 2"):
        prepare("movie", movie, output, *flags, "--overwrite")
    assert {name: (output / name).read_bytes() for name in FILES} == before

    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in the way"):
        prepare("movie", movie, tmp_path / "file", *flags)


def test_an_interruption_leaves_nothing_behind(movie, tmp_path, monkeypatch):
    from tlrec.data import preparation

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_write_examples", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare("movie", movie, tmp_path / "out", "--history", 2, "--ratio", "2:1:1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ml-100k"]
