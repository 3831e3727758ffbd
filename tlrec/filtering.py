"""User filtering: the candidates a user may be recommended, taken from the histories most similar to the own one.

Source: Wang and Lim, Zero-Shot Next-Item Recommendation using Large Pretrained Language Models (2023), whose "users"
are here the rows of a record file.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.sparse import csr_array

THREADS = min(4, os.cpu_count() or 1)
PAIRS_AT_ONCE = 4_000_000  # row pairs looked at in one go, and
MARKS_AT_ONCE = 64_000_000  # rows x items of the table they are looked up in; both bound the memory
PAIRS_IN_CACHE = 20_000
SHARED_RARE = 2  # measured: 1 looks up ten times as many pairs, 3 multiplies larger matrices


def nearest_rows(histories, user_num, users=None):
    """The rows most similar to each row, by the number of history items they share; ties go to the earlier row.

    histories: list of n lists of hashable items. user_num: how many rows, the row itself included.
    users:     int array (n,); with it, rows of the same user (and so the row itself) are left out.
    Returns (rows, shared), two int arrays of shape (n, user_num), most similar first. Where too few rows share an
    item, the earliest other rows follow with `shared` 0, as a stable sort of a dense similarity matrix would have it;
    where too few rows are left at all, `rows` holds -1.

    No similarity matrix is made. Two rows that share t items still share two when the t-2 most popular items of each
    are taken away. So rows are compared by their rare items first; t goes down from the length of the longest history,
    and a row is done as soon as user_num others share t items with it: all that could outrank them, or tie, were seen.
    """
    n = len(histories)
    items, matrix = _by_rarity(histories)
    sizes = np.diff(matrix.indptr)
    rows = np.full((n, user_num), -1)
    shared = np.zeros((n, user_num), dtype=np.int64)
    remaining = np.arange(n)
    for threshold in range(sizes.max(initial=0), 0, -1):
        rare = _without_popular(matrix, threshold - SHARED_RARE if threshold > SHARED_RARE else 0)
        by_item = rare.T.tocsr()
        pairs_of_row = rare[remaining] @ np.diff(by_item.indptr)

        def compare(chunk):
            """The best of the rows that share `threshold` items with the chunk's: (row, place, other, shared)."""
            found = (rare[chunk] @ by_item).tocoo()
            likely = found.data >= min(SHARED_RARE, threshold)
            at, other = found.coords[0][likely], found.coords[1][likely]
            if users is not None:
                others = users[chunk[at]] != users[other]
                at, other = at[others], other[others]
            overlap = _overlap(items, matrix.shape[1], chunk, at, other)
            enough = overlap >= threshold
            at, other, overlap = at[enough], other[enough], overlap[enough]
            order = np.lexsort((other, -overlap, at))
            at, other, overlap = at[order], other[order], overlap[order]
            counts = np.bincount(at, minlength=len(chunk))
            place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
            best = (place < user_num) & ((counts >= user_num)[at] | (threshold == 1))
            return chunk[at[best]], place[best], other[best], overlap[best]

        most_rows = max(1, MARKS_AT_ONCE // matrix.shape[1])
        with ThreadPoolExecutor(THREADS) as pool:  # scipy and numpy compute outside Python's lock
            for row, place, other, overlap in pool.map(compare, _chunks(remaining, pairs_of_row, most_rows)):
                rows[row, place], shared[row, place] = other, overlap
        finished = rows[:, -1] >= 0
        remaining = remaining[~finished[remaining]]
    for row in remaining:
        _append_earliest(rows[row], row, n, users)
    return rows, shared


def rank_candidates(histories, rows, shared, candidate_num):
    """The best items of the nearest rows that are not in the own history.

    rows, shared: what `nearest_rows` returned. An item weighs the summed similarity of the rows that hold it. (The
    definition divides by the sum of all similarities of a row; that changes no order, and whole numbers keep ties
    exact.) Ties go to the item met first, from the most similar row on and in the order of its history.
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
    """Histories as item numbers, 0 for the rarest item of all, in two forms with ascending numbers in each row.

    Returns an int array (n, longest history) padded with one number more than there are items, and a 0/1 csr_array
    (n, number of items).
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
    inside = items < n_items
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    return items, csr_array((np.ones(len(flat), dtype=np.int32), items[inside], indptr), (len(sets), n_items))


def _without_popular(matrix, count):
    """`matrix` without the last `count` entries of each row, which are its most popular items."""
    sizes = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], sizes)
    keep = place < np.repeat(sizes - count, sizes)
    indptr = np.concatenate([[0], np.cumsum(np.maximum(sizes - count, 0))])
    return csr_array((matrix.data[keep], matrix.indices[keep], indptr), matrix.shape)


def _chunks(rows, pairs_of_row, most_rows):
    """Cut `rows` into pieces of at most `most_rows` that make at most PAIRS_AT_ONCE pairs, or are a single row."""
    start = 0
    ends = np.cumsum(pairs_of_row)
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
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
    for start in range(0, len(at), PAIRS_IN_CACHE):
        part = slice(start, start + PAIRS_IN_CACHE)
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
