"""From ratings to rows: what a user rated before, and the item that follows; and how the rows are split.

ratings: as in tlrec.data.policies.Source.
"""

import random
from dataclasses import dataclass

import numpy as np

from tlrec.errors import InputError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Example:
    """One record as ids: `history` holds (item, rating) in the order of the record."""

    user: object
    history: tuple
    item: object
    rating: float
    timestamp: object = None  # of the target, as written; None without times
    order: object = None  # the same, so that it sorts


def last_windows(ratings, history, last):
    """The last `last` sliding windows (-1: all): `history` ratings of a user in a row predict the next one.

    Users come in order of first appearance, each user's ratings in time order; ratings of the same time keep the order of
    the file. Only the users that the kept windows belong to are sorted at all. Returns the examples in order. Raises
    InputError if there is none.
    """
    codes, _ = ratings["user"].factorize()
    windows = np.maximum(np.bincount(codes) - history, 0)  # of each user
    if not windows.any():
        raise InputError(f"no user has more than {history} ratings, so there is no window; give a smaller --history")
    needed = 0
    if last != -1:
        from_here_on = np.cumsum(windows[::-1])[::-1]
        needed = max(0, int(np.sum(from_here_on >= last)) - 1)  # the first user whose windows are needed
    kept = (codes >= needed) & (windows[codes] > 0)
    ratings = ratings[kept].assign(code=codes[kept])
    ratings = ratings.sort_values("order", kind="stable").sort_values("code", kind="stable")

    code, user, timestamp, order = (ratings[name].tolist() for name in ("code", "user", "timestamp", "order"))
    rated = list(zip(ratings["item"].tolist(), ratings["rating"].tolist()))
    examples = [
        Example(user[k], tuple(rated[k - history : k]), *rated[k], timestamp[k], order[k])
        for k in range(history, len(code))
        if code[k - history] == code[k]
    ]
    return examples if last == -1 else examples[-last:]


def shuffled_histories(ratings, history, min_ratings, seed):
    """One example per user, without time: of the shuffled ratings the first (`history` at most) predict the last.

    Users come in order of first appearance; those with fewer than `min_ratings` ratings are left out. Every user's
    ratings are shuffled by Python's generator, seeded anew with `seed`, as in the published code.
    Returns the examples. Raises InputError if there is none.
    """
    by_user, examples = {}, []
    for user, item, rating in zip(ratings["user"].tolist(), ratings["item"].tolist(), ratings["rating"].tolist()):
        by_user.setdefault(user, []).append((item, rating))
    for user, rated in by_user.items():
        if len(rated) >= min_ratings:
            random.Random(seed).shuffle(rated)
            examples.append(Example(user, tuple(rated[:-1][:history]), *rated[-1]))
    if not examples:
        raise InputError(
            f"no user has {min_ratings} ratings or more, so there is no record; give a smaller --min_ratings"
        )
    return examples


def split_examples(examples, how, ratio, seed):
    """Cut examples into {"train": [...], "valid": [...], "test": [...]} in the proportions `ratio`.

    how: "order" cuts them as they come (the published way; a user's windows may fall on both sides of a cut);
    "time" sorts them by the time of the target first, so that no target is tested that is older than one in training;
    "user" shuffles users with `seed` and keeps all examples of a user in one split.
    Raises InputError if a split would be empty, or for "time" without times.
    """
    if how == "time":
        if examples[0].timestamp is None:
            raise InputError("--split time: these ratings have no times; use --split user or order")
        examples = sorted(examples, key=lambda example: example.order)
    cuts = [len(examples) * sum(ratio[:part]) // sum(ratio) for part in (1, 2, 3)]
    if how == "user":
        by_user = {}
        for example in examples:
            by_user.setdefault(example.user, []).append(example)
        users = list(by_user)
        random.Random(seed).shuffle(users)
        examples = [example for user in users for example in by_user[user]]
        ends = np.cumsum([len(by_user[user]) for user in users])
        cuts = [int(max(ends[ends <= cut], default=0)) for cut in cuts]  # down to the end of a user
    splits = {name: examples[begin:end] for name, begin, end in zip(SPLITS, [0, *cuts], cuts)}
    for name, part in splits.items():
        if not part:
            raise InputError(
                f"{len(examples)} records of {len({e.user for e in examples})} users are too few for a split "
                f"{':'.join(map(str, ratio))} by {how}: {name} would be empty"
            )
    return splits


def without_known_targets(examples, items):
    """The examples whose history does not hold the target's title and creator already. items: as in Source."""
    names = dict(zip(items.index.tolist(), zip(items["title"].tolist(), items["creator"].tolist())))
    return [e for e in examples if names[e.item] not in {names[item] for item, _ in e.history}]
