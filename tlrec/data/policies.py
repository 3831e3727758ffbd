"""What is done where raw ratings are not as they should be: each decision is a setting, and what it changes is counted.

ratings, items of a reader ──► clean ──► Source, in which every rating has a number, and an item with a title
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tlrec.data.sources import values
from tlrec.data.sources.tables import leave_out, where
from tlrec.errors import InputError

NO_NAME = ("", "none", "nan", "null", "n/a", "unknown")  # of a creator, in any case
UNKNOWN = "Unknown"  # creator of an item without one, where others have one
NEAR = 10  # items on either side of an item in the order of popularity, from which its negative is drawn


@dataclass
class Source:
    """Ratings of any source in one form.

    ratings: DataFrame with user, item, rating (number), timestamp (as written; None: no times) and order (the same, so that
    it sorts), in the order of the file. items: DataFrame indexed by item, with title, creator ("" if items have none) and
    kind. files: those that were read. counts: {"left out" or "changed": {what: how many}}.
    """

    ratings: pd.DataFrame
    items: pd.DataFrame
    files: list[Path]
    counts: dict

    def summary(self):
        """Lines that say what was read, and what was left out or changed."""
        users, items = self.ratings["user"].nunique(), self.ratings["item"].nunique()
        yield f"{len(self.ratings)} ratings of {items} items by {users} users"
        for verb, counted in self.counts.items():
            yield from (f"{verb}: {count} {what}" for what, count in counted.items() if count)

    @property
    def has_times(self):
        return not self.ratings["timestamp"].isna().all()


def clean(found, settings):
    """The Source of `found`, a tlrec.data.sources.Found. settings: "kind", "repeated", "same_title", "negatives", and those of
    the readers. Raises InputError, naming file and line, for what no setting can decide."""
    counts = {"left out": {}, "changed": {}}
    options = {name: settings.get(name) for name in ("implicit", "title_commas", "columns")}
    ratings, items = found.read(options, counts)
    files = [found.ratings] + ([found.items] if found.items else [])
    source = Source(ratings, items, files, counts)
    _check_items(source, found.items or found.ratings, settings["kind"] or found.form.kind)
    _check_ratings(source, found.ratings, settings)
    if settings["same_title"] != "published":
        source.items = _creators(source.items, counts["changed"])
        _same_title(source, settings["same_title"])
    _repeated(source, settings["repeated"], found.ratings)
    if settings["negatives"] == "sampled":
        source.ratings = _with_negatives(source)
    return source


def _check_items(source, path, kind):
    """Items once each, with a title of one line, a creator where most have one, and a kind of one word."""
    items = values.of_one_line(source.items, ["title", "creator"])
    values.require_filled(items, ["item"], path)
    untitled = items["title"].str.strip() == ""
    again = items[~untitled]["item"].duplicated()
    counted = {"items without a title": int(untitled.sum()), "further descriptions of an item": int(again.sum())}
    source.counts["left out"].update({what: count for what, count in counted.items() if count})
    items = items[~untitled][~again]
    items = items.assign(creator=items.get("creator", ""), kind=items.get("kind", kind))
    several_words = ~items["kind"].str.fullmatch(r"\w+")
    if several_words.any():
        line = several_words.idxmax()
        raise InputError(f"{where(path, line)}: kind {items.at[line, 'kind']!r} is not a word such as 'game'")
    source.items = items.set_index("item")


def _creators(items, changed):
    """The items with a creator each, or none."""
    nameless = items["creator"].str.strip().str.casefold().isin(NO_NAME)
    if not nameless.any():
        return items
    if nameless.mean() <= 0.5:  # in a list, one without could not be told from the title behind it
        changed[f"items without a creator, written by {UNKNOWN}"] = int(nameless.sum())
        return items.assign(creator=items["creator"].mask(nameless, UNKNOWN))
    if not nameless.all():
        changed["creators dropped, because most items have none"] = int((~nameless).sum())
    return items.assign(creator="")


def _check_ratings(source, path, settings):
    """Ratings with a user, a known item, a number and a time that sorts; identical lines once."""
    ratings = source.ratings
    if "timestamp" in ratings and (ratings["timestamp"] == "").all():
        ratings = ratings.drop(columns="timestamp")
    if settings["same_title"] != "published":
        again = ratings.duplicated()
        if again.any():
            ratings = leave_out(ratings, again, "lines that repeat an earlier one", source.counts["left out"], path)
    values.require_filled(ratings, ratings.columns, path)
    missing = "rating" not in ratings or ratings["rating"].nunique() == 1
    if settings["negatives"] == "sampled":
        if not missing:
            raise InputError(f"--negatives sampled: {path} has ratings of its own; it is for clicks or purchases")
        ratings = ratings.assign(rating=1)
    elif missing:
        what = f"all ratings are {ratings['rating'].iloc[0]}" if "rating" in ratings else "there is no rating"
        raise InputError(
            f"{path}: {what}, but this task needs dislikes as well as likes; give --negatives sampled for clicks or purchases, "
            "or --columns rating=NAME"
        )
    else:
        ratings = ratings.assign(rating=values.numbers(ratings, "rating", path))
    if "timestamp" in ratings:
        written, order = values.times(ratings, path)
        if settings.get("times") == "text":  # as the published records of Amazon-Book have it
            order = ratings["timestamp"]
        ratings = ratings.assign(timestamp=written, order=order)
    else:
        ratings = ratings.assign(timestamp=None, order=np.arange(len(ratings)))
    if (unknown := ~ratings["item"].isin(source.items.index)).any():
        what = "ratings of items without a title"
        ratings = leave_out(ratings, unknown, what, source.counts["left out"], path)
    source.ratings = ratings


def _same_title(source, how):
    """Several ids with one title and creator: "one" takes them for the first of them, "keep" tells them apart."""
    items = source.items
    names = pd.MultiIndex.from_frame(items[["title", "creator", "kind"]])
    if not names.has_duplicates:
        return
    if how == "keep":
        shared = names.duplicated(keep=False)
        marks = pd.Series(items.index.astype("str"), index=items.index)
        if "year" in items:
            years = pd.MultiIndex.from_frame(items[["title", "creator", "kind", "year"]])
            dated = (items["year"] != "") & ~years.duplicated(keep=False)
            marks = marks.mask(dated, items["year"])
        items["title"] = items["title"].mask(shared, items["title"] + " (" + marks + ")")
        source.counts["changed"]["titles of several items, told apart by year or id"] = int(shared.sum())
        return
    first = names.duplicated()
    numbers, _ = names.factorize()
    kept = items.index[~first]  # in the order of their numbers, which count first appearances
    another = dict(zip(items.index[first], kept[numbers[first]]))
    source.counts["changed"]["ids with title and creator of another, taken for one"] = len(another)
    ids = source.ratings["item"].astype("category")
    codes, found = pd.factorize(pd.Index([another.get(item, item) for item in ids.cat.categories]))
    source.ratings = source.ratings.assign(item=pd.Categorical.from_codes(codes[ids.cat.codes], found))
    source.items = items[~first]


def _repeated(source, how, path):
    """One rating of an item by a user: the last or first by time, the mean with the time of the last, or an error."""
    ratings, pair = source.ratings, ["user", "item"]
    again = ratings.duplicated(pair)
    if not again.any():
        return
    if how == "error":
        line = again.idxmax()
        user, item = ratings.loc[line, pair]
        raise InputError(
            f"{where(path, line)}: a second rating of the same item by the same user (user {user}, item {item}), one of "
            f"{again.sum()}; give --repeated last, first or mean"
        )
    several = ratings[ratings.duplicated(pair, keep=False)].sort_values("order", kind="stable")
    if how == "mean":
        mean = several.groupby(pair, observed=True)["rating"].transform("mean")
        ratings = ratings.assign(rating=mean.reindex(ratings.index).fillna(ratings["rating"]))
    dropped = several.index[several.duplicated(pair, keep="first" if how == "first" else "last")]
    source.counts["left out"][f"ratings of an item that its user rated again, of which the {how} counts"] = len(dropped)
    source.ratings = ratings.drop(dropped)


def _with_negatives(source):
    """The ratings, all likes, each beside a dislike: an item that its user never took, of similar popularity, drawn with a
    fixed seed. The two stand in random order, so that the order tells nothing."""
    ratings = source.ratings
    users, ids = ratings["user"].factorize()[0], ratings["item"].astype("category")
    items = ids.cat.codes.to_numpy("int64")
    count = len(ids.cat.categories)
    by_popularity = np.argsort(-np.bincount(items, minlength=count), kind="stable")
    rank = np.argsort(by_popularity)
    taken = np.unique(users * count + items)
    random, drawn = np.random.default_rng(0), np.full(len(items), -1)
    widths = NEAR * 2 ** np.repeat(np.arange(32), 10)  # from farther away where all neighbours are taken
    for width in widths[: 10 + np.searchsorted(widths, count)]:
        open_ = np.flatnonzero(drawn < 0)
        places = np.abs(rank[items[open_]] + random.integers(-width, width + 1, len(open_)))  # mirrored at the ends
        places = np.clip(np.minimum(places, 2 * (count - 1) - places), 0, count - 1)
        pairs = users[open_] * count + by_popularity[places]
        free = taken[np.minimum(np.searchsorted(taken, pairs), len(taken) - 1)] != pairs
        first = np.zeros(len(pairs), dtype=bool)  # nor one that was drawn for the same user
        first[np.unique(pairs, return_index=True)[1]] = True
        drawn[open_[free & first]] = by_popularity[places[free & first]]
        taken = np.union1d(taken, pairs[free & first])
    found = drawn >= 0
    source.counts["changed"]["dislikes drawn at random (--negatives sampled)"] = int(found.sum())
    negatives = ratings[found].assign(item=pd.Categorical.from_codes(drawn[found], ids.cat.categories), rating=0)
    both = pd.concat([ratings.assign(item=ids), negatives])
    places = np.concatenate([np.arange(len(ratings)), np.flatnonzero(found)]) + random.random(len(both)) * 0.9
    both = both.iloc[np.argsort(places, kind="stable")]
    return both if source.has_times else both.assign(order=np.arange(len(both)))


def scale_of(ratings):
    """The lowest and the highest rating in words."""
    return f"{ratings.min():g} to {ratings.max():g}"


def liked_above(ratings):
    """The threshold above which a rating is a like, by the scale that the ratings have. Raises InputError for a scale
    without a usual threshold."""
    low, high = ratings.min(), ratings.max()
    if low < 0 or set(ratings.unique()) <= {0, 1}:
        return 0
    for top, threshold in ((5, 3), (10, 5), (100, 60)):
        if high <= top:
            return threshold
    raise InputError(
        f"ratings from {scale_of(ratings)} are no known scale; say with --liked_above which of them are likes"
    )
