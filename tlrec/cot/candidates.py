"""User filtering: candidate recommendations for a user, taken from the histories most similar to the user's own.

Source: Wang and Lim, Zero-Shot Next-Item Recommendation using Large Pretrained Language Models (2023). Their "users"
are the rows of a record file here.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
from scipy.sparse import csr_array

THREADS = min(4, os.cpu_count() or 1)
MATCHES_AT_ONCE = 4_000_000  # row pairs that are compared at once
MARKS_AT_ONCE = 64_000_000  # rows x items of the table they are compared in; both limit memory
ROWS_IN_CACHE = 20_000


def nearest_rows(histories, user_num, users=None):
    """The rows most similar to each row, by the number of history items they share; ties go to the earlier row.

    histories: list of n lists of hashable items. user_num: how many rows, the row itself included.
    users:     int array (n,); with it, rows of the same user (and so the row itself) are left out.
    Returns (rows, shared), two int arrays of shape (n, user_num), most similar first. If too few rows share an item,
    the earliest other rows follow with `shared` 0, as in a stable sort of a dense similarity matrix; if there are too
    few rows at all, `rows` holds -1.

    No similarity matrix is made. Two rows that share t items still share a *pair* of items, the two rarest of the t,
    when the t-2 most popular items of each are removed. So only rows that share a pair of their rare items are
    compared; t goes down from the length of the longest history, and a row is done as soon as user_num others share t
    items with it: every row that could rank above or beside them has been seen.
    """
    n = len(histories)
    items, sizes, n_items = _by_rarity(histories)
    rows = np.full((n, user_num), -1)
    shared = np.zeros((n, user_num), dtype=np.int64)
    remaining = np.arange(n)
    for threshold in range(sizes.max(initial=0), 0, -1):
        groups = _rare_groups(items, sizes, n_items, threshold)
        by_group = groups.T.tocsr()
        matches = groups[remaining] @ np.diff(by_group.indptr)

        def compare(chunk):
            """The best of the rows that share `threshold` items with the chunk's: (row, place, other, shared)."""
            at, other = (groups[chunk] @ by_group).tocoo().coords  # rows that share a group
            if users is not None:
                others = users[chunk[at]] != users[other]
                at, other = at[others], other[others]
            overlap = _overlap(items, n_items, chunk, at, other)
            enough = overlap >= threshold
            at, other, overlap = at[enough], other[enough], overlap[enough]
            order = np.lexsort((other, -overlap, at))
            at, other, overlap = at[order], other[order], overlap[order]
            counts = np.bincount(at, minlength=len(chunk))
            place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
            best = (place < user_num) & ((counts >= user_num)[at] | (threshold == 1))
            return chunk[at[best]], place[best], other[best], overlap[best]

        most_rows = max(1, MARKS_AT_ONCE // n_items)
        with ThreadPoolExecutor(THREADS) as pool:  # scipy and numpy release Python's lock
            for row, place, other, overlap in pool.map(compare, _chunks(remaining, matches, most_rows)):
                rows[row, place], shared[row, place] = other, overlap
        finished = rows[:, -1] >= 0
        remaining = remaining[~finished[remaining]]
    for row in remaining:
        _append_earliest(rows[row], row, n, users)
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


def _by_rarity(histories):
    """Histories as item numbers, 0 for the rarest item of all.

    Returns an int array (n, longest history), ascending in each row and padded with the number of items; the number of
    different items of each row (n,); and the number of items.
    """
    first_seen = {}
    sets = [sorted({first_seen.setdefault(item, len(first_seen)) for item in history}) for history in histories]
    sizes = np.array([len(row) for row in sets], dtype=np.int64)
    flat = np.array([item for row in sets for item in row], dtype=np.int64)
    n_items = len(first_seen)
    number = np.empty(n_items, dtype=np.int32)
    number[np.argsort(np.bincount(flat, minlength=n_items), kind="stable")] = np.arange(n_items)
    items = np.full((len(sets), sizes.max(initial=0)), n_items, dtype=np.int32)
    items[np.arange(items.shape[1]) < sizes[:, None]] = number[flat]
    items.sort(axis=1)
    return items, sizes, n_items


def _rare_groups(items, sizes, n_items, threshold):
    """All pairs of the items of each row, without its `threshold` - 2 most popular ones: a 0/1 csr_array (n, pairs).

    For threshold 1: single items instead of pairs.
    """
    length = min(2, threshold)
    rows, groups = [], []
    for places in combinations(range(items.shape[1] - threshold + length), length):
        have = np.flatnonzero(places[-1] < sizes - threshold + length)
        group = np.zeros(len(have), dtype=np.int64)
        for place in places:
            group = group * n_items + items[have, place]
        rows.append(have)
        groups.append(group)
    rows, groups = np.concatenate(rows), np.concatenate(groups)
    found, column = np.unique(groups, return_inverse=True)
    return csr_array((np.ones(len(rows), dtype=np.int32), (rows, column)), shape=(len(items), len(found)))


def _chunks(rows, matches, most_rows):
    """Cut `rows` into pieces of at most `most_rows` that have at most MATCHES_AT_ONCE matches, or are a single row."""
    start = 0
    ends = np.cumsum(matches)
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + MATCHES_AT_ONCE, side="right")))
        stop = min(stop, start + most_rows)
        yield rows[start:stop]
        start = stop


def _overlap(items, n_items, chunk, at, other):
    """Number of items that row chunk[at] and row other share, for each pair."""
    has = np.zeros((len(chunk), n_items + 1), dtype=np.uint8)
    has[np.arange(len(chunk))[:, None], items[chunk]] = 1
    has[:, n_items] = 0  # the padding
    has = has.ravel()
    overlap = np.empty(len(at), dtype=np.int64)
    for start in range(0, len(at), ROWS_IN_CACHE):
        part = slice(start, start + ROWS_IN_CACHE)
        places = items.take(other[part], axis=0)
        places += (at[part] * (n_items + 1)).astype(np.int32)[:, None]
        overlap[part] = has.take(places).sum(axis=1, dtype=np.int64)
    return overlap


def _append_earliest(found, row, n, users):
    """Fill the -1 at the end of `found` with the earliest rows that are not in it (nor of the row's own user)."""
    known = set(found[found >= 0].tolist())
    place = len(known)
    other = 0
    while place < len(found) and other < n:
        if other not in known and (users is None or users[other] != users[row]):
            found[place] = other
            place += 1
        other += 1
