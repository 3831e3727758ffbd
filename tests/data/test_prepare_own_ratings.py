"""Own ratings, CSV or Parquet, through the same steps: prepare_data.py --domain custom of both folders.

1. Records are spelled out here, one by one; both scripts write the same files.
2. Whatever is wrong with a table is one line with file and line number, and no output appears.
"""

import pandas as pd
import pytest

from tests.support.preparation import SCRIPTS, expect_error, inputs_and_outputs, rows, wording
from tlrec.data.preparation import FILES
from tlrec.errors import InputError

OWN = {
    "ratings.csv": "user,item,rating,timestamp\nann,007,4.5,2\nann,g2,1,10\nann,g3,3,9\nbob,g2,4,1\nbob,007,2,3.5\n",
    "items.csv": "title,item,creator,kind\nNA,007,Bond,game\nGo,g2,Old Master,game\nChess,g3,Unknown,puzzle\n",
}


@pytest.fixture
def own(tmp_path):
    for name, content in OWN.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def prepare_own(folder, *flags, ratings="ratings.csv", items="items.csv"):
    arguments = ["--ratings", folder / ratings, "--items", folder / items, "--output", folder / "out", "--history", 1]
    SCRIPTS["movie"].main(["--domain", "custom", *map(str, [*arguments, *flags])])


OWN_RECORDS = [  # times are numbers here: 2 9 10, not "10" "2" "9"
    (wording('"NA" written by Bond', "", '"Chess" written by Unknown', "puzzle"), "No."),
    (wording("", '"Chess" written by Unknown', '"Go" written by Old Master', "game"), "No."),
    (wording('"Go" written by Old Master', "", '"NA" written by Bond', "game"), "No."),
]


def test_own_ratings_as_csv(own):
    prepare_own(own, "--ratio", "1:1:1")
    assert inputs_and_outputs(own / "out") == OWN_RECORDS
    assert rows(own / "out" / "train.csv")[1] == ["ann", '["007"]', "[4.5]", "[1]", "g3", "3.0", "0", "9.0"]


def test_own_ratings_as_parquet(own):
    for name in ("ratings", "items"):
        pd.read_csv(own / f"{name}.csv", dtype={"item": str}, keep_default_na=False).to_parquet(own / f"{name}.parquet")
    prepare_own(own, "--ratio", "1:1:1", ratings="ratings.parquet", items="items.parquet")
    assert inputs_and_outputs(own / "out") == OWN_RECORDS


def test_own_ratings_with_dates_and_without_creators(own):
    (own / "items.csv").write_text("item,title\n007,NA\ng2,Go\ng3,Chess\n")
    dates = OWN["ratings.csv"]
    for number, date in [("2", "-05-09"), ("10", "-05-10"), ("9", "-05-09T23:00"), ("1", "-01-01"), ("3.5", "-01-02")]:
        dates = dates.replace(f",{number}\n", f",2024{date}\n")
    (own / "ratings.csv").write_text(dates)
    prepare_own(own, "--ratio", "1:1:1", "--kind", "game", "--split", "time")
    assert inputs_and_outputs(own / "out") == [
        (wording('"Go"', "", '"NA"', "game"), "No."),
        (wording('"NA"', "", '"Chess"', "game"), "No."),
        (wording("", '"Chess"', '"Go"', "game"), "No."),
    ]


def test_both_scripts_take_own_ratings_alike(own):
    prepare_own(own, "--ratio", "1:1:1")
    arguments = ["--ratings", own / "ratings.csv", "--items", own / "items.csv", "--output", own / "source"]
    SCRIPTS["netflix"].main(["--domain", "custom", *map(str, arguments), "--history", "1", "--ratio", "1:1:1"])
    for name in FILES:
        assert (own / "source" / name).read_bytes() == (own / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "ratings.csv",
            "rating,",
            "stars,",
            "{path}: line 1: no column 'rating'; found 'user', 'item', 'stars', 'timestamp' when split at ','",
        ),
        (
            "ratings.csv",
            ",",
            ";",
            "{path}: line 1: no column 'user'; found 'user;item;rating;timestamp' when split at ','",
        ),
        ("ratings.csv", OWN["ratings.csv"].partition("\n")[2], "", "{path}: a header, but no rows"),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,4,yesterday", "{path}: line 5: timestamp 'yesterday' is not a number"),
        (
            "ratings.csv",
            "ann,007,4.5,2",
            "ann,007,4.5,soon",
            "{path}: line 2: timestamp 'soon' is neither a number nor a date such as 2024-05-31",
        ),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,inf,1", "{path}: line 5: rating 'inf' is not a number"),
        ("ratings.csv", "bob,g2,4,1", "bob,g9,4,1", "{path}: line 5: item 'g9' is not in {folder}/items.csv"),
        ("ratings.csv", "bob,g2,4,1", ",g2,4,1", "{path}: line 5: 'user' is missing"),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,4,1,1", "{path}: line 5: expected 4 fields, found 5"),
        ("ratings.csv", "\nbob,g2", "\n\nbob,g9", "{path}: line 6: item 'g9' is not in {folder}/items.csv"),
        ("ratings.csv", "bob,g2,4,1", 'bob,"g2,4,1', "{path}: line 5: a quote is opened and never closed"),
        (
            "ratings.csv",
            "ann,g3",
            "ann,g2",
            "{path}: line 4: a second rating of the same item by the same user (user ann, item g2), the first "
            "one is in line 3",
        ),
        ("items.csv", "Go,g2,Old Master,game", "Go,g2,,game", "{path}: line 3: 'creator' is missing"),
        (
            "items.csv",
            "Old Master,game",
            "Old Master,board game",
            "{path}: line 3: kind 'board game' is not a word such as 'game'",
        ),
        ("items.csv", "Go,", "G\xf6,", "{path}: line 3: not utf-8: byte 0xf6 at column 2"),
        ("items.csv", "g3,", "g2,", "{path}: line 4: an item is described twice (item g2), the first one is in line 3"),
    ],
)
def test_bad_own_tables(own, name, old, new, message):
    path = own / name
    assert old in OWN[name]
    path.write_text(OWN[name].replace(old, new), encoding="latin-1")
    expect_error(lambda: prepare_own(own, "--ratio", "1:1:1"), message.format(path=path, folder=own), own / "out")


def test_a_table_that_is_no_parquet(own):
    (own / "ratings.parquet").write_text("user,item\n")
    with pytest.raises(InputError, match="ratings.parquet: not a Parquet file: "):
        prepare_own(own, ratings="ratings.parquet")
    pd.DataFrame({"user": ["a", "b"], "item": ["007", None], "rating": [1, 2], "timestamp": [1, 2]}).to_parquet(
        own / "ratings.parquet"
    )
    message = f"{own / 'ratings.parquet'}: row 2: 'item' is missing"
    expect_error(lambda: prepare_own(own, ratings="ratings.parquet"), message, own / "out")
