"""What the tests of data preparation share: the command line and what it writes, small raw files of several sources, and a
small world of ratings with the records that the plain definition makes of it."""

import csv
import random

import pytest

from tests.conftest import REPOSITORY
from tlrec.data.prepare import main
from tlrec.data.records import read_records
from tlrec.errors import InputError

SPLITS = ("train", "valid", "test")


def run(*arguments):
    """The command line of rec_data/prepare_data.py."""
    main(REPOSITORY / "rec_data", "", list(map(str, arguments)))


def refused(folder, *arguments):
    """The line with which the command line refuses `arguments`; no output appears in `folder`, nor anything half-made."""
    with pytest.raises(InputError) as error:
        run(*arguments, "--output", folder / "out")
    assert not list(folder.glob("*out*")) and "\n" not in str(error.value)
    return str(error.value)


def written(output):
    """{split: [(input, output)]} of a data set."""
    return {name: [(r["input"], r["output"]) for r in read_records(output / f"{name}.json")] for name in SPLITS}


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def id_rows(output):
    """The rows of the three tables of ids, one behind the other."""
    return [row for name in SPLITS for row in rows(output / f"{name}.csv")[1:]]


def wording(likes, dislikes, target, kind="movie"):
    """An input spelled out, items as they are written."""
    return (
        f"User Preference: {likes}\nUser Unpreference: {dislikes}\n"
        f"Whether the user will like the target {kind} {target}?"
    )


# ------------------------------------------------------------------------------------------------- {form: its raw files}

BX_RATINGS = (
    "8 01 6,8 02 5,8 03 0,9 04 9,9 05 9,8 06 10,9 99 7,8 07 1,7 01 9,7 02 9,7 03 2,6 07 8,6 06 8,6 03 8,7 06 8,6 01 8"
)
RAW = {
    "movielens": {
        "u.data": "7\t1\t3\t100\n5\t2\t4\t300\n7\t2\t1\t99\n7\t3\t2\t100\n"
        "5\t1\t2\t200\n7\t4\t4\t999\n5\t4\t5\t300\n5\t3\t3\t400\n",
        "u.item": """1|Toy Story (1995)|01-Jan-1995||http://x|0
2|Amélie (2001)|||http://x|0
3|No "Quotes", Please (1999)|||http://x|1
4|Yes, Yes (2004)|||http://x|1
""",
    },
    "netflix": {
        "combined_data_1.txt": "1:\n7,3,2005-09-06\n8,5,2005-05-13\n2:\n7,4,2005-01-02\n8,1,2005-02-01\n",
        "movie_titles.csv": "1,2003,Dinosaur Planet\n2,NULL,Isle of Man, TT\n",
    },
    "book-crossing": {
        "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n'
        + "".join('"{}";"{}";"{}"\n'.format(*row.split()) for row in BX_RATINGS.split(",")),
        "BX-Books.csv": r""""ISBN";"Book-Title";"Book-Author";"Year-Of-Publication"
"01";"Säulen &amp; Türme";"Ken";"1990"
"02";"The \"Real\" Thing";"Ann";"1990"
"03";"Creatures, Great";"Jim";"1990"
"04";"A \"Title\"; more";"An Author";"1990"
"05";"No Author";"";"1990"
"06";"A; B";"Sem";"1990"
"07";"Seven";"S";"1990"
""",
    },
    "amazon-books": {
        "Books_rating.csv": """Id,Title,Price,User_id,review/score,review/time,review/text
1,A,,u,5.0,100,"long, text"
2,B,,u,3.0,101,
1,A,,v,4.0,9,
""",
        "books_data.csv": "Title,authors,publishedDate\nA,\"['X', 'Y']\",1999\nB,['Z'],2001-01\n",
    },
    "recbole": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t1\t5.0\t9\nu\t2\t3.0\t8\nv\t1\t2\t7\n",
        "x.item": "item_id:token\ttitle:token_seq\n1\tA\n2\tB\n",
    },
    "amazon-2023": {
        "Music.jsonl": '{"rating": 5.0, "parent_asin": "a", "user_id": "u", "timestamp": 1}\n'
        '{"rating": 2.0, "parent_asin": "b", "user_id": "u", "timestamp": 2}\n',
        "meta_Music.jsonl": '{"title": "A", "parent_asin": "a", "store": null}\n{"title": "B", "parent_asin": "b"}\n',
    },
    "table": {
        "ratings.csv": "user,item,rating,timestamp\nann,007,4.5,2\nann,g2,1,10\nbob,g2,4,1\nbob,007,2,3.5\n",
        "items.csv": "title,item,creator,kind\nNA,007,Bond,game\nGo,g2,Old Master,game\n",
    },
}


def write_raw(folder, form):
    """The folder, with the raw files of a form."""
    folder.mkdir()
    for name, content in RAW[form].items():
        (folder / name).write_text(content, encoding="latin-1")
    return folder


# ------------------------------------------------------------------------------------------ one small world, any form

TITLES = [
    "Harbour &amp; Night (1999)",
    'The "B" Side, Part 2',
    "Amélie",
    "Yes, Yes (2004)",
    "None",
    "User Preference: none",
    "Café 日本",
    "Dust",
    "  Two   Spaces",
]


def world(users=6, count=8, seed=0, scale=(1, 2, 3, 4, 5)):
    """[(user, item, rating, time)] in the order of a file that mixes its users: numbers as text, times of 9 and 10 digits."""
    draw, rows = random.Random(seed), []
    for user in range(1, users + 1):
        for item in draw.sample(range(1, len(TITLES) + 1), count):
            rows.append(
                (str(user), str(item), str(draw.choice(scale)), str(draw.randrange(999_999_980, 1_000_000_020)))
            )
    draw.shuffle(rows)
    return rows


def expected(ratings, names, kind, above=3, by=float):
    """{split: [(input, output)]} of the plain definition, with three items a history and a split of 2:1:1. names: {item: how
    it is written in a record}; by: makes a time from its text, so that it sorts; None for the order of the file."""
    by_user, windows = {}, []
    for user, item, rating, time in ratings:
        by_user.setdefault(user, []).append((by(time) if by else 0, item, float(rating)))
    for rated in by_user.values():
        rated.sort(key=lambda row: row[0])  # stable
        for k in range(3, len(rated)):
            lists = {
                liked: ", ".join(names[i] for _, i, r in rated[k - 3 : k] if (r > above) == liked) for liked in (1, 0)
            }
            _, item, rating = rated[k]
            windows.append((wording(lists[1], lists[0], names[item], kind), "Yes." if rating > above else "No."))
    ends = [len(windows) * part // 4 for part in (0, 2, 3, 4)]
    return {name: windows[a:b] for name, a, b in zip(SPLITS, ends, ends[1:])}
