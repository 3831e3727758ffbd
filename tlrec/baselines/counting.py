"""Baselines that count: popularity and item-kNN, over the ratings in the training shots."""

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


def popularity(ratings, preferences):
    """P(like) of each target: its like-rate among `ratings`, the same for all users. Shape (n,).

    (likes + 5 m) / (times + 5), where m is the like-rate of all ratings: PRIOR made-up ratings pull the rates
    of items with few ratings towards m, and an item that was never rated gets m.
    """
    mean = np.mean(list(ratings.values()))
    times, likes = {}, {}
    for (_, item), liked in ratings.items():
        times[item] = times.get(item, 0) + 1
        likes[item] = likes.get(item, 0) + liked
    targets = [preference.target for preference in preferences]
    return np.array([(likes.get(t, 0) + PRIOR * mean) / (times.get(t, 0) + PRIOR) for t in targets])


def item_knn(ratings, preferences):
    """P(like) of each target: the history's votes, weighted by similarity to the target. Shape (n,).

    An item is its vector of ratings over the training users, 1 liked, -1 disliked, 0 not rated; s is the cosine of
    target and history item. A liked item votes for the target if s > 0 and against it if s < 0, a disliked one the
    other way round, each with weight |s| (weighted sum of Sarwar et al. 2001, Item-Based Collaborative Filtering
    Recommendation Algorithms, WWW, section 3.2). All history items are neighbours. The mean like-rate of the training
    ratings votes too, with weight VOTE; it is the result if target or whole history was never rated in training.
    """
    users, items = (
        {key: number for number, key in enumerate(dict.fromkeys(keys))} for keys in zip(*ratings, strict=True)
    )
    values = np.array([1.0 if liked else -1.0 for liked in ratings.values()])
    places = [users[user] for user, _ in ratings], [items[item] for _, item in ratings]
    table = normalize(coo_array((values, places), shape=(len(users), len(items))).tocsc(), axis=0)
    mean = (values > 0).mean()

    probabilities = np.full(len(preferences), mean)
    for row, preference in enumerate(preferences):
        history = [
            (items[item], liked)
            for group, liked in ((preference.likes, 1.0), (preference.dislikes, -1.0))
            for item in group
            if item in items
        ]
        if preference.target in items and history:
            columns, signs = map(np.array, zip(*history, strict=True))
            similarity = table[:, columns].T @ table[:, [items[preference.target]]].toarray()[:, 0]
            votes_for = np.abs(similarity)[similarity * signs > 0].sum()
            probabilities[row] = (votes_for + VOTE * mean) / (np.abs(similarity).sum() + VOTE)
    return probabilities
