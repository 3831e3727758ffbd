"""User filtering.

1. Same neighbours, similarities and candidates, in the same order, as a dense implementation: for windows of users,
   for histories of all lengths (empty ones, repeated items), for few rows, without the rows of the same user, and in
   small pieces.
2. Ties: similar rows by row number, candidates by first appearance.
The figures on the Netflix source data are in test_neighbours.py.
"""

import numpy as np
import pytest

from tlrec.cot.candidates import nearest_rows, rank_candidates


def dense_candidates(histories, user_num, candidate_num, users=None):
    """(rows, shared, candidates) the straightforward way: a full matrix of similarities."""
    vocabulary = {item: number for number, item in enumerate(dict.fromkeys(i for row in histories for i in row))}
    vectors = np.zeros((len(histories), len(vocabulary)))
    for row, history in enumerate(histories):
        vectors[row, [vocabulary[item] for item in history]] = 1
    similarity = vectors @ vectors.T
    if users is not None:
        similarity[users[:, None] == users[None, :]] = -1
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :user_num]
    shared = np.take_along_axis(similarity, rows, axis=1)
    candidates = []
    for own, nearest, weights in zip(histories, rows, shared):
        scores = {}
        for row, weight in zip(nearest, weights):
            for item in dict.fromkeys(histories[row] if weight >= 0 else []):
                if item not in own:
                    scores[item] = scores.get(item, 0) + weight
        candidates.append(sorted(scores, key=lambda item: -scores[item])[:candidate_num])
    return np.where(shared < 0, -1, rows), np.maximum(shared, 0), candidates


def random_histories(n_rows, n_items, lengths, seed):
    random = np.random.default_rng(seed)
    popularity = 1 / np.arange(3, n_items + 3)
    popularity /= popularity.sum()
    lengths = random.integers(*lengths, size=n_rows)
    return [[f"item {i}" for i in random.choice(n_items, n, replace=False, p=popularity)] for n in lengths]


def assert_equal_to_dense(histories, user_num, candidate_num, users=None):
    rows, shared = nearest_rows(histories, user_num, users)
    dense_rows, dense_shared, dense = dense_candidates(histories, user_num, candidate_num, users)
    width = dense_rows.shape[1]
    assert np.array_equal(rows[:, :width], dense_rows)
    assert np.array_equal(shared[:, :width], dense_shared)
    assert (rows[:, width:] == -1).all()
    assert rank_candidates(histories, rows, shared, candidate_num) == dense


@pytest.mark.parametrize("pairs_at_once", [16_000_000, 600])  # all rows at once, and in small pieces
def test_windows_of_users(monkeypatch, pairs_at_once):
    monkeypatch.setattr("tlrec.cot.candidates.PAIRS_AT_ONCE", pairs_at_once)
    ratings = random_histories(60, 120, (11, 16), seed=0)
    windows = [(row[start : start + 10], user) for user, row in enumerate(ratings) for start in range(len(row) - 9)]
    histories, users = [window for window, _ in windows], np.array([user for _, user in windows])
    assert_equal_to_dense(histories, 12, 19)
    assert_equal_to_dense(histories, 12, 19, users)


@pytest.mark.parametrize(
    ("n_rows", "n_items", "lengths"),
    [(150, 60, (0, 4)), (150, 60, (1, 30)), (40, 2000, (10, 11)), (5, 30, (5, 11)), (1, 30, (5, 11))],
)  # short and long, hardly anything shared, fewer rows than neighbours
def test_histories_of_all_lengths(n_rows, n_items, lengths):
    histories = random_histories(n_rows, n_items, lengths, seed=0)
    assert_equal_to_dense(histories, 12, 19)
    assert_equal_to_dense(histories, 12, 19, users=np.arange(n_rows) // 2)


def test_no_rows_and_rows_without_history():
    rows, shared = nearest_rows([], 12)
    assert rows.shape == shared.shape == (0, 12)
    rows, shared = nearest_rows([[], [], []], 2)
    assert rows.tolist() == [[0, 1], [0, 1], [0, 1]] and not shared.any()


def test_an_item_twice_in_a_history_counts_once():
    histories = [["a", "a", "b"], ["a", "b", "c", "c"], ["a", "d"]]
    rows, shared = nearest_rows(histories, 3)
    assert shared.tolist() == [[2, 2, 1], [3, 2, 1], [2, 1, 1]]
    assert rank_candidates(histories, rows, shared, 19) == [["c", "d"], ["d"], ["b", "c"]]


def test_ties_go_to_the_earlier_row_and_to_the_item_met_first():
    histories = [["a", "z"], ["a", "y"], ["a", "x", "w"], ["a", "y"], ["q"]]
    rows, shared = nearest_rows(histories, 4)
    assert rows[0].tolist() == [0, 1, 2, 3] and shared[0].tolist() == [2, 1, 1, 1]
    assert rows[3].tolist() == [1, 3, 0, 2]
    assert rank_candidates(histories, rows, shared, 19)[0] == ["y", "x", "w"]
    assert rank_candidates(histories, rows, shared, 2)[0] == ["y", "x"]
