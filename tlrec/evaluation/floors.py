"""Floors: rules that need no language model and no training, to stand beside every AUC."""

import numpy as np

from tlrec.data.preferences import parse_input
from tlrec.data.records import LABELS
from tlrec.errors import InputError

ITEM_PRIOR = 5  # made-up ratings, half of them likes, that are added to an item's own for its like-rate


def history_floor(preferences):
    """Share of liked items in the history, (likes + 0.5) / (items + 1), as an (n,) score."""
    return np.array([(len(p.likes) + 0.5) / (len(p.history) + 1) for p in preferences])


def item_floor(preferences, train_records):
    """Like-rate of each target among the targets of `train_records`, as an (n,) score.

    (liked + 2.5) / (times + 5): `ITEM_PRIOR` made-up ratings, half of them likes, keep the rates of items that were
    seen once or twice near 0.5; an item never seen gets 0.5. Only targets count, not histories: with overlapping
    windows a history repeats the same rating up to ten times. Raises InputError for a train record in another form.
    """
    times, liked = {}, {}
    for row, record in enumerate(train_records, start=1):
        try:
            target = parse_input(record["input"]).target
        except ValueError as error:
            raise InputError(f"training data: row {row}: {error}") from None
        times[target] = times.get(target, 0) + 1
        liked[target] = liked.get(target, 0) + LABELS[record["output"]]
    targets = [p.target for p in preferences]
    return np.array([(liked.get(t, 0) + ITEM_PRIOR / 2) / (times.get(t, 0) + ITEM_PRIOR) for t in targets])


def floor_scores(preferences, train_records=None):
    """{name: (n,) score}: "history", and with train records "item" and "history + item", the sum of the two rates. {}
    without preferences (None)."""
    if preferences is None:
        return {}
    floors = {"history": history_floor(preferences)}
    if train_records is not None:
        floors["item"] = item_floor(preferences, train_records)
        floors["history + item"] = floors["history"] + floors["item"]
    return floors
