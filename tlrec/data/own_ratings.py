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
    column of that name. Either every item has a creator or none has: in a list that mixes both, an item without one
    could not be separated from the title that follows it.
    White space in titles and creators, including line breaks, becomes single spaces: line breaks divide a record.
    Returns a Source; raises InputError with file and line for anything wrong.
    """
    items = raw.read_csv_or_parquet(items_path, ["item", "title"], optional=["creator", "kind"])
    for column in items.columns.intersection(["title", "creator"]):
        items[column] = items[column].str.split().str.join(" ")
    raw.require_filled(items, items.columns, items_path)
    raw.require_unique(items, ["item"], items_path, "an item is described twice")
    items = items.assign(creator=items.get("creator", ""), kind=items.get("kind", kind))
    several_words = ~items["kind"].str.fullmatch(r"\w+")
    if several_words.any():
        line = several_words.idxmax()
        raise InputError(f"{raw.where(items_path, line)}: kind {items.at[line, 'kind']!r} is not a word such as 'game'")

    ratings = raw.read_csv_or_parquet(ratings_path, ["user", "item", "rating", "timestamp"])
    raw.require_filled(ratings, ratings.columns, ratings_path)
    ratings["rating"] = raw.numbers(ratings, "rating", ratings_path)
    ratings["timestamp"] = _times(ratings, ratings_path)
    raw.require_known(ratings, "item", items["item"], ratings_path, items_path)
    raw.require_unique(ratings, ["user", "item"], ratings_path, "a second rating of the same item by the same user")
    return Source(ratings, items.set_index("item"), skipped={}, files=[Path(ratings_path), Path(items_path)])


def _times(ratings, path):
    """Numbers if the first time is one, else dates; a mixture could not be sorted."""
    if np.isfinite(pd.to_numeric(ratings["timestamp"].iloc[:1], errors="coerce")).all():
        return raw.numbers(ratings, "timestamp", path)
    times = pd.to_datetime(ratings["timestamp"], format="ISO8601", errors="coerce", utc=True)
    if times.isna().any():
        line = times.isna().idxmax()
        found = ratings.at[line, "timestamp"]
        raise InputError(
            f"{raw.where(path, line)}: timestamp {found!r} is neither a number nor a date such as 2024-05-31"
        )
    return times
