"""What prepare_data.py refuses: one line that names file, line and mend, and no output appears.

1. Flags that do not fit each other, or the ratings.
2. Folders and files of no known form.
3. Raw files with something wrong in them; any other damage is drawn in tests/fuzz/test_fuzz_raw_tables.py.
"""

import gzip

import pandas as pd
import pytest

from tests.support.preparation import RAW, refused, run, write_raw
from tlrec.errors import InputError

# --------------------------------------------------------------------------------------------------------- 1. flags

NO_RAW = "give the raw ratings: --raw PATH, a folder or a file"
KAGGLE = (
    "an account is needed: get https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data (combined_data_1.txt, "
)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--domain movie", f"{NO_RAW}, or --download"),
        ("", NO_RAW),
        ("--domain movie --raw x --download", "--download is for --domain movie or book, and takes no --raw"),
        ("--domain netflix --download", f"{KAGGLE}movie_titles.csv) and give their folder as --raw"),
        ("--domain movie --raw x --url y", "--url and --digest need --download"),
        ("--domain movie --raw x --format netflix", "--format netflix: --domain movie is movielens; leave one out"),
        ("--raw x --format goodbooks --columns user=u", "--columns is for a table of your own, not for --format good"),
        ("--raw x --kind board-game", "--kind board-game: give one word, such as game"),
        ("--raw x --history 0", "--history 0: a history holds at least one item"),
        ("--raw x --last 0", "--last 0: give the number of windows to keep, or -1 for all"),
        ("--raw x --liked_above nan", "--liked_above nan: give a number"),
        ("--domain movie --raw x --implicit keep", "--implicit belongs to --domain book; movie has no such setting"),
        ("--domain book --raw x --last 5", "--last belongs to --domain movie and netflix and amazon-book and custom; "),
        ("--domain book --raw x --min_ratings 1", "--min_ratings 1: a history and a target take at least 2"),
        ("--raw nowhere", "nowhere: no such file or folder"),
        (f"--raw {__file__} --items nowhere --format table", "--items nowhere: no such file"),
    ],
)
def test_flags_that_do_not_fit_each_other(flags, message, tmp_path):
    assert refused(tmp_path, *flags.split()).startswith(message)


@pytest.mark.parametrize(
    ("form", "flags", "message"),
    [
        (
            "movielens",
            "--domain movie --history 4",
            "no user has more than 4 ratings, so there is no window; give a sm",
        ),
        (
            "movielens",
            "--domain movie --history 2",
            "4 records of 2 users are too few for a split 8:1:1 by order: valid",
        ),
        (
            "book-crossing",
            "--domain book --min_ratings 6",
            "no user has 6 ratings or more, so there is no record; give",
        ),
        ("book-crossing", "--split time --history 1", "--split time: these ratings have no times; use --split user or"),
        (
            "table",
            "--columns rating=stars",
            "{raw}/ratings.csv: line 1: no column 'stars'; found 'user', 'item', 'rating'",
        ),
    ],
)
def test_flags_that_do_not_fit_the_ratings(form, flags, message, tmp_path):
    raw = write_raw(tmp_path / "raw", form)
    assert refused(tmp_path, "--raw", raw, *flags.split()).startswith(message.format(raw=raw))


def test_what_is_there_stays_unless_asked(tmp_path):
    raw, output = write_raw(tmp_path / "raw", "movielens"), tmp_path / "made"
    words = ["--domain", "movie", "--raw", raw, "--history", 2, "--ratio", "2:1:1", "--output"]
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=f"^{output}: already holds notes.txt; give another --output, or --overwrite$"):
        run(*words, output)
    run(*words, output, "--overwrite")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert before["notes.txt"] == b"mine" and len(before) == 9
    (raw / "u.data").write_text(RAW["movielens"]["u.data"].replace("4\t300", "x\t300"))
    with pytest.raises(InputError, match="line 2"):
        run(*words, output, "--overwrite")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    with pytest.raises(InputError, match="a file is in the way"):
        run(*words, raw / "u.data")


# ----------------------------------------------------------------------------------------------- 2. no known form

NO_PRODUCT = "/meta_Music.json: line 1: neither JSON nor Python's notation of a product"


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({"x.zip": "PK"}, "--raw {raw}/x.zip", "/x.zip: is an archive; unpack it and give the folder"),
        ({"deeper/ratings.csv": "x"}, "", ": holds only folders (deeper); give the one with the ratings"),
        ({}, "", ": holds no files, no known format (movielens, netflix, amazon-books, "),
        ({"notes.txt": "x"}, "", ": holds notes.txt, no known format ("),
        ({"notes.txt": "x"}, "--format goodbooks", ": holds notes.txt, not what --format goodbooks has: ratings.csv"),
        (
            {"n.txt": "x"},
            "--raw {raw}/n.txt --format recbole",
            "/n.txt: begins with 'x', not what --format recbole has",
        ),
        ({"ratings.csv": "userId,movieId,rating\n1,1,5\n"}, "", "/ratings.csv: ratings of movielens, but no titles"),
        ({"Music.csv": f"A1,{'B' * 10},5.0,9\n", "meta_Music.json": "{'asin':\n"}, "", NO_PRODUCT),
        ({"r.csv": "\n"}, "--ratings {raw}/r.csv --items {raw}/r.csv --format table", "/r.csv: line 1 is empty"),
        ({"r.jsonl": "[1]\n"}, "--ratings {raw}/r.jsonl", "/r.jsonl: expected JSON objects, one for each row"),
    ],
)
def test_folders_of_no_known_form(files, flags, message, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_text(content)
    assert refused(tmp_path, "--raw", raw, *flags.format(raw=raw).split()).startswith(f"{raw}{message}")


@pytest.mark.parametrize("damage", [lambda b: b[:300], lambda b: b[:15] + b"\xff" * 15 + b[30:]])
def test_damaged_archives(damage, tmp_path):
    lines = "".join(f"{n * n},{n},x{n},3,{n}\n" for n in range(999))
    (tmp_path / "r.csv.gz").write_bytes(damage(gzip.compress(f"user,item,title,rating,time\n{lines}".encode())))
    assert f"{tmp_path}/r.csv.gz: cannot be read" in refused(tmp_path, "--raw", tmp_path / "r.csv.gz")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["007", None], "row 2: 'item' is missing (1 of 2 rows)"),
        ([["007"], ["g2"]], "Unsupported cast from list<element: string> to utf8"),
        ([b"007", b"\xff"], "not a Parquet file: "),
        (None, "not a Parquet file: "),
    ],
)
def test_parquet_that_cannot_be_read(items, message, tmp_path):
    titles, path = tmp_path / "items.csv", tmp_path / "ratings.parquet"
    titles.write_text(RAW["table"]["items.csv"])
    path.write_text("user,item\n")
    if items:
        pd.DataFrame({"user": ["a", "b"], "item": items, "rating": [1, 2]}).to_parquet(path)
    assert refused(tmp_path, "--raw", path, "--items", titles).startswith(f"{path}: {message}")


def test_lines_of_two_colons_are_counted_as_fields(tmp_path):
    (tmp_path / "movies.dat").write_text("1::A\n")
    (tmp_path / "ratings.dat").write_text("1::1::5::100\n1::2::5::100::7\n")
    message = f"{tmp_path}/ratings.dat: line 2: expected 4 fields, found 5; mend or remove such lines"
    assert refused(tmp_path, "--raw", tmp_path) == message


# ---------------------------------------------------------------------------------------------------- 3. their content

FILM = "expected user,rating,date or 'film:', found"
COLUMNS = "found 'who', 'item', 'rating', 'timestamp'; give --columns user=NAME"
SOON = "timestamp 'soon' is neither a number nor a date such as 2024-05-31"


@pytest.mark.parametrize(
    ("form", "name", "old", "new", "message"),
    [
        ("movielens", "u.item", "|", ";", "line 1: expected item, title and '|' between them, found 1 field(s)"),
        ("movielens", "u.data", "4\t300", "4\t300\t9", "line 2: expected 4 fields, found 5; mend or remove such lines"),
        ("movielens", "u.data", "\t99\n", "\t2005-01-01\n", "line 3: timestamp '2005-01-01' is not a number"),
        ("netflix", "combined_data_1.txt", "2:\n", "2:\n1:\n", "line 5: film 1 has a second header"),
        ("netflix", "combined_data_1.txt", "2:\n", "4:\n", "line 4: film 4 is not in movie_titles.csv"),
        (
            "netflix",
            "combined_data_1.txt",
            "7,4,2005-01-02\n8,1,2005-02-01\n",
            "",
            "line 4: film 2 has a header, but no",
        ),
        ("netflix", "combined_data_1.txt", "7,4,", "7,x,", f"line 5: {FILM} '7,x,2005-01-02'"),
        ("netflix", "combined_data_1.txt", "2005-01-02", "2005", f"line 5: {FILM} '7,4,2005'"),
        ("netflix", "combined_data_1.txt", "7,4,", "7,4,4,", f"line 5: {FILM} '7,4,4,2005-01-02'"),
        ("netflix", "movie_titles.csv", RAW["netflix"]["movie_titles.csv"], "", "is empty"),
        ("netflix", "movie_titles.csv", "2,NULL,", "2;NULL;", "line 2: expected id,year,title, found '2;NULL;Isle"),
        (
            "amazon-books",
            "Books_rating.csv",
            "3.0,101",
            "three,101",
            "line 3: rating 'three' is not a number (1 of 3 rows",
        ),
        ("amazon-books", "Books_rating.csv", "3.0,101", "3.0,May", "line 3: timestamp 'May' is not a number"),
        ("amazon-books", "books_data.csv", RAW["amazon-books"]["books_data.csv"][28:], "", "a header, but no rows"),
        (
            "amazon-books",
            "books_data.csv",
            "'Y'",
            "'\xff'",
            "line 2: not utf-8: byte 0xff at column 11; save it as UTF-8",
        ),
        ("book-crossing", "BX-Books.csv", "Book-Title", "Name", "line 1: no column 'Book-Title'; found 'ISBN', 'Name'"),
        (
            "book-crossing",
            "BX-Books.csv",
            RAW["book-crossing"]["BX-Books.csv"].partition("\n")[2],
            "",
            "a header, but no rows",
        ),
        ("table", "ratings.csv", "user,", "who,", f"line 1: no column for the user; {COLUMNS}"),
        ("table", "ratings.csv", "item,", "item\r,", "line 2: expected 2 fields, found 3"),
        ("table", "ratings.csv", "ann,007,4.5,2", "ann,007,4.5,soon", f"line 2: {SOON}"),
        ("table", "ratings.csv", "g2,4,1", "g2,inf,1", "line 4: rating 'inf' is not a number (1 of 4 rows)"),
        ("table", "ratings.csv", "bob,", ",", "line 4: 'user' is missing (2 of 4 rows)"),
        (
            "table",
            "ratings.csv",
            "\nbob,g2",
            "\n\nbob,",
            "line 5: 'item' is missing (1 of 4 rows)",
        ),  # an empty line counts
        ("table", "ratings.csv", "bob,g2,4,1", "bob,g2,4", "line 4: expected 4 fields, found 3"),
        ("table", "ratings.csv", "bob,g2,4,1", 'bob,"g2,4,1', "line 4: a quote is opened and never closed"),
        (
            "table",
            "items.csv",
            "title,",
            "words,",
            "line 1: no column for the title; found 'words', 'item', 'creator', ",
        ),
        (
            "table",
            "items.csv",
            "Master,game",
            "Master,board game",
            "line 3: kind 'board game' is not a word such as 'game'",
        ),
        ("table", "items.csv", "Go,", "G\xf6,", "line 3: not utf-8: byte 0xf6 at column 2; save it as UTF-8"),
    ],
)
def test_bad_raw_files(form, name, old, new, message, tmp_path):
    raw = write_raw(tmp_path / "raw", form)
    assert old in RAW[form][name]
    (raw / name).write_text(RAW[form][name].replace(old, new), encoding="latin-1")
    assert refused(tmp_path, "--raw", raw, "--format", form).startswith(f"{raw / name}: {message}")
