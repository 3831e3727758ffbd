"""Floors: rules that need no language model and no training, to stand beside every AUC."""

from collections import Counter

import numpy as np

ITEM_PRIOR = 5  # made-up ratings, half of them likes, that are added to an item's own for its like-rate


def history_floor(preferences):
    """Share of liked items in the history, (likes + 0.5) / (items + 1), as an (n,) score."""
    return np.array([(len(p.likes) + 0.5) / (len(p.history) + 1) for p in preferences])


def target_counts(answered):
    """({item: how often it is a target}, {item: how often it is a liked one}) of pairs (Preference, 0 or 1). Only targets
    count, not histories: with overlapping windows a history repeats the same rating up to ten times."""
    times, likes = Counter(), Counter()
    for preference, liked in answered:
        times[preference.target] += 1
        likes[preference.target] += liked
    return times, likes


def like_rate(times, likes):
    """(liked + 2.5) / (times + 5) of numbers or arrays: `ITEM_PRIOR` made-up ratings, half of them likes, keep the rates
    of items that were seen once or twice near 0.5; an item never seen gets 0.5."""
    return (likes + ITEM_PRIOR / 2) / (times + ITEM_PRIOR)


def floor_scores(preferences, train=None):
    """{name: (n,) score}: "history", and with `train`, pairs (Preference, 0 or 1) of the train split, "item", the
    like-rate of each target there, and "history + item", the sum of the two rates."""
    floors = {"history": history_floor(preferences)}
    if train is not None:
        times, likes = target_counts(train)
        floors["item"] = np.array([like_rate(times[p.target], likes[p.target]) for p in preferences])
        floors["history + item"] = floors["history"] + floors["item"]
    return floors
