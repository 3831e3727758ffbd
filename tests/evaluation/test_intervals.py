"""Intervals: tlrec/evaluation/intervals.py, hits.py and comparison.py.

1.  The jackknife of a mean over equal users is the t interval of textbooks; that of AUC is a loop over scikit-learn's.
2.  95 % intervals of 16 users as unequal as those of the published Movie test cover 0.91 to 0.985 in 250 repeats, for
    AUC, uAUC, hit rates and paired differences of unlike scores; so do intervals over independent rows.
3.  Where users do not tell how certain a number is, there is no interval: one user, one who decides whether it is
    defined, equal values, no hit at all. Chance by construction is exact.
4.  Differences are paired; a method against itself has none.
5.  More users than are left out one by one are left out in groups.
"""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from tlrec.evaluation import intervals
from tlrec.evaluation.comparison import compare_scores, units_of
from tlrec.evaluation.hits import compare_hits, row_metrics
from tlrec.evaluation.intervals import jackknife, jackknife_means
from tlrec.evaluation.metrics import auc, uauc

HIT_RATE = stats.norm.sf(1 / np.sqrt(2))  # of `draw`
MOVIE = [10, 10, 12, 16, 22, 29, 30, 39, 51, 53, 69, 97, 98, 132, 158, 174]  # rows of the published test's users


def draw(rng, sizes):
    """(labels, users, two scores, hits of two methods): users of different generosity; one score counts the likes of a
    window over the user's last ten rows, as a history does, the other knows items; hits depend on user and method."""
    users = np.repeat(np.arange(len(sizes)), sizes)
    mood, taste = rng.normal(size=len(sizes))[users], rng.normal(size=len(users))
    labels = (mood + taste + 0.5 * rng.logistic(size=len(users)) > 0).astype(int)
    before, places = np.concatenate([[0], np.cumsum(labels)]), np.arange(len(users))
    start = np.maximum(np.searchsorted(users, users), places - 10)
    generous = 3 * (before[places] - before[start] + 0.5) / (places - start + 1) + 0.3 * taste
    generous += 0.2 * rng.normal(size=len(sizes))[users]
    tasteful = 0.7 * taste + rng.normal(size=len(users))
    hits = [rng.normal(size=len(sizes))[users] + rng.normal(size=len(users)) > 1 for _ in range(2)]
    return labels, users, [generous, tasteful], np.column_stack(hits).astype(float)


@pytest.mark.slow
def test_coverage_with_16_users():
    rng, repeats = np.random.default_rng(0), 250
    labels, users, scores, hits = draw(rng, rng.choice(MOVIE, 20_000))
    true = {metric: [metric(labels, score, users) for score in scores] for metric in (auc, uauc)}
    right = dict.fromkeys(["auc", "auc difference", "uauc", "uauc difference", "hits", "hits difference"], 0)
    for _ in range(repeats):
        labels, users, scores, hits = draw(rng, MOVIE)
        found = {metric.__name__: (jackknife(metric, labels, scores, users), true[metric]) for metric in (auc, uauc)}
        found["hits"] = jackknife_means(hits, users), [HIT_RATE, HIT_RATE]
        for name, (one, values) in found.items():
            low, high = one.interval([0])
            right[name] += (low <= values[0] <= high) / repeats
            low, high = one.interval([0], [1])
            right[f"{name} difference"] += (low <= values[0] - values[1] <= high) / repeats
    # two standard errors of 250 repeats are 0.028; a percentile bootstrap over users has 0.87 for AUC on MOVIE
    assert all(0.91 <= share <= 0.985 for share in right.values()), right


@pytest.mark.slow
def test_coverage_over_independent_rows():
    rng, true, right = np.random.default_rng(0), stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(150):
        labels = rng.integers(0, 2, 60)
        low, high = jackknife(auc, labels, [labels + rng.normal(size=60)]).interval([0])
        right += low <= true <= high
    assert 0.91 <= right / 150 <= 0.99


def test_equal_users_give_the_t_interval():
    values = np.random.default_rng(0).normal(size=(12, 5))
    users = np.repeat(np.arange(12), 5)
    of_users = values.mean(axis=1)
    expected = stats.t.interval(0.95, 11, of_users.mean(), stats.sem(of_users))
    assert jackknife_means(values.reshape(-1, 1), users).interval([0]) == pytest.approx(expected)
    # a metric within users weighs them the same, however many rows they have, and leaves out who has one label
    labels, scores = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1]), np.arange(13) * 7 % 13
    users = np.array([1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5, 5, 5])
    aucs = [roc_auc_score(labels[users == user], scores[users == user]) for user in (1, 2, 3, 5)]
    expected = stats.t.interval(0.95, 3, np.mean(aucs), stats.sem(aucs))
    assert jackknife(uauc, labels, [scores], users).interval([0]) == pytest.approx(expected)


def test_auc_by_a_loop():
    rng = np.random.default_rng(3)
    labels, users, scores, _ = draw(rng, [9, 20, 31, 14, 40])
    others = [users != user for user in range(5)]
    without = np.array([[roc_auc_score(labels[rows], score[rows]) for score in scores] for rows in others])
    difference = without[:, 0] - without[:, 1]
    error = np.sqrt(4 / 5 * ((difference - difference.mean()) ** 2).sum())
    rows = np.bincount(users).astype(float)
    reach = stats.t.ppf(0.975, (rows**2).sum() ** 2 / (rows**4).sum() - 1) * error
    centre = roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1])
    found = jackknife(auc, labels, scores, users)
    assert found.interval([0], [1]) == pytest.approx([centre - reach, centre + reach])
    both = found.interval([0, 1])  # the mean of two seeds
    assert np.mean(both) == pytest.approx(found.values.mean()) and both != found.interval([0])


def test_no_interval_where_users_do_not_tell():
    labels, users = np.array([0, 1] * 10), np.repeat(np.arange(5), 4)
    rng = np.random.default_rng(0)
    varying, right, equal = 0.5 * labels + rng.normal(size=20), labels.astype(float), np.zeros(20)
    for metric in (auc, uauc):
        found = jackknife(metric, labels, [varying, right, equal], users)
        assert found.interval([0]) is not None
        assert found.interval([1]) is None  # 1.0 without whomever: that does not make it exact
        assert found.interval([0], [1]) is None and found.interval([1], [2]) is None
        assert found.interval([2]) is None  # equal scores: 0.5 by construction, so the difference to it is the other's
        assert found.interval([0], [2]) == pytest.approx(np.array(found.interval([0])) - 0.5)
        assert found.interval([0], [0]) is None
    assert jackknife(auc, labels, [varying], np.zeros(20)).interval([0]) is None  # one user
    one_has_all_likes = np.repeat([1, 0, 0], [4, 8, 8])
    assert jackknife(auc, one_has_all_likes, [varying], np.repeat([0, 1, 2], [4, 8, 8])).interval([0]) is None
    both_labels = np.array([0, 1, 1, 1, 0, 0])
    assert jackknife(uauc, both_labels, [np.arange(6)], [0, 0, 1, 1, 2, 2]).interval([0]) is None


def test_no_hit_in_eight_rows_is_not_significant():
    none, some = row_metrics(np.full(8, 70), np.zeros(8)), row_metrics([0, 70, 3, 70, 70, 8, 70, 1], np.zeros(8))
    for sizes in (np.full(8, 101), np.array([90, 95, 100, 105, 110, 91, 92, 93])):
        chance = row_metrics(np.zeros(8), sizes - 1)
        rates = compare_hits({"none": none, "some": some, "chance": chance}, np.arange(8), sizes)
        assert rates.numbers(["none"])["hr@10"] == 0 and rates.numbers(["none"], ["chance"])["hr@10"] < 0
        for minus in ([], ["chance"], ["some"]):
            assert rates.numbers(["none"], minus)["intervals"]["hr@10"]["users"] is None
        found = rates.numbers(["some"], ["chance"])
        low, high = found["intervals"]["hr@10"]["users"]
        assert low < found["hr@10"] < high


def test_many_users_are_left_out_in_groups():
    rng = np.random.default_rng(5)
    labels, users, scores, _ = draw(rng, rng.integers(1, 4, 500))
    found = jackknife(auc, labels, scores, users)
    assert found.without.shape == (intervals.GROUPS, 2)
    low, high = found.interval([0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "GROUPS", 10_000)
        exact = jackknife(auc, labels, scores, users).interval([0])
    assert high - low == pytest.approx(np.ptp(exact), rel=0.25) and low + high == pytest.approx(sum(exact))


def test_comparison_of_seeds_and_units():
    rng = np.random.default_rng(7)
    labels, users, scores, _ = draw(rng, [30] * 10)
    comparison = compare_scores(labels, {"x": scores[0], "y": scores[1]}, units_of(users))
    found = comparison.numbers(["x"], ["y"])
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1]))
    assert list(found["intervals"]["auc"]) == ["rows", "users"] and list(found["intervals"]["uauc"]) == ["users"]
    back = comparison.numbers(["y"], ["x"])["intervals"]["uauc"]["users"]
    assert back == pytest.approx([-bound for bound in reversed(found["intervals"]["uauc"]["users"])])
    assert compare_scores(labels, {"x": scores[0]}, units_of(None)).numbers(["x"])["uauc"] is None
