"""User filtering: candidate recommendations for a user, taken from the histories most similar to the user's own.

Source: Wang and Lim, Zero-Shot Next-Item Recommendation using Large Pretrained Language Models (2023). Their "users"
are the rows of a record file here.
"""

import numpy as np
from scipy.sparse import csr_array

PAIRS_AT_ONCE = 16_000_000  # of rows that are compared at once; limits memory


def nearest_rows(histories, user_num, users=None):
    """The rows most similar to each row, by the number of history items they share; ties go to the earlier row.

    histories: list of n lists of hashable items. user_num: how many rows, the row itself included.
    users:     int array (n,); with it, rows of the same user (and so the row itself) are left out.
    Returns (rows, shared), two int arrays of shape (n, user_num), most similar first, also rows that share nothing. If
    there are too few rows, `rows` ends with -1 and `shared` with 0.
    """
    n, numbers = len(histories), {}
    sets = [{numbers.setdefault(item, len(numbers)) for item in history} for history in histories]
    items = np.array([item for row in sets for item in row], dtype=np.int64)
    ends = np.cumsum([0, *map(len, sets)])
    has_item = csr_array((np.ones(len(items), dtype=np.int16), items, ends), shape=(n, max(1, len(numbers))))
    by_item = has_item.T.tocsr()
    rows, shared = np.full((n, user_num), -1), np.zeros((n, user_num), dtype=np.int64)
    step = max(1, PAIRS_AT_ONCE // max(1, n))
    for start in range(0, n, step):
        together = (has_item[start : start + step] @ by_item).toarray()
        if users is not None:
            together[users[start : start + step, None] == users] = -1
        best = np.argsort(-together, axis=1, kind="stable")[:, :user_num]
        counts = np.take_along_axis(together, best, axis=1)
        part = slice(start, start + step), slice(best.shape[1])
        rows[part], shared[part] = np.where(counts < 0, -1, best), np.maximum(counts, 0)
    return rows, shared


def rank_candidates(histories, rows, shared, candidate_num):
    """The best items of the nearest rows, without those in the row's own history.

    rows, shared: what `nearest_rows` returned. The weight of an item is the sum of the similarities of the rows that
    contain it. (The definition divides by the sum of all similarities of a row; that does not change the order, and
    whole numbers keep ties exact.) Ties go to the item met first, from the most similar row on and in the order of its
    history.
    Returns n lists of at most candidate_num items, best first.
    """
    candidates = []
    for own, nearest, weights in zip(histories, rows.tolist(), shared.tolist(), strict=True):
        own, scores = set(own), {}
        for row, weight in zip(nearest, weights):
            if row >= 0:
                for item in dict.fromkeys(histories[row]):
                    if item not in own:
                        scores[item] = scores.get(item, 0) + weight
        candidates.append(sorted(scores, key=scores.get, reverse=True)[:candidate_num])
    return candidates
