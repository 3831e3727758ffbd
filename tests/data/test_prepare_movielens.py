"""MovieLens-100K, rec_data/prepare_data.py --domain movie.

1. The published valid.json and test.json come out byte for byte, twice the same.
2. A small raw file gives records that are spelled out here, one by one.
3. Whatever is wrong with arguments or raw files is one line with file and line number, and no output appears.
"""

import hashlib
import json

import pandas as pd
import pytest

from tests.support.preparation import U_DATA, expect_error, inputs_and_outputs, prepare, rows, spoil, wording
from tlrec.data.preferences import parse_input
from tlrec.data.preparation import FILES
from tlrec.data.published import git_blob_sha1
from tlrec.data.records import read_records
from tlrec.errors import InputError


@pytest.mark.slow
def test_movielens_gives_the_published_files(shared_data, tmp_path):
    raw = shared_data / "raw" / "ml-100k"
    prepare("movie", raw, tmp_path / "movie")
    for name, blob in (
        ("valid", "d26599315557a9587cd74d83c1c565670361d215"),
        ("test", "ee8bb62c56a82d6f176b07d094cc39e8a13878bc"),
    ):
        assert git_blob_sha1(tmp_path / "movie" / f"{name}.json") == blob
    published = shared_data / "rec_data" / "movie" / "train.json"
    assert (tmp_path / "movie" / "train.json").read_bytes() == published.read_bytes()

    prepare("movie", raw, tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "movie" / name).read_bytes()

    titles = {item: title for item, title, _, _ in rows(tmp_path / "movie" / "item_mapping.csv")[1:]}
    assert len(titles) == 1682
    for split in ("train", "valid", "test"):  # the ids tell the same story, row by row
        records = read_records(tmp_path / "movie" / f"{split}.json")
        table = pd.read_csv(tmp_path / "movie" / f"{split}.csv", dtype={"item_id": str})
        assert len(records) == len(table)
        for record, row in zip(records, table.itertuples()):
            preference = parse_input(record["input"])
            history = list(zip(json.loads(row.history_item_id), json.loads(row.history_label)))
            for items, liked in ((preference.likes, 1), (preference.dislikes, 0)):
                assert [item.title for item in items] == [titles[item] for item, label in history if label == liked]
            assert preference.target.title == titles[row.item_id]
            assert record["output"] == ("Yes." if row.label else "No.")


def test_movie(movie, tmp_path):
    prepare("movie", movie, tmp_path / "out", "--history", 2, "--ratio", "2:1:1")
    # user 7 comes first; 99 < 100, and the two ratings of time 100 keep their order: 2 1 3 4
    # user 5: 1 2 4 3
    toy, amelie, no, yes = '"Toy Story (1995)"', '"Amélie (2001)"', '"No "Quotes", Please (1999)"', '"Yes, Yes (2004)"'
    assert inputs_and_outputs(tmp_path / "out") == [
        (wording("", f"{amelie}, {toy}", no), "No."),
        (wording("", f"{toy}, {no}", yes), "Yes."),
        (wording(amelie, toy, yes), "Yes."),
        (wording(f"{amelie}, {yes}", "", no), "No."),
    ]
    header = "user_id history_item_id history_rating history_label item_id rating label timestamp".split()
    assert rows(tmp_path / "out" / "train.csv") == [
        header,
        ["7", '["2", "1"]', "[1, 3]", "[0, 0]", "3", "2", "0", "100"],
        ["7", '["1", "3"]', "[3, 2]", "[0, 0]", "4", "4", "1", "999"],
    ]
    assert rows(tmp_path / "out" / "valid.csv") == [
        header,
        ["5", '["1", "2"]', "[2, 4]", "[0, 1]", "4", "5", "1", "300"],
    ]
    assert rows(tmp_path / "out" / "test.csv")[1][0] == "5"
    assert rows(tmp_path / "out" / "item_mapping.csv") == [
        ["item_id", "title", "creator", "kind"],
        ["1", "Toy Story (1995)", "", "movie"],
        ["2", "Amélie (2001)", "", "movie"],
        ["3", 'No "Quotes", Please (1999)', "", "movie"],
        ["4", "Yes, Yes (2004)", "", "movie"],
    ]
    prepared = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert prepared["settings"]["history"] == 2 and prepared["settings"]["last"] == 10_000
    assert prepared["raw"]["u.data"] == hashlib.sha256(U_DATA.encode()).hexdigest()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("u.data", None, None, ": holds u.item, not what --format movielens has: u.data with u.item or ratings.dat"),
        ("u.item", None, None, "/u.data: ratings of movielens, but no titles beside them; give --items FILE (u.item)"),
        ("u.item", "|", ";", "/u.item: line 1: expected item, title and '|' between them, found 1 field(s)"),
        ("u.data", "5\t2\t4\t300", "5\t2\t4\t300\t9", "/u.data: line 2: expected 4 fields, found 5"),
        ("u.data", "7\t2\t1\t99", "7\t2\t1\t2005-01-01", "/u.data: line 3: timestamp '2005-01-01' is not a number"),
    ],
)
def test_bad_raw_files(name, old, new, message, movie, tmp_path):
    spoil(movie / name, old, new, encoding="latin-1")
    with pytest.raises(InputError) as error:
        prepare("movie", movie, tmp_path / "out")
    assert str(error.value).startswith(f"{movie}{message}") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--history", "4"], "no user has more than 4 ratings, so there is no window; give a smaller --history"),
        (["--history", "2"], "4 records of 2 users are too few for a split 8:1:1 by order: valid would be empty"),
        (["--history", "0"], "--history 0: a history holds at least one item"),
        (["--last", "0"], "--last 0: give the number of windows to keep, or -1 for all"),
        (["--implicit", "keep"], "--implicit belongs to --domain book; movie has no such setting"),
        (["--format", "netflix"], "--format netflix: --domain movie is movielens; leave one out"),
    ],
)
def test_settings_that_do_not_fit(flags, message, movie, tmp_path):
    expect_error(lambda: prepare("movie", movie, tmp_path / "out", *flags), message, tmp_path / "out")


def test_titles_that_do_not_parse_back_are_counted(movie, tmp_path, capsys):
    text = (movie / "u.item").read_text(encoding="latin-1").replace('No "Quotes", Please', 'Side "A", "B" Side')
    (movie / "u.item").write_text(text, encoding="latin-1")
    prepare("movie", movie, tmp_path / "out", "--history", 2, "--ratio", "2:1:1")
    assert "1 records hold a title that does not parse back" in capsys.readouterr().out


def test_a_copy_in_utf8_has_the_same_titles(movie, tmp_path):
    prepare("movie", movie, tmp_path / "latin", "--history", 2, "--ratio", "2:1:1")
    (movie / "u.item").write_text((movie / "u.item").read_text(encoding="latin-1"), encoding="utf-8")
    prepare("movie", movie, tmp_path / "utf8", "--history", 2, "--ratio", "2:1:1")
    assert inputs_and_outputs(tmp_path / "utf8") == inputs_and_outputs(tmp_path / "latin")
