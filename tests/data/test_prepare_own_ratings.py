"""Tables of your own that are wrong: one line with file, line and mend, and no output appears.

What a table may look like stands in test_sources.py, and what is decided by a flag in test_policies.py.
"""

import pandas as pd
import pytest

from tests.support.preparation import expect_error, inputs_and_outputs, rows, run, spoil, wording

OWN = {
    "ratings.csv": "user,item,rating,timestamp\nann,007,4.5,2\nann,g2,1,10\nann,g3,4,9\nbob,g2,4,1\nbob,007,2,3.5\nbob,g3,4,6\n"
    "cat,g2,1,1\ncat,007,4,2\ncat,g3,1,3\n",
    "items.csv": "title,item,creator,kind\nNA,007,Bond,game\nGo,g2,Old Master,game\nChess,g3,Unknown Hand,puzzle\n",
}
NA, GO, CHESS = '"NA" written by Bond', '"Go" written by Old Master', '"Chess" written by Unknown Hand'
# Times are numbers: 2 9 10, not "10" "2" "9"
RECORDS = [
    (wording(NA, "", CHESS, "puzzle"), "Yes."),
    (wording(CHESS, "", GO, "game"), "No."),
    (wording(GO, "", NA, "game"), "No."),
    (wording("", NA, CHESS, "puzzle"), "Yes."),
    (wording("", GO, NA, "game"), "Yes."),
    (wording(NA, "", CHESS, "puzzle"), "No."),
]


@pytest.fixture
def own(tmp_path):
    for name, content in OWN.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def prepare_own(folder, *flags, ratings="ratings.csv", items="items.csv"):
    files = ["--ratings", folder / ratings, "--items", folder / items, "--output", folder / "out"]
    run("--domain", "custom", *files, "--history", 1, "--ratio", "1:1:1", *flags)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_line_of_before(own, ending):
    if ending == "parquet":
        for name in ("ratings", "items"):
            table = pd.read_csv(own / f"{name}.csv", dtype={"item": str}, keep_default_na=False)
            table.to_parquet(own / f"{name}.parquet")
    prepare_own(own, ratings=f"ratings.{ending}", items=f"items.{ending}")
    assert inputs_and_outputs(own / "out") == RECORDS
    assert rows(own / "out" / "train.csv")[1] == ["ann", '["007"]', "[4.5]", "[1]", "g3", "4.0", "1", "9"]


NO_USER = "no column for the user; found 'who', 'item', 'rating', 'timestamp'; give --columns user=NAME"
NO_TITLE = "no column for the title; found 'words', 'item', 'creator', 'kind'; give --columns title=NAME"
SOON = "timestamp 'soon' is neither a number nor a date such as 2024-05-31"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("ratings.csv", "user,", "who,", f"line 1: {NO_USER}"),
        ("ratings.csv", OWN["ratings.csv"].partition("\n")[2], "", "a header, but no rows"),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,4,yesterday", "line 5: timestamp 'yesterday' is not a number"),
        ("ratings.csv", "ann,007,4.5,2", "ann,007,4.5,soon", f"line 2: {SOON}"),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,inf,1", "line 5: rating 'inf' is not a number (1 of 9 rows)"),
        ("ratings.csv", "bob,", ",", "line 5: 'user' is missing (3 of 9 rows)"),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,4,1,1", "line 5: expected 4 fields, found 5"),
        ("ratings.csv", "bob,g2,4,1", "bob,g2,4", "line 5: expected 4 fields, found 3"),
        ("ratings.csv", "\nbob,g2", "\n\nbob,", "line 6: 'item' is missing (1 of 9 rows)"),
        ("ratings.csv", "bob,g2,4,1", 'bob,"g2,4,1', "line 5: a quote is opened and never closed"),
        ("items.csv", "title,", "words,", f"line 1: {NO_TITLE}"),
        ("items.csv", "Master,game", "Master,board game", "line 3: kind 'board game' is not a word such as 'game'"),
        ("items.csv", "Go,", "G\xf6,", "line 3: not utf-8: byte 0xf6 at column 2; save it as UTF-8"),
    ],
)
def test_bad_own_tables(own, name, old, new, message):
    spoil(own / name, old, new, encoding="utf-8")
    expect_error(lambda: prepare_own(own), f"{own / name}: {message}", own / "out")


def test_columns_that_are_not_there(own):
    found = "found 'user', 'item', 'rating', 'timestamp'; give --columns rating=NAME"
    message = f"{own / 'ratings.csv'}: line 1: no column 'stars'; {found}"
    expect_error(lambda: prepare_own(own, "--columns", "rating=stars"), message, own / "out")


def test_a_table_that_is_no_parquet(own):
    (own / "ratings.parquet").write_text("user,item\n")
    with pytest.raises(Exception, match="ratings.parquet: not a Parquet file: "):
        prepare_own(own, ratings="ratings.parquet")
    pd.DataFrame({"user": ["a", "b"], "item": ["007", None], "rating": [1, 2], "timestamp": [1, 2]}).to_parquet(
        own / "ratings.parquet"
    )
    message = f"{own / 'ratings.parquet'}: row 2: 'item' is missing (1 of 2 rows)"
    expect_error(lambda: prepare_own(own, ratings="ratings.parquet"), message, own / "out")
