"""From raw downloads to data sets: rec_data/prepare_data.py, instruction_data/prepare_data.py and what they share.

1. MovieLens-100K gives the published valid.json and test.json byte for byte, twice the same.
2. A small raw file of each format gives records that are spelled out here, one by one.
3. Windows are those of the plain definition, whatever is left unsorted for speed; the splits keep what they promise.
4. Own ratings, CSV or Parquet, go through the same steps.
5. Whatever is wrong with arguments or raw files is one line with file and line number, and no output appears.
6. What existed is not overwritten unasked, and a broken run leaves nothing behind.
7. Downloads go on where they broke off, and are checked.
8. What was prepared passes the checker and tunes a model.
"""

import csv
import hashlib
import importlib.util
import io
import json
import random
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tlrec import check
from tlrec.data.preferences import Item, parse_input
from tlrec.data.preparation import FILES, Example, last_windows, shuffled_histories, split_examples
from tlrec.data.records import read_records
from tlrec.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def load_script(folder):
    """The script as a module, with its readers importable as when it is run."""
    sys.path.insert(0, str(REPOSITORY / folder))
    spec = importlib.util.spec_from_file_location(f"{folder}_prepare", REPOSITORY / folder / "prepare_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPTS = {"movie": load_script("rec_data"), "netflix": load_script("instruction_data")}
SCRIPTS |= {"book": SCRIPTS["movie"], "amazon-book": SCRIPTS["netflix"]}


def prepare(domain, raw, output, *flags):
    SCRIPTS[domain].main(["--domain", domain, "--raw", str(raw), "--output", str(output), *map(str, flags)])


def inputs_and_outputs(output):
    """All records of a data set, train, valid and test in a row, as (input, output)."""
    splits = [read_records(output / f"{split}.json") for split in ("train", "valid", "test")]
    return [(record["input"], record["output"]) for records in splits for record in records]


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def wording(likes, dislikes, target, kind="movie"):
    """An input spelled out, items as they are written."""
    return (
        f"User Preference: {likes}\nUser Unpreference: {dislikes}\n"
        f"Whether the user will like the target {kind} {target}?"
    )


# -------------------------------------------------------------------------------------------- 1. the published files


def git_blob_sha1(path):
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def test_movielens_gives_the_published_files(shared_data, tmp_path):
    raw = shared_data / "raw" / "ml-100k"
    prepare("movie", raw, tmp_path / "movie")
    assert git_blob_sha1(tmp_path / "movie" / "valid.json") == "d26599315557a9587cd74d83c1c565670361d215"
    assert git_blob_sha1(tmp_path / "movie" / "test.json") == "ee8bb62c56a82d6f176b07d094cc39e8a13878bc"
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


def test_book_crossing_copy(shared_data, tmp_path, capsys):
    prepare("book", shared_data / "raw" / "book-crossing", tmp_path / "book")
    assert capsys.readouterr().out.splitlines()[0] == "204164 ratings of 18185 items by 48299 users"
    sizes = [len(read_records(tmp_path / "book" / f"{split}.json")) for split in ("train", "valid", "test")]
    assert sizes == [8037, 1005, 1005]
    users = [user for split in ("train", "valid", "test") for user, *_ in rows(tmp_path / "book" / f"{split}.csv")[1:]]
    assert len(set(users)) == 10047
    for text, _ in inputs_and_outputs(tmp_path / "book"):
        preference = parse_input(text)
        assert 3 <= len(preference.history) <= 10
        assert all(item.creator for item in (*preference.history, preference.target))


# ------------------------------------------------------------------------------------------------ 2. the four formats

U_ITEM = """1|Toy Story (1995)|01-Jan-1995||http://x|0
2|Amélie (2001)|||http://x|0
3|No "Quotes", Please (1999)|||http://x|1
4|Yes, Yes (2004)|||http://x|1
"""
U_DATA = """7\t1\t3\t100
5\t2\t4\t300
7\t2\t1\t99
7\t3\t2\t100
5\t1\t2\t200
7\t4\t4\t999
5\t4\t5\t300
5\t3\t3\t400
"""


@pytest.fixture
def movie(tmp_path):
    raw = tmp_path / "ml-100k"
    raw.mkdir()
    (raw / "u.item").write_text(U_ITEM, encoding="latin-1")
    (raw / "u.data").write_text(U_DATA)
    return raw


def test_movie(movie, tmp_path):
    prepare("movie", movie, tmp_path / "out", "--history", 2, "--ratio", "2:1:1")
    # user 7 comes first; "100" < "99" as text, and the two ratings of time 100 keep their order: 1 3 2 4
    # user 5: 1 2 4 3
    toy, amelie, no, yes = '"Toy Story (1995)"', '"Amélie (2001)"', '"No "Quotes", Please (1999)"', '"Yes, Yes (2004)"'
    assert inputs_and_outputs(tmp_path / "out") == [
        (wording("", f"{toy}, {no}", amelie), "No."),
        (wording("", f"{no}, {amelie}", yes), "Yes."),
        (wording(amelie, toy, yes), "Yes."),
        (wording(f"{amelie}, {yes}", "", no), "No."),
    ]
    header = "user_id history_item_id history_rating history_label item_id rating label timestamp".split()
    assert rows(tmp_path / "out" / "train.csv") == [
        header,
        ["7", '["1", "3"]', "[3, 2]", "[0, 0]", "2", "1", "0", "99"],
        ["7", '["3", "2"]', "[2, 1]", "[0, 0]", "4", "4", "1", "999"],
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


def test_every_number_is_a_flag(movie, tmp_path):
    flags = ["--history", 1, "--last", 3, "--liked_above", 4, "--ratio", "1:1:1"]
    prepare("movie", movie, tmp_path / "out", *flags)
    toy, amelie, no, yes = '"Toy Story (1995)"', '"Amélie (2001)"', '"No "Quotes", Please (1999)"', '"Yes, Yes (2004)"'
    assert inputs_and_outputs(tmp_path / "out") == [
        (wording("", toy, amelie), "No."),
        (wording("", amelie, yes), "Yes."),
        (wording(yes, "", no), "No."),
    ]


COMBINED = """1:
10,3,2005-01-02
11,5,2005-01-01
12,4,2005-03-01
2:
10,5,2005-01-01
12,1,2005-02-01
3:
12,5,2005-01-01
10,4,2006-01-01
11,2,2006-01-01
"""
TITLES = """1,2003,Dinosaurs, Planets, and More
2,NULL,Café
3,1999,The "B" Side
"""


@pytest.fixture
def netflix(tmp_path):
    raw = tmp_path / "netflix"
    raw.mkdir()
    (raw / "combined_data_1.txt").write_text(COMBINED)
    (raw / "movie_titles.csv").write_text(TITLES, encoding="latin-1")
    return raw


@pytest.mark.parametrize("block", [1 << 26, 24])
def test_netflix(netflix, tmp_path, monkeypatch, block):
    import raw_netflix

    monkeypatch.setattr(raw_netflix, "BLOCK", block)  # small blocks begin in the middle of a film
    prepare("netflix", netflix, tmp_path / "out", "--history", 1, "--ratio", "3:1:1")
    planet, cafe, side = '"Dinosaurs Planets and More (2003)"', '"Café"', '"The "B" Side (1999)"'
    # user 10: 2 1 3; user 11: 1 3; user 12: 3 2 1
    assert inputs_and_outputs(tmp_path / "out") == [
        (wording(cafe, "", planet), "No."),
        (wording("", planet, side), "Yes."),
        (wording(planet, "", side), "No."),
        (wording(side, "", cafe), "No."),
        (wording("", cafe, planet), "Yes."),
    ]
    assert rows(tmp_path / "out" / "train.csv")[1:] == [
        ["10", "[2]", "[5]", "[1]", "1", "3", "0", "2005-01-02"],
        ["10", "[1]", "[3]", "[0]", "3", "4", "1", "2006-01-01"],
        ["11", "[1]", "[5]", "[1]", "3", "2", "0", "2006-01-01"],
    ]
    prepare("netflix", netflix, tmp_path / "kept", "--history", 1, "--ratio", "3:1:1", "--title_commas", "keep")
    assert rows(tmp_path / "kept" / "item_mapping.csv")[1][:2] == ["1", "Dinosaurs, Planets, and More (2003)"]


def test_netflix_with_windows_line_ends_and_no_last_one(netflix, tmp_path):
    prepare("netflix", netflix, tmp_path / "unix", "--history", 1, "--ratio", "3:1:1")
    (netflix / "combined_data_1.txt").write_bytes(COMBINED.rstrip("\n").replace("\n", "\r\n").encode())
    prepare("netflix", netflix, tmp_path / "windows", "--history", 1, "--ratio", "3:1:1")
    assert inputs_and_outputs(tmp_path / "windows") == inputs_and_outputs(tmp_path / "unix")


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
    assert capsys.readouterr().out.splitlines()[:6] == [
        "6 ratings of 4 items by 2 users",
        "left out: 1 books of books_data.csv with the title of another",
        "left out: 1 further reviews of the same title by the same user",
        "left out: 1 reviews with an empty field (most: no user)",
        "left out: 1 reviews of titles that are not in books_data.csv",
        "left out: 2 reviews of books without author or year",
    ]


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


def shuffled(*items):
    """What seed 42 makes of four ratings: a constant of Python's generator, written out."""
    a, b, c, d = items
    return [c, b, d, a]


def test_book_original_dump(book, tmp_path, capsys):
    prepare("book", book, tmp_path / "out", "--ratio", "1:1:1")
    saeulen, real, creatures, ab, seven = (
        f'"{title}" written by {author}'
        for title, author in [
            ("Säulen &amp; Türme", "Ken"),
            ('The \\Real\\" Thing"', "Ann"),
            ("Creatures, Great", "Jim"),
            ("A; B", "Sem"),
            ("Seven", "S"),
        ]
    )
    by_user = {}
    for split in ("train", "valid", "test"):
        records = read_records(tmp_path / "out" / f"{split}.json")
        for record, row in zip(records, rows(tmp_path / "out" / f"{split}.csv")[1:]):
            by_user[row[0]] = (record["input"], record["output"])
    users = {
        "8": shuffled((saeulen, 1), (real, 0), (ab, 1), (seven, 0)),  # the 0 of book 03 is left out
        "7": shuffled((saeulen, 1), (real, 1), (creatures, 0), (ab, 1)),
        "6": shuffled((seven, 1), (ab, 1), (creatures, 1), (saeulen, 1)),
    }
    assert by_user == {
        user: (
            wording(
                ", ".join(item for item, liked in history if liked),
                ", ".join(item for item, liked in history if not liked),
                f'"{target}"',
                "book",
            ),
            "Yes." if liked else "No.",
        )
        for user, (*history, (target, liked)) in users.items()
    }
    expected_users = ["8", "7", "6"]
    random.Random(0).shuffle(expected_users)
    assert list(by_user) == expected_users
    assert capsys.readouterr().out.splitlines()[:5] == [
        "12 ratings of 5 items by 3 users",
        "left out: 1 malformed lines of BX-Books.csv",
        "left out: 1 implicit ratings (0)",
        "left out: 2 ratings of books that are not in the table",
        "left out: 1 ratings of books without title or author",
    ]


def test_book_lines_are_taken_apart_as_by_pandas(book):
    import raw_book_crossing

    expected = pd.read_csv(
        book / "BX-Books.csv", sep=";", encoding="latin-1", on_bad_lines="skip", dtype=str, keep_default_na=False
    )
    skipped = {}
    books = raw_book_crossing._read(book / "BX-Books.csv", raw_book_crossing.BOOK_COLUMNS, ";", "latin-1", skipped)
    assert books["title"].tolist() == expected["Book-Title"].tolist()
    assert books["creator"].tolist() == expected["Book-Author"].tolist()
    assert skipped == {"malformed lines of BX-Books.csv": 1}


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
    for name, header in (("BX-Books.csv", BX_BOOKS), ("BX-Book-Ratings.csv", BX_RATINGS)):
        table = pd.read_csv(book / name, sep=";", encoding="latin-1", on_bad_lines="skip", dtype=str)
        (book / name).unlink()
        table.to_csv(book / name.replace("Book-Ratings", "Ratings"), index=False)
    prepare("book", book, tmp_path / "cleaned", "--ratio", "1:1:1")
    assert inputs_and_outputs(tmp_path / "cleaned") == inputs_and_outputs(tmp_path / "original")


# -------------------------------------------------------------------------------------------- 3. windows and splits


def random_ratings(seed, users=9, count=120):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": rng.integers(0, users, count),
            "item": rng.permutation(count),
            "rating": rng.integers(1, 6, count),
            "timestamp": rng.integers(0, 40, count).astype(str),
        }
    )


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
            expected.append(Example(target.user, *history, target.item, target.rating, target.timestamp))
    expected = expected if last == -1 else expected[-last:]
    assert last_windows(ratings, history=4, last=last) == expected


def test_time_split_trains_on_the_past():
    examples = last_windows(random_ratings(seed=0), history=3, last=-1)
    splits = split_examples(examples, "time", [8, 1, 1], seed=0)
    times = {name: [example.timestamp for example in part] for name, part in splits.items()}
    assert max(times["train"]) <= min(times["valid"]) and max(times["valid"]) <= min(times["test"])
    assert [len(part) for part in splits.values()] == [74, 9, 10] and len(examples) == 93


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
    examples = [Example(user, ("a",), (1,), "b", 5, None) for user in range(97)]
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
    assert example == Example(1, tuple(order[:10]), (6,) * 10, order[-1], 6, None)


# ---------------------------------------------------------------------------------------------------- 4. own ratings

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


# ------------------------------------------------------------------------------------------------------ 5. bad input


def expect_error(call, message, output):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
    assert not output.exists()
    assert not list(output.parent.glob(".*part"))


BAD_RAW = [
    # movie
    ("movie", "u.data", None, None, "{path}: no such file"),
    ("movie", "u.item", None, None, "{path}: no such file"),
    ("movie", "u.data", U_DATA, "", "{path}: line 1 is empty"),
    (
        "movie",
        "u.data",
        "\t",
        ",",
        "{path}: line 1: expected user, item, rating, timestamp and '\\t' between them, found 1 field(s)",
    ),
    ("movie", "u.item", "|", ";", "{path}: line 1: expected item, title and '|' between them, found 1 field(s)"),
    ("movie", "u.data", "5\t2\t4\t300", "5\t2\t4\t300\t9", "{path}: line 2: expected 4 fields, found 5"),
    ("movie", "u.data", "5\t2\t4\t300", "5\t2\t4", "{path}: line 2: 'timestamp' is missing"),
    ("movie", "u.data", "7\t2\t1\t99", "7\t2\tfour\t99", "{path}: line 3: rating 'four' is not a number"),
    ("movie", "u.data", "7\t2\t1\t99", "7\t2\tnan\t99", "{path}: line 3: rating 'nan' is not a number"),
    ("movie", "u.data", "7\t2\t1\t99", "7\t2\t1\t2005-01-01", "{path}: line 3: timestamp '2005-01-01' is not a number"),
    ("movie", "u.data", "7\t3\t2\t100", "7\t9\t2\t100", "{path}: line 4: item '9' is not in u.item"),
    (
        "movie",
        "u.data",
        "5\t4\t5\t300",
        "5\t2\t5\t300",
        "{path}: line 7: a second rating of the same item by the same user (user 5, item 2), the "
        "first one is in line 2",
    ),
    (
        "movie",
        "u.item",
        "4|Yes",
        "1|Yes",
        "{path}: line 4: an item is described twice (item 1), the first one is in line 1",
    ),
    ("movie", "u.item", "4|Yes, Yes (2004)|", "4||", "{path}: line 4: 'title' is missing"),
    ("movie", "u.data", "7\t1", "\xe9\t1", "{path}: line 1: not utf-8: byte 0xe9 at column 1"),
    (
        "movie",
        "u.item",
        "Amélie",
        "AmÃ©lie",
        "{path}: line 2: UTF-8, but the original is Latin-1; use the original download",
    ),
    # netflix
    ("netflix", "combined_data_1.txt", None, None, "{path}: no such file"),
    ("netflix", "movie_titles.csv", None, None, "{path}: no such file"),
    ("netflix", "combined_data_1.txt", COMBINED, "", "{path}: is empty"),
    ("netflix", "combined_data_1.txt", "1:\n", "", "{path}: line 1: expected 'film:', found '10,3,2005-01-02'"),
    ("netflix", "combined_data_1.txt", "2:\n", "2:\n3:\n", "{path}: line 5: film 2 has a header, but no ratings"),
    ("netflix", "combined_data_1.txt", "3:\n", "4:\n", "{path}: line 8: film 4 is not in movie_titles.csv"),
    ("netflix", "combined_data_1.txt", "3:\n", "2:\n", "{path}: line 8: film 2 has a second header"),
    (
        "netflix",
        "combined_data_1.txt",
        "12,1,2005",
        "12,x,2005",
        "{path}: line 7: expected user,rating,date or 'film:', found '12,x,2005-02-01'",
    ),
    (
        "netflix",
        "combined_data_1.txt",
        "12,1,2005-02-01",
        "12,1,1.2.2005",
        "{path}: line 7: expected user,rating,date or 'film:', found '12,1,1.2.2005'",
    ),
    (
        "netflix",
        "combined_data_1.txt",
        ",",
        ";",
        "{path}: line 2: expected user,rating,date or 'film:', found '10;3;2005-01-02'",
    ),
    (
        "netflix",
        "combined_data_1.txt",
        "12,1,2005",
        "12,1,1,2005",
        "{path}: line 7: expected user,rating,date or 'film:', found '12,1,1,2005-02-01'",
    ),
    ("netflix", "combined_data_1.txt", "12,1,", "10,1,", "{path}: line 7: a second rating of film 2 by user 10"),
    (
        "netflix",
        "movie_titles.csv",
        "3,1999,",
        "3;1999;",
        "{path}: line 3: expected id,year,title, found '3;1999;The \"B\" Side'",
    ),
    ("netflix", "movie_titles.csv", "3,1999,", "1,1999,", "{path}: line 3: film 1 is described twice"),
    (
        "netflix",
        "movie_titles.csv",
        "Café",
        "CafÃ©",
        "{path}: line 2: UTF-8, but the original is Latin-1; use the original download",
    ),
    # amazon-book
    ("amazon-book", "Books_rating.csv", None, None, "{path}: no such file"),
    (
        "amazon-book",
        "books_data.csv",
        "authors",
        "author",
        "{path}: line 1: no column 'authors'; found 'Title', 'description', 'author', 'image', "
        "'previewLink', 'publisher', "
        "'publishedDate', 'infoLink', 'categories', 'ratingsCount' when split at ','",
    ),
    ("amazon-book", "Books_rating.csv", "1/1,4.0,999", "1/1,four,999", "{path}: line 3: rating 'four' is not a number"),
    (
        "amazon-book",
        "Books_rating.csv",
        "1/1,4.0,999",
        "1/1,4.0,May",
        "{path}: line 3: timestamp 'May' is not a number",
    ),
    ("amazon-book", "books_data.csv", BOOKS.partition("\n")[2], "", "{path}: a header, but no rows"),
    ("amazon-book", "books_data.csv", "Leo", "L\xe9o", "{path}: line 2: not utf-8: byte 0xe9 at column 26"),
    # book
    ("book", "BX-Books.csv", None, None, "{path}: no such file"),
    (
        "book",
        "BX-Book-Ratings.csv",
        None,
        None,
        "{folder}: holds neither BX-Book-Ratings.csv (the dump) nor BX-Ratings.csv (a cleaned copy)",
    ),
    (
        "book",
        "BX-Book-Ratings.csv",
        ";",
        ",",
        "{path}: line 1: no column 'User-ID'; found 'User-ID,\"ISBN\",\"Book-Rating\"' when split at ';'",
    ),
    (
        "book",
        "BX-Book-Ratings.csv",
        "Book-Rating",
        "Stars",
        "{path}: line 1: no column 'Book-Rating'; found 'User-ID', 'ISBN', 'Stars' when split at ';'",
    ),
    ("book", "BX-Book-Ratings.csv", BX_RATINGS.partition("\n")[2], "", "{path}: a header, but no rows"),
    ("book", "BX-Book-Ratings.csv", '"8";"06";"10"', '"8";"06";"ten"', "{path}: line 7: rating 'ten' is not a number"),
    (
        "book",
        "BX-Book-Ratings.csv",
        '"8";"07"',
        '"8";"06"',
        "{path}: line 9: a second rating of the same book by the same user (user 8, item 06), the "
        "first one is in line 7",
    ),
    (
        "book",
        "BX-Books.csv",
        '"07"',
        '"06"',
        "{path}: line 8: a book is described twice (item 06), the first one is in line 7",
    ),
]


@pytest.mark.parametrize(("domain", "name", "old", "new", "message"), BAD_RAW)
def test_bad_raw_files(domain, name, old, new, message, tmp_path, request):
    folder = request.getfixturevalue({"amazon-book": "amazon"}.get(domain, domain))
    path = folder / name
    if old is None:
        path.unlink()
    else:
        content = path.read_text(encoding="utf-8" if domain == "amazon-book" else "latin-1")
        assert old in content
        path.write_text(content.replace(old, new), encoding="latin-1")
    flags = [] if domain == "book" else ["--history", 1]
    message = message.format(path=path, folder=folder)
    output = tmp_path / "out"
    expect_error(lambda: prepare(domain, folder, output, "--ratio", "1:1:1", *flags), message, output)


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
            "{path}: line 2: timestamp 'soon' is no number and no date such as 2024-05-31",
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


@pytest.mark.parametrize(
    ("domain", "flags", "message"),
    [
        ("movie", ["--history", "4"], "no user has more than 4 ratings: not one window; give a smaller --history"),
        (
            "movie",
            ["--history", "2"],
            "4 records of 2 users are too few for a split 8:1:1 by order: valid would be empty",
        ),
        ("movie", ["--history", "0"], "--history 0: a history holds at least one item"),
        ("movie", ["--last", "0"], "--last 0: give the number of windows to keep, or -1 for all"),
        ("movie", ["--implicit", "keep"], "--implicit belongs to --domain book; movie has no such setting"),
        ("book", ["--last", "5"], "--last belongs to --domain movie and custom; book has no such setting"),
        ("book", ["--min_ratings", "1"], "--min_ratings 1: a history and a target take at least 2"),
        ("book", ["--min_ratings", "6"], "no user has 6 ratings or more: not one record; give a smaller --min_ratings"),
        ("book", ["--split", "time"], "--split time: these ratings have no times; use --split user or order"),
        ("netflix", ["--kind", "film"], "--kind belongs to --domain custom; netflix has no such setting"),
    ],
)
def test_settings_that_do_not_fit(domain, flags, message, tmp_path, request):
    folder = request.getfixturevalue(domain)
    expect_error(lambda: prepare(domain, folder, tmp_path / "out", *flags), message, tmp_path / "out")


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (
            "movie",
            ["--domain", "movie"],
            "--domain movie takes either --raw DIR or --download, and no --ratings or --items",
        ),
        (
            "movie",
            ["--domain", "movie", "--raw", "x", "--download"],
            "--domain movie takes either --raw DIR or --download, and no --ratings or --items",
        ),
        (
            "movie",
            ["--domain", "custom", "--ratings", "x"],
            "--domain custom takes --ratings FILE and --items FILE, and neither --raw nor --download",
        ),
        ("movie", ["--domain", "movie", "--raw", "x", "--url", "y"], "--url and --digest belong to --download"),
        ("netflix", ["--domain", "netflix"], "--domain netflix takes --raw DIR, and no --ratings or --items"),
        (
            "netflix",
            ["--domain", "netflix", "--download"],
            "an account is needed: get https://www.kaggle.com/datasets/netflix-inc/netflix-prize-data "
            "(combined_data_1.txt, movie_titles.csv) and give their folder as --raw",
        ),
        (
            "netflix",
            ["--domain", "amazon-book", "--download"],
            "an account is needed: get https://www.kaggle.com/datasets/mohamedbakhet/amazon-books-reviews "
            "(Books_rating.csv, books_data.csv) and give their folder as --raw",
        ),
    ],
)
def test_sources_that_do_not_fit(script, arguments, message, tmp_path):
    call = [*arguments, "--output", str(tmp_path / "out")]
    expect_error(lambda: SCRIPTS[script].main(call), message, tmp_path / "out")


def test_command_line(movie, tmp_path):
    """As a user types it: from another folder, a wrong flag, a user's mistake, and the plain run."""

    def run(*arguments):
        command = [sys.executable, str(REPOSITORY / "rec_data" / "prepare_data.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    wrong = run("--domain", "movie", "--rawr", "x")
    assert wrong.returncode == 2 and wrong.stderr.endswith("error: unrecognized arguments: --rawr x\n")
    missing = run("--domain", "movie", "--raw", "nowhere")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "error: nowhere/u.item: no such file\n"
    done = run("--domain", "movie", "--raw", "ml-100k", "--output", "out", "--history", "2", "--ratio", "2:1:1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "8 ratings of 4 items by 2 users\n"
        "train      2 records, 50.0% Yes, 1 users\n"
        "valid      1 records, 100.0% Yes, 1 users, 0 of them also in train\n"
        "test       1 records,  0.0% Yes, 1 users, 0 of them also in train\n"
        "written to out\n"
    )


def test_titles_that_do_not_parse_back_are_counted(movie, tmp_path, capsys):
    text = (movie / "u.item").read_text(encoding="latin-1").replace('No "Quotes", Please', 'Side "A", "B" Side')
    (movie / "u.item").write_text(text, encoding="latin-1")
    prepare("movie", movie, tmp_path / "out", "--history", 2, "--ratio", "2:1:1")
    assert "2 records hold a title that does not parse back" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ 6. what is there


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

    monkeypatch.setattr(preparation, "_write_items", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare("movie", movie, tmp_path / "out", "--history", 2, "--ratio", "2:1:1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ml-100k"]


# ------------------------------------------------------------------------------------------------------- 7. downloads


class Server(ThreadingHTTPServer):
    """Serves one archive on the loopback address; `breaks_after` bytes, the connection ends."""

    content, breaks_after, ranges = b"", None, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}/ml-100k.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        if not self.path.endswith("ml-100k.zip"):
            return self.send_error(404)
        begin = int(asked[6:-1]) if asked and server.ranges else 0
        if begin >= len(server.content):
            return self.send_error(416)
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ml-100k/u.data", U_DATA)
        file.writestr("ml-100k/u.item", U_ITEM.encode("latin-1"))
        file.writestr("ml-100k/../../evil", "outside")
    server = Server()
    server.content = archive.getvalue()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def download(server, tmp_path, *flags, url=None):
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    SCRIPTS["movie"].main(
        ["--domain", "movie", "--download", "--cache", str(tmp_path / "cache"), "--url", url or server.url]
        + ["--digest", digest, "--output", str(tmp_path / "out"), "--history", "2", "--ratio", "2:1:1", *flags]
    )


def test_download_once(server, movie, tmp_path):
    download(server, tmp_path)
    prepare("movie", movie, tmp_path / "by_hand", "--history", 2, "--ratio", "2:1:1")
    assert inputs_and_outputs(tmp_path / "out") == inputs_and_outputs(tmp_path / "by_hand")
    download(server, tmp_path, "--overwrite")
    assert server.asked == [None]
    assert sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*")) == [
        "ml-100k",
        "ml-100k.zip",
        "ml-100k/u.data",
        "ml-100k/u.item",
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server, tmp_path, ranges):
    server.breaks_after, server.ranges = 100, ranges
    with pytest.raises(InputError) as error:
        download(server, tmp_path)
    assert str(error.value) == (
        f"{server.url}: broke off at 100 of {len(server.content)} bytes; the same command goes on from there"
    )
    assert (tmp_path / "cache" / "ml-100k.zip.part").read_bytes() == server.content[:100]
    assert not (tmp_path / "out").exists()
    server.breaks_after = None
    download(server, tmp_path)
    assert server.asked == [None, "bytes=100-"]
    assert (tmp_path / "cache" / "ml-100k.zip").read_bytes() == server.content
    assert len(inputs_and_outputs(tmp_path / "out")) == 4


def test_a_complete_part_is_used(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ml-100k.zip.part").write_bytes(server.content)
    download(server, tmp_path)
    assert len(inputs_and_outputs(tmp_path / "out")) == 4


def test_a_wrong_digest_is_not_kept(server, tmp_path):
    found = "md5:" + hashlib.md5(server.content).hexdigest()
    expected = "md5:" + "0" * 32
    with pytest.raises(InputError) as error:
        download(server, tmp_path, "--digest", expected)
    message = f"{server.url}: its digest is {found}, not {expected}; removed: try again, or give --digest"
    assert str(error.value) == message
    assert list((tmp_path / "cache").iterdir()) == []


def test_addresses_that_do_not_serve(server, tmp_path):
    with pytest.raises(InputError) as error:
        download(server, tmp_path, url=server.url.replace("ml-100k", "gone"))
    assert str(error.value).endswith(
        "/gone.zip: 404 Not Found; give another address as --url, or get it by hand for --raw"
    )
    with pytest.raises(InputError, match="Connection refused>?; the same command goes on where this one broke off"):
        download(server, tmp_path, url="http://127.0.0.1:9/ml-100k.zip")
    with pytest.raises(InputError, match="ml-100k.zip: unknown url type"):
        download(server, tmp_path, url="ml-100k.zip")
    with pytest.raises(InputError, match="--digest crc:1: write it as sha256:HEX or md5:HEX"):
        download(server, tmp_path, "--digest", "crc:1")


def test_archives_without_the_files(server, tmp_path):
    server.content = b"<html>moved</html>"
    with pytest.raises(InputError, match="ml-100k.zip: not a zip archive: File is not a zip file"):
        download(server, tmp_path)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme", "")
    server.content = archive.getvalue()
    with pytest.raises(InputError, match="ml-100k.zip: holds no u.data"):
        download(server, tmp_path)


# ---------------------------------------------------------------------------------------------- 8. from raw to a model


def test_a_model_is_tuned_on_what_was_prepared(shared_data, tmp_path):
    data = tmp_path / "book"
    prepare("book", shared_data / "raw" / "book-crossing", data, "--min_ratings", 150)  # few users, few records
    check.main([str(data)])
    command = [sys.executable, "rec_tuning.py", "--base_model", "base_model/pocket-llama", "--device", "cpu"]
    command += ["--train_data_path", data / "train.json", "--val_data_path", data / "valid.json", "--sample", 8]
    command += ["--batch_size", 8, "--micro_batch_size", 8, "--num_epochs", 1, "--output_dir", tmp_path / "adapter"]
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "adapter" / "run.json").read_text())
    assert run["data"]["train"]["sha256"] == hashlib.sha256((data / "train.json").read_bytes()).hexdigest()
    assert run["shots"] == 8 and run["results"]["best_step"] == 1
