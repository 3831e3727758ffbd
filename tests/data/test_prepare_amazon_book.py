"""Amazon Books Reviews, instruction_data/prepare_data.py --domain amazon-book.

1. A small raw file gives records that are spelled out here, one by one; what is left out is counted.
2. Whatever is wrong with the raw files is one line with file and line number, and no output appears.
"""

import json

import pytest

from tests.support.preparation import expect_error, inputs_and_outputs, prepare, rows, spoil, wording
from tlrec.data.sources import find

REVIEWS = '''Id,Title,Price,User_id,profileName,review/helpfulness,review/score,review/time,review/summary,review/text
I1,"War, and ""Peace""",,u1,Ann,1/1,5.0,1000,good,"long, text"
I2,Ulysses,,u1,Ann,1/1,4.0,999,,
I2,Ulysses,,u1,Ann,1/1,5.0,1,again,by the same user
I3,Untimely,,u1,Ann,1/1,5.0,1500,,no year
I4,Unsigned,,u1,Ann,1/1,5.0,1500,,no author
I5,Unknown,,u1,Ann,1/1,5.0,1500,,not among the books
I2,Ulysses,,,,1/1,5.0,1500,,no user
I6,Guide,,u1,Ann,1/1,5.0,2000,,
I6,Guide,,u2,Bob,1/1,1.0,50,,
I8,None,,u2,Bob,1/1,5.0,65,,to pandas an empty field
I1,"War, and ""Peace""",,u2,Bob,1/1,5.0,70,,
I7,Ulysses,,u2,Bob,1/1,5.0,60,another edition,
'''
BOOKS = '''Title,description,authors,image,previewLink,publisher,publishedDate,infoLink,categories,ratingsCount
"War, and ""Peace""",,['Leo Tolstoy'],,,,1869-01-01,,,
Ulysses,,['James Joyce'],,,,1922,,,
Ulysses,,['Somebody Else'],,,,1990,,,
Untimely,,['No Year'],,,,,,,
Unsigned,,,,,,2000,,,
Guide,,"['Rick Steves', ""Tim O'Guide""]",,,,2004*,,,
'''


@pytest.fixture
def amazon(tmp_path):
    raw = tmp_path / "amazon"
    raw.mkdir()
    (raw / "Books_rating.csv").write_text(REVIEWS)
    (raw / "books_data.csv").write_text(BOOKS)
    return raw


def test_amazon_book(amazon, tmp_path, capsys):
    assert find(amazon).form.name == "amazon-books"
    prepare("amazon-book", amazon, tmp_path / "out", "--history", 1, "--ratio", "2:1:1")
    peace = '"War, and "Peace"" written by Leo Tolstoy'
    ulysses = '"Ulysses" written by James Joyce'
    guide = '"Guide" written by Rick Steves\', "Tim O\'Guide'
    # u1, by time as text: 1000 2000 999, so I1 I6 I2; u2: 50 60 70, so I6 I7 I1
    assert inputs_and_outputs(tmp_path / "out") == [
        (wording(peace, "", guide, "book"), "Yes."),
        (wording(guide, "", ulysses, "book"), "No."),
        (wording("", guide, ulysses, "book"), "Yes."),
        (wording(ulysses, "", peace, "book"), "Yes."),
    ]
    assert rows(tmp_path / "out" / "train.csv")[1:] == [
        ["u1", '["I1"]', "[5]", "[1]", "I6", "5", "1", "2000"],
        ["u1", '["I6"]', "[5]", "[1]", "I2", "4", "0", "999"],
    ]
    assert sorted(rows(tmp_path / "out" / "item_mapping.csv")[1:]) == [
        ["I1", 'War, and "Peace"', "Leo Tolstoy", "book"],
        ["I2", "Ulysses", "James Joyce", "book"],
        ["I6", "Guide", "Rick Steves', \"Tim O'Guide", "book"],
        ["I7", "Ulysses", "James Joyce", "book"],
    ]
    assert capsys.readouterr().out.splitlines()[:7] == [
        "format: amazon-books (Books_rating.csv, books_data.csv)",
        "6 ratings of 4 items by 2 users",
        "left out: 1 books of books_data.csv with the title of another",
        "left out: 1 further reviews of the same title by the same user",
        "left out: 2 reviews with an empty field (most: no user)",
        "left out: 1 reviews of titles that are not in books_data.csv",
        "left out: 2 reviews of books without author or year",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("Books_rating.csv", "1/1,4.0,999", "1/1,four,999", "line 3: rating 'four' is not a number (1 of 6 rows)"),
        ("Books_rating.csv", "1/1,4.0,999", "1/1,4.0,May", "line 3: timestamp 'May' is not a number"),
        ("books_data.csv", BOOKS.partition("\n")[2], "", "a header, but no rows"),
        ("books_data.csv", "Leo", "L\xe9o", "line 2: not utf-8: byte 0xe9 at column 26; save it as UTF-8"),
    ],
)
def test_bad_raw_files(name, old, new, message, amazon, tmp_path):
    spoil(amazon / name, old, new, encoding="utf-8")
    expect_error(
        lambda: prepare("amazon-book", amazon, tmp_path / "out"), f"{amazon / name}: {message}", tmp_path / "out"
    )


@pytest.mark.parametrize("split", ["order", "time"])
def test_times_sort_as_text_in_the_published_order_only(amazon, tmp_path, split):
    """u1 reviewed at 999, 1000 and 2000, u2 at 50, 60 and 70."""
    prepare("amazon-book", amazon, tmp_path / "out", "--history", 1, "--ratio", "2:1:1", "--split", split)
    table = [row for name in ("train", "valid", "test") for row in rows(tmp_path / "out" / f"{name}.csv")[1:]]
    by_user = {"u1": ["2000", "999"] if split == "order" else ["1000", "2000"], "u2": ["60", "70"]}
    if split == "time":
        assert [row[7] for row in table] == ["60", "70", "1000", "2000"]
    for user, times in by_user.items():
        assert [row[7] for row in table if row[0] == user] == times
    prepared = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert prepared["settings"].get("times") == ("text" if split == "order" else None)
