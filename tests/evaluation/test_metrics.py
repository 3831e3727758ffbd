"""The numbers: tlrec/evaluation/metrics.py.

1.  AUC, DeLong, ECE, log-loss and Brier agree with hand-computed cases and with scikit-learn.
2.  The published score orders rows by p_yes - p_no, which is not the order of the log-odds.
3.  What is not defined is None, never 0.5.
4.  A bootstrap resample's AUC is scikit-learn's on the same rows, ties included; whole users are drawn together.
5.  Intervals cover: 92 to 98 % of 95 %, over rows where rows are independent, over users where they are not.
6.  Floors: the formulas by hand; 0.7260 and 0.7623 on the published Movie test rows.
7.  The difference to the best floor is paired.
8.  What are not labels or probabilities is refused by row.
9.  Files are read back as written, and only if metrics and predictions belong together.
10. The table of evaluate.py shows AUC, floors, difference and intervals, and the same within users.
11. uAUC is the mean of scikit-learn's AUC user by user, over the users with both labels; 0.541 of the history and 0.724
    of the items' like-rates on the published Movie test rows. Its interval is over users, on the resamples of AUC.
"""

import json
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tlrec.data.preferences import Item, Preference, build_record, parse_input
from tlrec.data.records import labels_of, read_records
from tlrec.errors import InputError
from tlrec.evaluation.intervals import bootstrap_aucs, bootstrap_uaucs, delong, delong_test, interval
from tlrec.evaluation.metrics import (
    auc,
    by_history_size,
    by_share_of_likes,
    expected_calibration_error,
    floor_scores,
    history_floor,
    item_floor,
    log_odds,
    probability_of_yes,
    reliability_bins,
    two_probabilities_to_score,
    uauc,
    user_aucs,
)
from tlrec.evaluation.results import predictions_rows, read_evaluation, results_table, summarise, write_evaluation

RUN = {"script": "x.py", "arguments": {}, "data": {"test": {"path": "test.json", "sha256": "0", "rows": 200}}}


def preference(likes, dislikes, target="T"):
    """A Preference with so many liked and disliked items."""
    return Preference(
        tuple(Item(f"L{k}") for k in range(likes)), tuple(Item(f"D{k}") for k in range(dislikes)), Item(target), "movie"
    )


@pytest.fixture
def scored():
    """(labels, p_yes, p_no) of 200 made-up rows with some ties."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 200)
    p_yes = np.round(0.1 + rng.random(200) * 0.4 + 0.2 * labels, 2)
    return labels, p_yes, np.round(0.9 - p_yes, 2)


# ------------------------------------------------------------------------------------------------------- definitions


def test_auc_by_hand():
    # pairs (liked, disliked): 0.8 beats both, 0.4 beats 0.1 and ties with 0.4 -> 3.5 of 4
    assert auc([1, 1, 0, 0], [0.8, 0.4, 0.4, 0.1]) == 0.875
    assert auc([1, 1, 0, 0], [np.inf, 0.0, 0.0, -np.inf]) == 0.875
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        auc([1, 0], [np.nan, 0.5])


def test_auc_of_one_class_is_not_defined():
    assert auc([1, 1, 1], [0.1, 0.5, 0.9]) is None


def test_published_score_orders_by_difference():
    p_yes, p_no = np.array([0.30, 0.02]), np.array([0.20, 0.001])
    score = two_probabilities_to_score(p_yes, p_no)
    softmax = np.exp(p_yes) / (np.exp(p_yes) + np.exp(p_no))
    assert np.allclose(score, softmax)
    assert score[0] > score[1]  # 0.1 against 0.019
    assert log_odds(p_yes, p_no)[0] < log_odds(p_yes, p_no)[1]  # 1.5 to 1 against 20 to 1


def test_zero_probabilities():
    p_yes, p_no = np.array([0.5, 0.0, 0.0]), np.array([0.0, 0.5, 0.0])
    assert log_odds(p_yes, p_no).tolist() == [np.inf, -np.inf, 0.0]
    assert probability_of_yes(p_yes, p_no).tolist() == [1.0, 0.0, 0.5]


def test_reliability_and_ece_by_hand():
    probability = [0.05, 0.15, 0.15, 0.95, 1.0]
    bins = reliability_bins([0, 1, 0, 1, 1], probability)
    assert [bin["n"] for bin in bins] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bins[1] == {"low": 0.1, "high": 0.2, "n": 2, "mean_probability": 0.15, "share_positive": 0.5}
    assert bins[4]["share_positive"] is None
    # |0 - 0.05| * 1/5 + |0.5 - 0.15| * 2/5 + |1 - 0.975| * 2/5
    assert math.isclose(expected_calibration_error(bins), 0.01 + 0.14 + 0.01)


def test_summary_agrees_with_scikit_learn(scored):
    labels, p_yes, p_no = scored
    metrics = summarise(labels, p_yes, p_no, resamples=50)
    probability = p_yes / (p_yes + p_no)
    assert math.isclose(metrics["auc"], roc_auc_score(labels, p_yes - p_no))
    assert math.isclose(metrics["auc_logodds"], roc_auc_score(labels, np.log(p_yes / p_no)))
    assert math.isclose(metrics["accuracy"], np.mean((probability > 0.5) == labels))
    assert math.isclose(metrics["log_loss"], log_loss(labels, probability))
    assert math.isclose(metrics["brier"], brier_score_loss(labels, probability))
    assert math.isclose(metrics["answer_mass"], 0.9, abs_tol=1e-9)
    assert (metrics["n"], metrics["n_positive"]) == (200, labels.sum())
    assert sum(bin["n"] for bin in metrics["reliability"]) == 200
    assert metrics["floors"] == {} and metrics["difference_to_best_floor"] is None
    assert metrics["users"] == {"n": None, "source": None}
    json.dumps(metrics, allow_nan=False)


def test_one_class_summary_has_no_auc():
    preferences = [preference(3, 2), preference(2, 2), preference(1, 4)]
    metrics = summarise([1, 1, 1], [0.5, 0.6, 0.7], [0.2, 0.2, 0.2], preferences, resamples=100)
    assert metrics["auc"] is None and metrics["auc_logodds"] is None
    assert metrics["intervals"]["auc"] == {"rows": None, "users": None}
    assert metrics["floors"]["history"]["auc"] is None
    assert metrics["difference_to_best_floor"] is None
    assert metrics["accuracy"] == 1.0
    assert {entry["auc"] for entry in metrics["by_share_of_likes"]} == {None}
    assert "AUC (published)                  -" in results_table(metrics)


def test_slices():
    preferences = [preference(0, 0), preference(1, 4), preference(5, 5), preference(5, 5), preference(10, 2)]
    labels, scores = [1, 0, 0, 1, 1], [0.5, 0.2, 0.3, 0.9, 0.1]
    sizes = by_history_size(labels, scores, preferences)
    assert [(entry["slice"], entry["n"], entry["auc"]) for entry in sizes] == [
        ("0", 1, None),
        ("5", 1, None),
        ("10+", 3, 0.5),
    ]
    shares = by_share_of_likes(labels, scores, preferences)
    assert [(entry["slice"], entry["n"], entry["auc"]) for entry in shares] == [
        ("no history", 1, None),
        ("20-40 %", 1, None),
        ("40-60 %", 2, 1.0),
        ("80-100 %", 1, None),
    ]


# ------------------------------------------------------------------------------------------------------- uncertainty


def test_bootstrap_is_scikit_learn_on_the_drawn_rows(scored):
    labels, p_yes, p_no = scored
    samples = bootstrap_aucs(labels, [p_yes, -(p_no**2)], None, resamples=30, seed=3)
    for sample, rows in zip(samples, np.random.default_rng(3).integers(200, size=(30, 200)), strict=True):
        assert np.allclose(sample, [roc_auc_score(labels[rows], s[rows]) for s in (p_yes, -(p_no**2))], atol=1e-12)


def test_bootstrap_draws_whole_users(scored):
    labels, p_yes, _ = scored
    users = np.repeat(["ann", "bob", "cy", "di"], 50)
    samples = bootstrap_aucs(labels, [p_yes], users, resamples=30, seed=3)
    for sample, drawn in zip(samples, np.random.default_rng(3).integers(4, size=(30, 4)), strict=True):
        rows = np.concatenate([np.arange(50) + 50 * user for user in drawn])
        assert math.isclose(sample[0], roc_auc_score(labels[rows], p_yes[rows]))


def test_bootstrap_in_chunks_and_again(scored, monkeypatch):
    labels, p_yes, _ = scored
    whole = bootstrap_aucs(labels, [p_yes], None, resamples=500, seed=0)
    assert np.array_equal(whole, bootstrap_aucs(labels, [p_yes], None, resamples=500, seed=0))
    monkeypatch.setattr("tlrec.evaluation.intervals.CELLS", 200 * 64)
    pieces = bootstrap_aucs(labels, [p_yes], None, resamples=500, seed=0)
    assert pieces.shape == (500, 1) and abs(pieces.mean() - whole.mean()) < 0.005


def test_resamples_of_one_class_are_left_out():
    samples = bootstrap_aucs(np.array([1, 0]), [np.array([1.0, 0.0])], None, resamples=100)
    assert 0 < np.isnan(samples).sum() < 100
    assert interval(samples[:, 0], 2) == [1.0, 1.0]
    assert interval(np.full(10, np.nan), 50) is None
    assert interval(samples[:, 0], 1) is None  # one user


def test_interval_widens_for_few_units():
    samples = np.linspace(0, 1, 10001)
    low, high = interval(samples, 100_000)
    assert math.isclose(low, 0.025, abs_tol=1e-4) and math.isclose(high, 0.975, abs_tol=1e-4)
    # 16 users: t with 15 degrees of freedom, 2.1314 * sqrt(16 / 15) = 2.2014 -> normal tail 0.0139
    assert math.isclose(interval(samples, 16)[0], 0.0139, abs_tol=1e-4)


def test_coverage_over_rows():
    rng = np.random.default_rng(0)
    true, covered = norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(400):
        labels = rng.integers(0, 2, 150)
        scores = labels + rng.normal(size=150)
        low, high = interval(bootstrap_aucs(labels, [scores], None, 400, seed)[:, 0], 150)
        covered += low <= true <= high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.slow
def test_coverage_over_users_where_rows_are_not_independent():
    rng = np.random.default_rng(1)

    def draw(users, rows=20):
        mood = np.repeat(rng.normal(size=users), rows)
        labels = (rng.random(users * rows) < 1 / (1 + np.exp(-mood))).astype(int)
        scores = mood + 0.5 * labels + rng.normal(size=users * rows) + np.repeat(rng.normal(0, 0.3, users), rows)
        return labels, scores, np.repeat(np.arange(users), rows)

    labels, scores, _ = draw(20_000)
    true, over_users, over_rows = auc(labels, scores), 0, 0
    for seed in range(300):
        labels, scores, users = draw(30)
        low, high = interval(bootstrap_aucs(labels, [scores], users, 300, seed)[:, 0], 30)
        over_users += low <= true <= high
        low, high = interval(bootstrap_aucs(labels, [scores], None, 300, seed)[:, 0], len(labels))
        over_rows += low <= true <= high
    assert 0.92 <= over_users / 300 <= 0.98
    assert over_rows / 300 < 0.90  # why the interval over users is the one to believe


def test_delong_by_hand():
    # Two liked (0.8, 0.4), two disliked (0.5, 0.1): shares of disliked below each liked are 1 and 1/2, of liked above
    # each disliked 1/2 and 1; AUC 3/4; variance of (1, 1/2) is 1/8, so (1/8) / 2 + (1/8) / 2 = 1/8.
    aucs, covariance = delong([1, 1, 0, 0], [[0.8, 0.4, 0.5, 0.1]])
    assert aucs.tolist() == [0.75] and math.isclose(covariance[0, 0], 0.125)


def test_delong_agrees_with_its_definition_and_the_bootstrap(scored):
    labels, p_yes, p_no = scored
    scores = np.array([p_yes, -(p_no**2) + np.random.default_rng(0).normal(0, 0.1, 200)])
    aucs, covariance = delong(labels, scores)
    assert np.allclose(aucs, [roc_auc_score(labels, s) for s in scores])
    # DeLong 1988: structural components, by all pairs
    pairs = [np.sign(s[labels == 1][:, None] - s[labels == 0][None]) / 2 + 0.5 for s in scores]
    v10, v01 = np.array([p.mean(axis=1) for p in pairs]), np.array([p.mean(axis=0) for p in pairs])
    assert np.allclose(covariance, np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1])
    assert np.allclose(covariance, np.cov(bootstrap_aucs(labels, scores, None, 4000).T), rtol=0.15)
    test = delong_test(labels, *scores)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert math.isclose(test["z"], (aucs[0] - aucs[1]) / error)
    assert math.isclose(test["p"], 2 * norm.sf(abs(test["z"])))


def test_delong_edges():
    same = delong_test([1, 0, 1, 0], [0.4, 0.1, 0.3, 0.2], [4, 1, 3, 2])
    assert (same["difference"], same["z"], same["p"]) == (0.0, None, None)
    with pytest.raises(InputError, match="two rows of each class"):
        delong([1, 0, 0], [[1, 2, 3]])


# ------------------------------------------------------------------------------------------------------------ floors


def test_floors_by_hand():
    preferences = [preference(3, 1, "seen"), preference(0, 0, "new")]
    assert history_floor(preferences).tolist() == [3.5 / 5, 0.5]
    train = [build_record(preference(1, 1, "seen"), liked) for liked in (True, True, False)]
    assert item_floor(preferences, train).tolist() == [4.5 / 8, 0.5]
    assert floor_scores(preferences, train)["history + item"].tolist() == [3.5 / 5 + 4.5 / 8, 1.0]
    assert list(floor_scores(preferences)) == ["history"] and floor_scores(None) == {}
    with pytest.raises(InputError, match="row 2"):
        item_floor(preferences, [train[0], {**train[0], "input": "free text"}])


def test_history_floor_on_the_published_movie_rows(shared_data):
    records = read_records(shared_data / "rec_data/movie/test.json")
    preferences = [parse_input(record["input"]) for record in records]
    assert round(auc(labels_of(records), history_floor(preferences)), 4) == 0.7260


def test_item_floor_and_users_on_the_published_movie_rows(shared_data):
    records = read_records(shared_data / "rec_data/movie/test.json")
    train = read_records(shared_data / "rec_data/movie/train.json")
    preferences = [parse_input(record["input"]) for record in records]
    labels = labels_of(records)
    constant = np.full(len(records), 0.4)
    metrics = summarise(labels, constant, constant, preferences, floor_scores(preferences, train), resamples=200)
    assert round(metrics["floors"]["history + item"]["auc"], 4) == 0.7623
    assert metrics["users"] == {"n": 16, "source": "inferred from overlapping windows"}
    assert metrics["auc"] == 0.5  # ties count half
    difference = metrics["difference_to_best_floor"]
    assert difference["floor"] == "history + item" and round(difference["auc"], 4) == -0.2623
    low, high = metrics["floors"]["history"]["interval"]["users"]
    assert high - low > 2 * np.subtract(*metrics["floors"]["history"]["interval"]["rows"][::-1])  # 16 users are few


def test_difference_to_the_floor_is_paired():
    rng = np.random.default_rng(2)
    preferences = [preference(likes, 10 - likes) for likes in rng.integers(0, 11, 400)]
    floor = history_floor(preferences)
    labels = (rng.random(400) < floor).astype(int)
    p_yes = 0.9 * floor  # the very order of the floor
    metrics = summarise(labels, p_yes, 0.9 - p_yes, preferences, users=np.repeat(np.arange(40), 10), resamples=200)
    assert metrics["users"] == {"n": 40, "source": "given"}
    assert metrics["difference_to_best_floor"] == {
        "floor": "history",
        "auc": 0.0,
        "interval": {"rows": [0.0, 0.0], "users": [0.0, 0.0]},
        "uauc": 0.0,
        "uauc_interval": {"users": [0.0, 0.0]},
    }
    assert metrics["intervals"]["auc"]["rows"][0] < metrics["auc"] - 0.01


# ------------------------------------------------------------------------------------------------------ within users


def test_uauc_by_hand():
    # ann: 0.9 liked; 0.9, 0.1 disliked -> (1/2 + 1) / 2. bob: 0.2 liked, 0.3 disliked -> 0. cy likes all: left out.
    labels, users = [1, 0, 0, 1, 0, 1, 1], ["ann", "ann", "ann", "bob", "bob", "cy", "cy"]
    scores = [0.9, 0.9, 0.1, 0.2, 0.3, 0.5, 0.6]
    assert uauc(labels, scores, users) == (0.375, 0.45, 2)  # by rows: 3/5 of 0.75
    assert user_aucs(np.array(labels), scores, np.array([0, 0, 0, 1, 1, 2, 2])).tolist()[:2] == [0.75, 0.0]
    assert uauc(labels[::-1], scores[::-1], users[::-1]) == uauc(labels, scores, users)
    assert uauc(labels, [np.inf, np.inf, -np.inf, 0, 1, 0, 0], users) == (0.375, 0.45, 2)
    assert uauc([1, 1, 0], [0.1, 0.2, 0.3], [7, 7, 8]) == (None, None, 0)
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        uauc([1, 0], [np.nan, 0.5], [0, 0])


def by_users(seed, users=40, rows=25):
    """(labels, score with ties, user ids in any order): users of different generosity, a few with one label."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(rng.permutation(1000)[:users], rng.integers(1, rows, users)))
    mood = rng.normal(0, 1.5, 1000)[ids]
    labels = (rng.random(len(ids)) < 1 / (1 + np.exp(-mood))).astype(int)
    return labels, np.round(mood + labels + rng.normal(size=len(ids)), 1), ids


@pytest.mark.parametrize("seed", range(5))
def test_uauc_is_scikit_learn_user_by_user(seed):
    labels, score, users = by_users(seed)
    aucs, rows = [], []
    for user in np.unique(users):
        own = users == user
        if 0 < labels[own].sum() < own.sum():
            aucs.append(roc_auc_score(labels[own], score[own]))
            rows.append(own.sum())
    assert 0 < len(aucs) < len(np.unique(users))
    mean, weighted, n = uauc(labels, score, users)
    assert n == len(aucs)
    assert math.isclose(mean, np.mean(aucs)) and math.isclose(weighted, np.average(aucs, weights=rows))


def test_uauc_knows_nothing_of_generosity():
    labels, _, users = by_users(0)
    rates = np.bincount(users, weights=labels, minlength=1000) / np.maximum(np.bincount(users, minlength=1000), 1)
    assert auc(labels, rates[users]) > 0.7 and uauc(labels, rates[users], users)[:2] == (0.5, 0.5)


@pytest.mark.parametrize("weighted", [False, True])
def test_bootstrap_of_uauc_draws_the_users_of_auc(weighted):
    labels, score, users = by_users(1, users=12)
    rows = [np.flatnonzero(users == user) for user in np.unique(users)]
    samples = bootstrap_uaucs(labels, [score, -score, score * 3], users, resamples=40, seed=3, weighted=weighted)
    for sample, drawn in zip(samples, np.random.default_rng(3).integers(12, size=(40, 12)), strict=True):
        own = np.concatenate([rows[user] for user in drawn])
        copies = np.repeat(np.arange(12), [len(rows[user]) for user in drawn])  # a user drawn twice is two users
        assert math.isclose(sample[0], uauc(labels[own], score[own], copies)[weighted])
        assert math.isclose(sample[1], 1 - sample[0]) and sample[2] == sample[0]
    assert np.isnan(bootstrap_uaucs(np.array([1, 1, 0]), [np.arange(3.0)], [0, 0, 1], 10)).all()


def test_coverage_of_uauc():
    rng = np.random.default_rng(4)

    def draw(users, rows=15):
        taste = np.repeat(rng.normal(0.8, 0.8, users), rows)
        labels = rng.integers(0, 2, users * rows)
        return labels, taste * labels + rng.normal(size=users * rows), np.repeat(np.arange(users), rows)

    true, covered = uauc(*draw(20_000))[0], 0
    for seed in range(300):
        labels, score, users = draw(20)
        low, high = interval(bootstrap_uaucs(labels, [score], users, 300, seed)[:, 0], uauc(labels, score, users)[2])
        covered += low <= true <= high
    assert 0.92 <= covered / 300 <= 0.98


def test_summary_within_users():
    labels, score, users = by_users(2)
    p_yes = 1 / (1 + np.exp(-score))
    floors = {"a": score + 1, "b": -score, "c": np.zeros(len(score))}
    metrics = summarise(labels, p_yes, 1 - p_yes, floors=floors, users=users, resamples=300)
    assert (metrics["uauc"], metrics["uauc_weighted"], metrics["uauc_users"]) == uauc(labels, score, users)
    samples = bootstrap_uaucs(labels, [score, -score], users, 300)
    n = metrics["uauc_users"]
    assert metrics["intervals"]["uauc"] == {"users": interval(samples[:, 0], n)}
    assert metrics["floors"]["b"]["uauc"] == uauc(labels, -score, users)[0]
    assert metrics["floors"]["b"]["uauc_weighted"] == uauc(labels, -score, users)[1]
    assert metrics["floors"]["b"]["uauc_interval"] == {"users": interval(samples[:, 1], n)}
    difference = metrics["floors"]["b"]["difference"]
    assert difference["uauc"] == metrics["uauc"] - metrics["floors"]["b"]["uauc"]
    assert difference["uauc_interval"] == {"users": interval(samples[:, 0] - samples[:, 1], n)}
    best = metrics["uauc_difference_to_best_floor"]
    assert best == {"floor": "a", **metrics["floors"]["a"]["difference"]}
    assert best["uauc"] == 0.0 and best["uauc_interval"] == {"users": [0.0, 0.0]}
    assert metrics["floors"]["c"]["uauc"] == 0.5
    lines = results_table(metrics).splitlines()
    low, high = metrics["intervals"]["uauc"]["users"]
    (line,) = (line for line in lines if line.startswith(f"uAUC ({n} users)"))
    assert line.split()[3:] == [f"{metrics['uauc']:.4f}", "-", f"{low:.4f}", f"{high:.4f}"]
    assert any(line.startswith("uAUC - a") and "+0.0000" in line for line in lines)


def test_uauc_without_users_or_with_one_label_each():
    metrics = summarise([1, 0], [0.5, 0.4], [0.1, 0.2], floors={"a": np.array([1.0, 2.0])}, resamples=10)
    assert metrics["uauc"] is metrics["uauc_weighted"] is metrics["uauc_users"] is None
    assert metrics["intervals"]["uauc"] == metrics["floors"]["a"]["uauc_interval"] == {}
    assert metrics["uauc_difference_to_best_floor"] is None and "uAUC" not in results_table(metrics)
    metrics = summarise([1, 0], [0.5, 0.4], [0.1, 0.2], floors={}, users=[0, 1], resamples=10)
    assert (metrics["uauc"], metrics["uauc_users"], metrics["intervals"]["uauc"]) == (None, 0, {"users": None})


def test_uauc_of_the_floors_on_the_published_movie_rows(shared_data):
    records = read_records(shared_data / "rec_data/movie/test.json")
    preferences = [parse_input(record["input"]) for record in records]
    labels = labels_of(records)
    floors = floor_scores(preferences, read_records(shared_data / "rec_data/movie/train.json"))
    metrics = summarise(labels, *[np.full(len(records), 0.4)] * 2, preferences, floors, resamples=200)
    found = {name: (round(f["uauc"], 3), round(f["uauc_weighted"], 3)) for name, f in metrics["floors"].items()}
    assert metrics["uauc_users"] == 16 and metrics["uauc"] == 0.5
    assert found["history"] == (0.541, 0.601) and found["item"] == (0.724, 0.712)
    assert metrics["uauc_difference_to_best_floor"]["floor"] == "item"


# ------------------------------------------------------------------------------------------------- bad input, files


@pytest.mark.parametrize(
    ("labels", "p_yes", "p_no", "message"),
    [
        ([1, 0], [0.5, float("nan")], [0.1, 0.1], "row 2: p_yes is nan, not a probability"),
        ([1, 0], [0.5, 0.5], [-0.1, 0.1], "row 1: p_no is -0.1"),
        ([1, 2], [0.5, 0.5], [0.1, 0.1], "row 2: label is 2, not 0 or 1"),
        ([1, 0], [0.5], [0.1, 0.1], "the three numbers must be equal"),
        ([], [], [], "no predictions"),
    ],
)
def test_bad_predictions(labels, p_yes, p_no, message):
    with pytest.raises(InputError, match=message):
        summarise(labels, p_yes, p_no)


def test_rounding_above_one_is_a_probability():
    assert summarise([1, 0], [1.0000001, 0.0], [0.0, 1.0], resamples=10)["auc"] == 1.0


@pytest.fixture
def evaluation(tmp_path, scored):
    """A folder with an evaluation of the `scored` rows."""
    labels, p_yes, p_no = scored
    preferences = [preference(k % 5 + 1, 2) for k in range(200)]
    metrics = summarise(labels, p_yes, p_no, preferences, resamples=50)
    write_evaluation(tmp_path, {**metrics, "run": RUN}, predictions_rows(labels, p_yes, p_no, preferences))
    return tmp_path


def test_evaluation_is_read_back(evaluation, scored):
    metrics, predictions = read_evaluation(evaluation)
    first = json.loads((evaluation / "predictions.jsonl").read_text().splitlines()[0])
    assert list(first) == ["row", "label", "score", "p_yes", "p_no", "history_size", "user", "floors"]
    assert (first["row"], first["history_size"], first["floors"]) == (1, 3, {"history": 0.375})
    assert np.array_equal(predictions["label"], scored[0]) and np.array_equal(predictions["p_no"], scored[2])
    assert auc(predictions["label"], predictions["score"]) == metrics["auc"]
    assert auc(predictions["label"], predictions["floors"]["history"]) == metrics["floors"]["history"]["auc"]
    assert len(predictions["user"]) == 200


def test_same_evaluation_same_bytes(evaluation, scored):
    before = [(evaluation / name).read_bytes() for name in ("metrics.json", "predictions.jsonl")]
    labels, p_yes, p_no = scored
    preferences = [preference(k % 5 + 1, 2) for k in range(200)]
    metrics = summarise(labels, p_yes, p_no, preferences, resamples=50)
    write_evaluation(evaluation, {**metrics, "run": RUN}, predictions_rows(labels, p_yes, p_no, preferences))
    assert before == [(evaluation / name).read_bytes() for name in ("metrics.json", "predictions.jsonl")]


def damage(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("predictions.jsonl", '"p_yes": 0.', '"p_yes": NaN, "x": 0.', "row 1: p_yes is nan"),
        ("predictions.jsonl", '"label": 1', '"label": 0', "its AUC is .*, metrics.json says .*evaluate again"),
        ("predictions.jsonl", '"p_no"', '"p_never"', "row 1: the key 'p_no' is missing"),
        ("predictions.jsonl", "{", "", "damaged"),
        ("metrics.json", '"auc"', '"area"', "the key 'auc' is missing"),
        ("metrics.json", "{", "[", "damaged"),
    ],
)
def test_damaged_evaluations(evaluation, name, old, new, message):
    damage(evaluation / name, old, new)
    with pytest.raises(InputError, match=message):
        read_evaluation(evaluation)


def test_missing_predictions(evaluation):
    (evaluation / "predictions.jsonl").unlink()
    with pytest.raises(InputError, match="predictions.jsonl: no such file"):
        read_evaluation(evaluation)


def test_results_table(scored):
    labels, p_yes, p_no = scored
    preferences = [preference(k % 5 + 1, 2) for k in range(200)]
    metrics = summarise(labels, p_yes, p_no, preferences, users=np.repeat(np.arange(20), 10), resamples=200)
    lines = results_table(metrics).splitlines()
    assert lines[0] == f"200 rows, {labels.sum()} liked, 20 users (given)"
    low, high = metrics["intervals"]["auc"]["users"]
    assert lines[2].startswith("AUC (published)") and lines[2].endswith(f"{low:.4f} {high:.4f}")
    assert f"{metrics['floors']['history']['auc']:.4f}" in lines[4] and lines[4].startswith("floor: history")
    assert lines[5].startswith("AUC - history") and f"{metrics['difference_to_best_floor']['auc']:+.4f}" in lines[5]
