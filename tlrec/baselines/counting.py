"""Baselines that count: popularity and item-kNN, over the ratings in the training shots."""

from collections import Counter

import numpy as np
from scipy.sparse import coo_array
from sklearn.preprocessing import normalize

from tlrec.data.users import infer_users

PRIOR = 5  # made-up ratings at the mean like-rate, added to an item's own
VOTE = 1.0  # weight of the mean like-rate among the votes of the neighbours


def ratings_of(preferences, labels):
    """{(user, item): liked} of all histories and targets.

    Rows of a user overlap and repeat a rating up to eleven times; users are inferred from the overlaps, so that each
    rating counts once.
    """
    ratings = {}
    for user, preference, label in zip(infer_users(preferences, labels).tolist(), preferences, labels, strict=True):
        ratings |= {(user, item): True for item in preference.likes}
        ratings |= {(user, item): False for item in preference.dislikes}
        ratings[user, preference.target] = bool(label)
    return ratings


class Popularity:
    """P(like) of an item: its like-rate among `ratings`, the same for all users.

    (likes + 5 m) / (times + 5), where m is the like-rate of all ratings: PRIOR made-up ratings pull the rates
    of items with few ratings towards m, and an item that was never rated gets m.
    """

    def __init__(self, ratings):
        self.mean = np.mean(list(ratings.values()))
        self.times = Counter(item for _, item in ratings)
        self.likes = Counter(item for (_, item), liked in ratings.items() if liked)

    def of_targets(self, preferences):
        """P(like) of each preference's target, (n,)."""
        return self.of_items(None, [preference.target for preference in preferences])

    def of_items(self, preference, items):
        """P(like) of items, (n,), after the history of a preference, which has no effect here."""
        likes, times = ([counts[item] for item in items] for counts in (self.likes, self.times))
        return (np.array(likes) + PRIOR * self.mean) / (np.array(times) + PRIOR)


class ItemKNN:
    """P(like) of an item: the history's votes, weighted by similarity to it.

    An item is its vector of ratings over the training users, 1 liked, -1 disliked, 0 not rated; s is the cosine of
    target and history item. A liked item votes for the target if s > 0 and against it if s < 0, a disliked one the
    other way round, each with weight |s| (weighted sum of Sarwar et al. 2001, Item-Based Collaborative Filtering
    Recommendation Algorithms, WWW, section 3.2). All history items are neighbours. The mean like-rate of the training
    ratings votes too, with weight VOTE; it is the result if target or whole history was never rated in training.
    """

    def __init__(self, ratings):
        users, self.items = (
            {key: number for number, key in enumerate(dict.fromkeys(keys))} for keys in zip(*ratings, strict=True)
        )
        values = np.array([1.0 if liked else -1.0 for liked in ratings.values()])
        places = [users[user] for user, _ in ratings], [self.items[item] for _, item in ratings]
        table = coo_array((values, places), shape=(len(users), len(self.items)))
        self.table, self.mean = normalize(table.tocsc(), axis=0), (values > 0).mean()

    def of_targets(self, preferences):
        """P(like) of each preference's target, (n,)."""
        return np.array([self.of_items(preference, [preference.target])[0] for preference in preferences])

    def of_items(self, preference, items):
        """P(like) of items, (n,), after the history of a preference."""
        history = [
            (self.items[item], liked)
            for group, liked in ((preference.likes, 1.0), (preference.dislikes, -1.0))
            for item in group
            if item in self.items
        ]
        probabilities = np.full(len(items), self.mean)
        known = [place for place, item in enumerate(items) if item in self.items]
        if known and history:
            columns, signs = map(np.array, zip(*history, strict=True))
            targets = self.table[:, [self.items[items[place]] for place in known]].toarray()
            similarity = self.table[:, columns].T @ targets  # history x known items
            weights = np.abs(similarity)
            votes_for = np.where(similarity * signs[:, None] > 0, weights, 0).sum(axis=0)
            probabilities[known] = (votes_for + VOTE * self.mean) / (weights.sum(axis=0) + VOTE)
        return probabilities
