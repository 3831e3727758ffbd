"""What the tests of data preparation share: the command line, what it wrote read back, raw files of MovieLens."""

import csv
import random

import pytest

from tests.conftest import REPOSITORY
from tlrec.data.prepare import main
from tlrec.data.records import read_records
from tlrec.data.sources.tables import MEND
from tlrec.errors import InputError


def prepare(domain, raw, output, *flags):
    run("--domain", domain, "--raw", raw, "--output", output, *flags)


def run(*arguments):
    """The command line of rec_data/prepare_data.py."""
    main(REPOSITORY / "rec_data", "", list(map(str, arguments)))


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


def spoil(path, old, new, encoding):
    """Replace `old` by `new` in a raw file; remove the file if `old` is None."""
    if old is None:
        return path.unlink()
    content = path.read_text(encoding=encoding)
    assert old in content
    path.write_text(content.replace(old, new), encoding="latin-1")


def expect_error(call, message, output):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).removesuffix(MEND) == message
    assert not output.exists()
    assert not list(output.parent.glob(".*part"))


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


def world(users=6, count=8, seed=0, times=True, scale=(1, 2, 3, 4, 5)):
    """[(user, item, rating, time)] in the order of a file that mixes its users: numbers as text, times of 9 and 10 digits."""
    draw, rows = random.Random(seed), []
    for user in range(1, users + 1):
        for item in draw.sample(range(1, len(TITLES) + 1), count):
            rows.append(
                (str(user), str(item), str(draw.choice(scale)), str(draw.randrange(999_999_980, 1_000_000_020)))
            )
    draw.shuffle(rows)
    return rows if times else [(user, item, rating, "") for user, item, rating, _ in rows]


def expected(rows, names, kind, history=3, above=3, ratio=(2, 1, 1), by_time=True):
    """{split: [(input, output)]} of the plain definition. names: {item: how it is written in a record}."""
    by_user, windows = {}, []
    for user, item, rating, time in rows:
        by_user.setdefault(user, []).append((float(time) if by_time else 0, item, float(rating)))
    for rated in by_user.values():
        rated.sort(key=lambda row: row[0])  # stable
        for k in range(history, len(rated)):
            lists = {
                liked: ", ".join(names[i] for _, i, r in rated[k - history : k] if (r > above) == liked)
                for liked in (1, 0)
            }
            _, item, rating = rated[k]
            windows.append((wording(lists[1], lists[0], names[item], kind), "Yes." if rating > above else "No."))
    ends = [len(windows) * sum(ratio[:part]) // sum(ratio) for part in (0, 1, 2, 3)]
    return {name: windows[a:b] for name, a, b in zip(("train", "valid", "test"), ends, ends[1:])}


def written(output):
    """{split: [(input, output)]} of a data set."""
    splits = ("train", "valid", "test")
    return {name: [(r["input"], r["output"]) for r in read_records(output / f"{name}.json")] for name in splits}
