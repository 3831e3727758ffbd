"""The reader of the Netflix Prize: `combined_data_1.txt` and `movie_titles.csv`.

1:                          ratings of film 1 follow
1488844,3,2005-09-06        user, rating, date
822109,5,2005-05-13
"""

import io
import re

import numpy as np
import pandas as pd

from tlrec.data.sources.tables import read_lines, read_text, where
from tlrec.errors import InputError

RATING = {"user": r"\d{1,9}", "rating": r"\d{1,2}", "timestamp": r"\d{4}-\d\d-\d\d"}
FILM = re.compile(r"(\d{1,9}):\s*")


def read(ratings, items, options, counts):
    """Read the two files. options["title_commas"]: "drop" as in the published files, or "keep". Dates stay text."""
    films = _read_titles(items, options["title_commas"])
    return _read_ratings(ratings, set(films["item"]), items.name), films


def _read_titles(path, commas):
    """`id,year,title` lines; a title may hold commas, and the year of seven films is NULL."""
    titles = {}
    for number, line in enumerate(io.StringIO(read_text(path)), start=1):
        found = re.fullmatch(r"(\d{1,9}),(\d+|NULL),(.*)\s*", line)
        if not found:
            raise InputError(f"{where(path, number)}: expected id,year,title, found {line.strip()[:60]!r}")
        item, year, title = int(found[1]), found[2], found[3].strip()
        if commas == "drop":
            title = title.replace(",", "")
        titles.setdefault(item, title if year == "NULL" else f"{title} ({year})")
    if not titles:
        raise InputError(f"{path}: is empty")
    return pd.DataFrame({"item": list(titles), "title": list(titles.values())})


def _read_ratings(path, known, titles_name):
    """A DataFrame: user, rating and timestamp as categories, those of the times in their order; item int64."""
    table, odd = read_lines(path, len(RATING), dict(zip(RATING, range(len(RATING)))))
    films = {}  # {film: line of its header}
    for line, text in odd.items():
        header = FILM.fullmatch(text)
        if header is None:
            if text.strip():
                raise _unexpected(path, line, text)
            continue
        film = int(header[1])
        if film not in known:
            raise InputError(f"{where(path, line)}: film {film} is not in {titles_name}")
        if film in films:
            raise InputError(f"{where(path, line)}: film {film} has a second header")
        films[film] = line
    for name, form in RATING.items():
        table[name] = table[name].astype("category")
        sound = table[name].cat.categories.str.fullmatch(form)
        if not sound.all():
            line = table.index[~sound[table[name].cat.codes]][0]
            raise _unexpected(path, line, ",".join(table.loc[line]))
    places = np.searchsorted(list(films.values()), table.index) - 1  # of the film of each rating
    for film in np.array(list(films))[np.bincount(places, minlength=len(films)) == 0]:
        raise InputError(f"{where(path, films[film])}: film {film} has a header, but no ratings")
    return table.assign(item=np.array(list(films))[places])


def _unexpected(path, line, text):
    return InputError(f"{where(path, line)}: expected user,rating,date or 'film:', found {text[:60]!r}")
