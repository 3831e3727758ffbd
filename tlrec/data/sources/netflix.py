"""The reader of the Netflix Prize: `combined_data_1.txt` and `movie_titles.csv`.

    1:                          ratings of film 1 follow
    1488844,3,2005-09-06        user, rating, date
    822109,5,2005-05-13

The file has twenty-four million such lines; they are read in blocks, without a Python loop over rows.
"""

import io
import re

import numpy as np
import pandas as pd

from tlrec.data.sources.tables import where
from tlrec.errors import InputError

BLOCK = 1 << 26  # bytes
HEADER = re.compile(rb"^(\d{1,9}):[ \t]*\r?\n", re.MULTILINE)
RATING = re.compile(rb"\d{1,9},\d{1,2},\d{4}-\d\d-\d\d[ \t]*\r?\n")
DATE = re.compile(r"\d{4}-\d\d-\d\d")


def read(ratings, items, options, counts):
    """Read the two files. options["title_commas"]: "drop" as in the published files, or "keep". Dates stay text."""
    films = _read_titles(items, options["title_commas"])
    return _read_ratings(ratings, set(films["item"]), items.name), films


def _read_titles(path, commas):
    """`id,year,title` lines; a title may hold commas, and the year of seven films is NULL."""
    titles = {}
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for number, line in enumerate(io.StringIO(text), start=1):
        fields = line.rstrip("\r\n").split(",", 2)
        if (
            len(fields) != 3
            or not re.fullmatch(r"\d{1,9}", fields[0])
            or not (fields[1].isdecimal() or fields[1] == "NULL")
        ):
            raise InputError(f"{where(path, number)}: expected id,year,title, found {line.strip()[:60]!r}")
        item, year, title = int(fields[0]), fields[1], fields[2].strip()
        if commas == "drop":
            title = title.replace(",", "")
        titles.setdefault(item, title if year == "NULL" else f"{title} ({year})")
    if not titles:
        raise InputError(f"{path}: is empty")
    return pd.DataFrame({"item": list(titles), "title": list(titles.values())})


def _read_ratings(path, known, titles_name):
    """A compact DataFrame: user int32, item int32, rating int8, timestamp as categories in text order."""
    tables, films, sizes = [], [], []  # sizes: ratings of each film, in file order
    line = 1
    for block in _blocks(path):
        first, *rest = HEADER.split(block)  # ratings of the film before, then film, ratings, film, ratings ...
        if first and not films:
            raise InputError(f"{where(path, 1)}: expected 'film:', found {_shown(first)}")
        bodies = [first, *rest[1::2]]
        counts = [body.count(b"\n") for body in bodies]
        if films:
            sizes[-1] += counts[0]
        films += map(int, rest[::2])
        sizes += counts[1:]
        if sum(counts):  # a block of headers only has no dates
            tables.append(_parse(b"".join(bodies), sum(counts), block, path, line))
        line += block.count(b"\n")

    begins = np.cumsum([1, *sizes[:-1]]) + np.arange(len(films))  # lines of the headers
    seen = set()
    for film, size, begin in zip(films, sizes, begins.tolist()):
        if film not in known:
            raise InputError(f"{where(path, begin)}: film {film} is not in {titles_name}")
        if film in seen:
            raise InputError(f"{where(path, begin)}: film {film} has a second header")
        if not size:
            raise InputError(f"{where(path, begin)}: film {film} has a header, but no ratings")
        seen.add(film)
    if not tables:
        raise InputError(f"{path}: is empty")

    dates = pd.api.types.union_categoricals([table["timestamp"] for table in tables], sort_categories=True)
    ratings = pd.concat([table[["user", "rating"]] for table in tables], ignore_index=True)
    return ratings.assign(item=np.repeat(np.array(films, dtype="int32"), sizes), timestamp=dates)


def _blocks(path):
    """The file in blocks of whole lines."""
    try:
        with open(path, "rb") as file:
            rest = b""
            while block := file.read(BLOCK):
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                if end:
                    yield block[:end]
            if rest:
                yield rest + b"\n"
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def _parse(body, rows, block, path, line):
    """The ratings of a block. pandas reads fast but does not name a bad line, so that is searched for afterwards."""
    try:
        table = pd.read_csv(
            io.BytesIO(body),
            header=None,
            names=["user", "rating", "timestamp"],
            dtype={"user": "int32", "rating": "int8", "timestamp": "category"},
            index_col=False,
            skip_blank_lines=False,
            keep_default_na=False,
        )
        dates = table["timestamp"].cat.categories
        sound = len(table) == rows and body.count(b",") == 2 * rows and all(map(DATE.fullmatch, map(str, dates)))
    except (ValueError, OverflowError):  # pandas' parser errors are ValueErrors
        sound = False
    if not sound:
        for text in block.splitlines(keepends=True):
            if not (RATING.fullmatch(text) or HEADER.fullmatch(text)):
                break
            line += 1
        raise InputError(f"{where(path, line)}: expected user,rating,date or 'film:', found {_shown(text)}")
    return table


def _shown(text):
    return repr(text.splitlines()[0][:60].decode("latin-1"))
