"""The reader of `--domain custom`: anyone's ratings in two tables, CSV or Parquet."""

from pathlib import Path

import numpy as np
import pandas as pd

from tlrec.data import raw_tables as raw
from tlrec.data.preparation import Source
from tlrec.errors import InputError


def read_own_ratings(ratings_path, items_path, kind):
    """Read ratings (user, item, rating, timestamp) and items (item, title, optional creator, optional kind).

    Timestamps are numbers, or dates in ISO 8601, and sort as such. `kind` is the noun for items in a table without a
    column of that name. Creators are there for every item or for none: in a list that mixes both, an item without
    one could not be told from the title that follows it.
    White space in titles and creators, line breaks among it, becomes single spaces: a record is told in lines.
    Returns a Source; raises InputError with file and line for anything amiss.
    """
    items = _read(items_path, ["item", "title"], optional=["creator", "kind"])
    for column in items.columns.intersection(["title", "creator"]):
        items[column] = items[column].str.split().str.join(" ")
    raw.require_filled(items, items.columns, items_path)
    raw.require_unique(items, ["item"], items_path, "an item is described twice")
    items = items.assign(creator=items.get("creator", ""), kind=items.get("kind", kind))
    several_words = ~items["kind"].str.fullmatch(r"\w+")
    if several_words.any():
        line = several_words.idxmax()
        raise InputError(f"{raw.where(items_path, line)}: kind {items.at[line, 'kind']!r} is not a word such as 'game'")

    ratings = _read(ratings_path, ["user", "item", "rating", "timestamp"])
    raw.require_filled(ratings, ratings.columns, ratings_path)
    ratings["rating"] = raw.numbers(ratings, "rating", ratings_path)
    ratings["timestamp"] = _times(ratings, ratings_path)
    raw.require_known(ratings, "item", items["item"], ratings_path, items_path)
    raw.require_unique(ratings, ["user", "item"], ratings_path, "a second rating of the same item by the same user")
    return Source(ratings, items.set_index("item"), skipped={}, files=[Path(ratings_path), Path(items_path)])


def _read(path, columns, optional=()):
    if Path(path).suffix == ".parquet":
        return raw.read_parquet(path, columns, optional)
    return raw.read_table(path, columns, optional=optional)


def _times(ratings, path):
    """Numbers if the first time is one, else dates; a mixture has no order."""
    if np.isfinite(pd.to_numeric(ratings["timestamp"].iloc[:1], errors="coerce")).all():
        return raw.numbers(ratings, "timestamp", path)
    times = pd.to_datetime(ratings["timestamp"], format="ISO8601", errors="coerce", utc=True)
    if times.isna().any():
        line = times.isna().idxmax()
        found = ratings.at[line, "timestamp"]
        raise InputError(f"{raw.where(path, line)}: timestamp {found!r} is no number and no date such as 2024-05-31")
    return times
