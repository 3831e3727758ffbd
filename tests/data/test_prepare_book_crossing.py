"""Book-Crossing, rec_data/prepare_data.py --domain book.

1. The real copy gives as many records as the published ones.
2. A small dump, and a cleaned copy of it, give records that are spelled out here, one by one.
3. Settings that do not fit are one line, and no output appears.
"""

import json
import random

import pandas as pd
import pytest

from tests.support.preparation import inputs_and_outputs, prepare, rows, run, wording
from tlrec.data.preferences import Item, parse_input
from tlrec.data.records import read_records
from tlrec.errors import InputError


@pytest.mark.slow
def test_book_crossing_copy(shared_data, tmp_path, capsys):
    prepare("book", shared_data / "raw" / "book-crossing", tmp_path / "book")
    assert capsys.readouterr().out.splitlines()[1] == "204164 ratings of 18185 items by 48299 users"
    sizes = [len(read_records(tmp_path / "book" / f"{split}.json")) for split in ("train", "valid", "test")]
    assert sizes == [8037, 1005, 1005]
    users = [user for split in ("train", "valid", "test") for user, *_ in rows(tmp_path / "book" / f"{split}.csv")[1:]]
    assert len(set(users)) == 10047
    for text, _ in inputs_and_outputs(tmp_path / "book"):
        preference = parse_input(text)
        assert 3 <= len(preference.history) <= 10
        assert all(item.creator for item in (*preference.history, preference.target))


BX_BOOKS = r""""ISBN";"Book-Title";"Book-Author";"Year-Of-Publication"
"01";"Säulen &amp; Türme";"Ken";"1990"
"02";"The \"Real\" Thing";"Ann";"1990"
"03";"Creatures, Great";"Jim";"1990"
"04";"A \"Title\"; more";"An Author";"1990"
"05";"No Author";"";"1990"
"06";"A; B";"Sem";"1990"
"07";"Seven";"S";"1990"
"""
BX_RATINGS = """"User-ID";"ISBN";"Book-Rating"
"8";"01";"6"
"8";"02";"5"
"8";"03";"0"
"9";"04";"9"
"9";"05";"9"
"8";"06";"10"
"9";"99";"7"
"8";"07";"1"
"7";"01";"9"
"7";"02";"9"
"7";"03";"2"
"6";"07";"8"
"6";"06";"8"
"6";"03";"8"
"7";"06";"8"
"6";"01";"8"
"""


@pytest.fixture
def book(tmp_path):
    raw = tmp_path / "bx"
    raw.mkdir()
    (raw / "BX-Books.csv").write_text(BX_BOOKS, encoding="latin-1")
    (raw / "BX-Book-Ratings.csv").write_text(BX_RATINGS, encoding="latin-1")
    return raw


def test_book_original_dump(book, tmp_path, capsys):
    prepare("book", book, tmp_path / "out", "--ratio", "1:1:1")
    towers, real = '"Säulen &amp; Türme" written by Ken', '"The \\Real\\" Thing"" written by Ann'
    creatures, ab, seven = '"Creatures, Great" written by Jim', '"A; B" written by Sem', '"Seven" written by S'
    by_user = {}
    for split in ("train", "valid", "test"):
        records = read_records(tmp_path / "out" / f"{split}.json")
        for record, row in zip(records, rows(tmp_path / "out" / f"{split}.csv")[1:]):
            by_user[row[0]] = (record["input"], record["output"])
    # What seed 42 makes of four ratings a b c d is c b d a, a constant of Python's generator
    assert by_user == {
        "8": (wording(ab, f"{real}, {seven}", f'"{towers}"', "book"), "Yes."),  # the 0 of book 03 is left out
        "7": (wording(f"{real}, {ab}", creatures, f'"{towers}"', "book"), "Yes."),
        "6": (wording(f"{creatures}, {ab}, {towers}", "", f'"{seven}"', "book"), "Yes."),
    }
    expected_users = ["8", "7", "6"]
    random.Random(0).shuffle(expected_users)
    assert list(by_user) == expected_users
    assert capsys.readouterr().out.splitlines()[:6] == [
        "format: book-crossing (BX-Book-Ratings.csv, BX-Books.csv)",
        "12 ratings of 5 items by 3 users",
        "left out: 1 malformed lines of BX-Books.csv",
        "left out: 1 implicit ratings (0)",
        "left out: 2 ratings of books that are not in the table",
        "left out: 1 ratings of books without title or author",
    ]


def test_book_flags(book, tmp_path):
    flags = ["--ratio", "1:1:1", "--implicit", "keep", "--target_quotes", "single", "--split", "order", "--history", 2]
    prepare("book", book, tmp_path / "out", *flags)
    table = [row for split in ("train", "valid", "test") for row in rows(tmp_path / "out" / f"{split}.csv")[1:]]
    assert [row[0] for row in table] == ["8", "7", "6"]
    isbn = ["01", "02", "03", "06", "07"]
    random.Random(42).shuffle(isbn)
    assert json.loads(table[0][1]) == isbn[:2] and table[0][4] == isbn[-1]
    target = parse_input(inputs_and_outputs(tmp_path / "out")[1][0]).target
    assert target == Item("Säulen &amp; Türme", "Ken")
    assert inputs_and_outputs(tmp_path / "out")[1][0].endswith('book "Säulen &amp; Türme" written by Ken?')


def test_book_cleaned_copy(book, tmp_path):
    prepare("book", book, tmp_path / "original", "--ratio", "1:1:1")
    for name in ("BX-Books.csv", "BX-Book-Ratings.csv"):
        table = pd.read_csv(book / name, sep=";", encoding="latin-1", on_bad_lines="skip", dtype=str)
        (book / name).unlink()
        table.to_csv(book / name.replace("Book-Ratings", "Ratings"), index=False)
    prepare("book", book, tmp_path / "cleaned", "--ratio", "1:1:1")
    assert inputs_and_outputs(tmp_path / "cleaned") == inputs_and_outputs(tmp_path / "original")


KAGGLE_BOOKS = r'''ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher,Image-URL-L
01,Plain,Ann,1990,P,http://x
02,"DK Readers: All of It (Level 4: Proficient Readers)\"";Michael Teitelbaum""",2000,DK Publishing Inc,http://x,
03,No author behind it,2003,Gallimard,http://x,
04,"1984",George Orwell,0,P,http://x
05,"Nobody's",,1999,P,http://x
'''


def test_kaggles_copy_with_shifted_rows(tmp_path, capsys):
    """Of the two shifted rows one has the author in its title still; the other is left out."""
    (tmp_path / "Books.csv").write_text(KAGGLE_BOOKS)
    ratings = [(user, book) for user in "abcd" for book in ("01", "02", "03", "04", "05")]
    lines = "".join(f"{user},{book},{9 if (user in 'ab') == (book in '01 02') else 2}\n" for user, book in ratings)
    (tmp_path / "Ratings.csv").write_text("User-ID,ISBN,Book-Rating\n" + lines + "a,99,5\n")
    run("--raw", tmp_path, "--output", tmp_path / "out", "--history", 1, "--ratio", "2:1:1", "--split", "order")
    said = capsys.readouterr().out
    for line in (
        "format: book-crossing (Ratings.csv, Books.csv)",
        "left out: 1 shifted rows of Books.csv",
        "changed: 1 shifted rows of Books.csv, repaired",
        "left out: 8 ratings of books without title or author",
        "left out: 1 ratings of books that are not in the table",
        "ratings from 2 to 9: more than 5 is a like (--liked_above)",
    ):
        assert line + "\n" in said
    mapping = {row[0]: row[1:3] for row in rows(tmp_path / "out" / "item_mapping.csv")[1:]}
    assert mapping == {
        "01": ["Plain", "Ann"],
        "02": ["DK Readers: All of It (Level 4: Proficient Readers)", "Michael Teitelbaum"],
        "04": ["1984", "George Orwell"],
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--last", "5"], "--last belongs to --domain movie and netflix and amazon-book and custom; book has no such"),
        (["--min_ratings", "1"], "--min_ratings 1: a history and a target take at least 2"),
        (["--min_ratings", "6"], "no user has 6 ratings or more, so there is no record; give a smaller --min_ratings"),
    ],
)
def test_settings_that_do_not_fit(flags, message, book, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare("book", book, tmp_path / "out", *flags)
