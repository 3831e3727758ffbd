"""Users inferred from overlapping windows.

1. Rows of one user chain up: next window, gaps, shuffled rows, answers known or not; numbers go by first appearance,
   and times count a user's ratings.
2. Users who merely share popular items, or who share the right items in another order, stay apart.
3. Rows without overlap (Book-Crossing) are a user each; identical rows are one user; no rows, no users.
4. On the published Movie splits, the users are those of MovieLens-100K.
"""

from itertools import groupby

import numpy as np
import pytest

from tests.support.synthetic import preference, windows
from tlrec.data.preferences import parse_input
from tlrec.data.records import labels_of, read_records
from tlrec.data.users import infer_timeline, infer_users


def crowd(n_users, n_ratings, n_items=2000, seed=0):
    """(preferences, answers, users) of users who rate items drawn by a steep popularity, in random order."""
    random = np.random.default_rng(seed)
    popularity = 1 / np.arange(10, 10 + n_items)
    popularity /= popularity.sum()
    found = []
    for _ in range(n_users):
        items = random.choice(n_items, n_ratings, replace=False, p=popularity)
        found += windows([(f"film {item}", random.random() < 0.6) for item in items])
    preferences, answers = zip(*found)
    return preferences, np.array(answers, dtype=int), np.repeat(np.arange(n_users), n_ratings - 10)


def same_partition(first, second):
    first, second = list(first), list(second)
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


@pytest.mark.parametrize("answers_known", [True, False])
def test_users_of_shuffled_windows(answers_known):
    preferences, answers, users = crowd(n_users=60, n_ratings=40)
    order = np.random.default_rng(1).permutation(len(users))
    found = infer_users([preferences[i] for i in order], answers[order] if answers_known else None)
    assert same_partition(found, users[order])
    assert [user for user, _ in groupby(sorted(found))] == list(range(60))
    first_seen = list(dict.fromkeys(found))
    assert first_seen == sorted(first_seen)


def test_times_count_the_ratings_in_between():
    preferences, answers, users = crowd(n_users=60, n_ratings=40)
    place = np.tile(np.arange(30), 60)
    some = np.random.default_rng(1).permutation(len(users))[: len(users) // 2]
    found, times = infer_timeline([preferences[i] for i in some], answers[some])
    assert same_partition(zip(found, times - place[some]), found)


def test_gaps_are_bridged_while_enough_rare_items_are_shared():
    preferences, answers, users = crowd(n_users=60, n_ratings=40)
    every_fourth = np.arange(0, len(users), 4)
    found = infer_users([preferences[i] for i in every_fourth], answers[every_fourth])
    assert same_partition(found, users[every_fourth])


def test_rows_too_far_apart_share_nothing_and_are_not_linked():
    preferences, answers, _ = crowd(n_users=1, n_ratings=40)
    assert list(infer_users([preferences[0], preferences[11]], [answers[0], answers[11]])) == [0, 1]


def test_same_items_in_another_order_are_another_user():
    films = [(f"film {k}", True) for k in range(12)]
    (first, _), (second, _) = windows(films)
    _, (swapped, _) = windows([films[0], films[2], films[1], *films[3:9], films[10], films[9], films[11]])
    assert list(infer_users([first, second], [1, 1])) == list(infer_users([first, second])) == [0, 0]
    assert list(infer_users([first, swapped], [1, 1])) == [0, 1]
    assert list(infer_users([first, second], [0, 1])) == [0, 1]  # a wrong answer breaks the chain


def test_identical_rows_are_one_user_and_lone_rows_one_each():
    preferences, answers, _ = crowd(n_users=3, n_ratings=11)
    assert list(infer_users(preferences, answers)) == [0, 1, 2]
    assert list(infer_users([preferences[2], *preferences], [answers[2], *answers])) == [0, 1, 2, 0]
    assert list(infer_users([preference(target="It")] * 2, [1, 1])) == [0, 1]  # empty histories tell nothing
    assert infer_users([]).shape == (0,)


def movielens_users(folder):
    """User of each of the last 10,000 windows of MovieLens-100K, as the published Movie splits take them."""
    ratings = {}
    for line in (folder / "raw" / "ml-100k" / "u.data").read_text().splitlines():
        user, _, _, time_stamp = line.split("\t")
        ratings.setdefault(user, []).append(time_stamp)
    return np.array([int(user) for user, stamps in ratings.items() for _ in range(len(stamps) - 10)][-10_000:])


@pytest.mark.slow
def test_true_users_of_the_published_movie_splits(shared_data):
    true_users = movielens_users(shared_data)
    for split, rows in (("train", slice(0, 8000)), ("valid", slice(8000, 9000)), ("test", slice(9000, 10_000))):
        records = read_records(shared_data / "rec_data" / "movie" / f"{split}.json")
        preferences = [parse_input(record["input"]) for record in records]
        for labels in (labels_of(records), None):
            users, times = infer_timeline(preferences, labels)
            assert same_partition(users, true_users[rows])
            place = np.concatenate(
                [np.arange((true_users[rows] == user).sum()) for user in dict.fromkeys(true_users[rows])]
            )
            assert same_partition(zip(users, times - place), users)  # each user's rows in their order
