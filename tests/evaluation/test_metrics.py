"""The numbers: tlrec/evaluation/metrics.py and floors.py.

1.  AUC, ECE, log-loss and Brier agree with hand-computed cases and with scikit-learn.
2.  The published score orders rows by p_yes - p_no, which is not the order of the log-odds.
3.  What is not defined is None, never 0.5.
4.  uAUC is the mean of scikit-learn's AUC user by user, over the users with both labels.
5.  Floors: the formulas by hand; on the published Movie test AUC 0.7260 and 0.7623, uAUC 0.541 and 0.724; Book 0.6981.
6.  A metric is one entry, as docs/extend.md has it: it stands in metrics.json, in the table, in the report and in tlrec.compare by itself.
"""

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tests.support.synthetic import evaluate, make_records, preference, score
from tlrec.compare import compare, comparison_table
from tlrec.data.records import RecordSet, write_records
from tlrec.errors import InputError
from tlrec.evaluation import metrics as m
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.floors import floor_scores
from tlrec.evaluation.results import read_evaluation, results_table, summarise
from tlrec.report.__main__ import main as report


def test_auc_by_hand():
    # pairs (liked, disliked): 0.8 beats both, 0.4 beats 0.1 and ties with 0.4 -> 3.5 of 4
    assert m.auc([1, 1, 0, 0], [0.8, 0.4, 0.4, 0.1]) == 0.875
    assert m.auc([1, 1, 0, 0], [np.inf, 0.0, 0.0, -np.inf]) == 0.875
    assert m.auc([1, 1, 1], [0.1, 0.5, 0.9]) is None
    with pytest.raises(InputError, match="1 of 2 scores are NaN"):
        m.auc([1, 0], [np.nan, 0.5])


def test_published_score_orders_by_difference():
    p_yes, p_no = np.array([0.30, 0.02]), np.array([0.20, 0.001])
    found = m.two_probabilities_to_score(p_yes, p_no)
    assert np.allclose(found, np.exp(p_yes) / (np.exp(p_yes) + np.exp(p_no)))
    assert found[0] > found[1]  # 0.1 against 0.019
    assert m.log_odds(p_yes, p_no)[0] < m.log_odds(p_yes, p_no)[1]  # 1.5 to 1 against 20 to 1
    none = np.array([0.5, 0.0, 0.0]), np.array([0.0, 0.5, 0.0])
    assert m.log_odds(*none).tolist() == [np.inf, -np.inf, 0.0]
    assert m.probability_of_yes(*none).tolist() == [1.0, 0.0, 0.5]


def test_ece_by_hand():
    # bins of 0.05; 0.15, 0.15; 0.95, 1.0: |0 - 0.05| * 1/5 + |0.5 - 0.15| * 2/5 + |1 - 0.975| * 2/5
    found = m.ece(np.array([0, 1, 0, 1, 1]), np.array([0.05, 0.15, 0.15, 0.95, 1.0]))
    assert math.isclose(found, 0.01 + 0.14 + 0.01)


def test_summary_agrees_with_scikit_learn():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 200)
    p_yes = np.round(0.1 + rng.random(200) * 0.4 + 0.2 * labels, 2)  # with ties
    p_no = np.round(0.9 - p_yes, 2)
    found, probability = summarise(labels, p_yes, p_no), p_yes / (p_yes + p_no)
    assert math.isclose(found["auc"], roc_auc_score(labels, p_yes - p_no))
    assert math.isclose(found["auc_logodds"], roc_auc_score(labels, np.log(p_yes / p_no)))
    assert math.isclose(found["accuracy"], np.mean((probability > 0.5) == labels))
    assert math.isclose(found["log_loss"], log_loss(labels, probability))
    assert math.isclose(found["brier"], brier_score_loss(labels, probability))
    assert math.isclose(found["answer_mass"], 0.9, abs_tol=1e-9)
    assert (found["n"], found["n_positive"], found["format"]) == (200, labels.sum(), 1)
    assert found["floors"] == {} and found["difference_to_best_floor"] is None
    assert found["users"] == {"n": None, "source": None} and found["uauc"] is found["uauc_users"] is None
    assert list(found["intervals"]["auc"]) == ["rows"] and found["intervals"]["uauc"] == {}


def test_uauc_by_hand():
    # ann: 0.9 liked; 0.9, 0.1 disliked -> (1/2 + 1) / 2. bob: 0.2 liked, 0.3 disliked -> 0. cy likes all: left out.
    labels, users = [1, 0, 0, 1, 0, 1, 1], ["ann", "ann", "ann", "bob", "bob", "cy", "cy"]
    for scores in ([0.9, 0.9, 0.1, 0.2, 0.3, 0.5, 0.6], [np.inf, np.inf, -np.inf, 0, 1, 0, 0]):
        assert m.uauc(labels, scores, users) == 0.375
        assert m.uauc_weighted(labels, scores, users) == pytest.approx(0.45)  # by rows: 3/5 of 0.75
        assert m.aucs_within(labels, scores, users).tolist()[:2] == [0.75, 0.0]
        assert m.uauc(labels[::-1], scores[::-1], users[::-1]) == 0.375
    assert m.uauc([1, 1, 0], [0.1, 0.2, 0.3], [7, 7, 8]) is m.uauc([1, 0], [0.1, 0.2], None) is None


def by_users(seed, users=40, rows=25):
    """(labels, score with ties, user ids in any order): users of different generosity, a few with one label."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(rng.permutation(1000)[:users], rng.integers(1, rows, users)))
    mood = rng.normal(0, 1.5, 1000)[ids]
    labels = (rng.random(len(ids)) < 1 / (1 + np.exp(-mood))).astype(int)
    return labels, np.round(mood + labels + rng.normal(size=len(ids)), 1), ids


def test_uauc_is_scikit_learn_user_by_user():
    labels, scores, users = by_users(0)
    aucs, rows = [], []
    for user in np.unique(users):
        own = users == user
        if 0 < labels[own].sum() < own.sum():
            aucs.append(roc_auc_score(labels[own], scores[own]))
            rows.append(own.sum())
    assert 0 < len(aucs) < len(np.unique(users))
    assert math.isclose(m.uauc(labels, scores, users), np.mean(aucs))
    assert math.isclose(m.uauc_weighted(labels, scores, users), np.average(aucs, weights=rows))


def test_uauc_knows_nothing_of_generosity():
    labels, _, users = by_users(0)
    rates = np.bincount(users, weights=labels, minlength=1000) / np.maximum(np.bincount(users, minlength=1000), 1)
    assert m.auc(labels, rates[users]) > 0.7 and m.uauc(labels, rates[users], users) == 0.5


def test_floors_by_hand():
    preferences = [preference("abc", "d", "seen"), preference(target="new")]
    train = [(preference("a", "b", "seen"), liked) for liked in (1, 1, 0)]
    found = {name: score.tolist() for name, score in floor_scores(preferences, train).items()}
    assert found == {"history": [3.5 / 5, 0.5], "item": [4.5 / 8, 0.5], "history + item": [3.5 / 5 + 4.5 / 8, 1.0]}
    assert list(floor_scores(preferences)) == ["history"]


@pytest.mark.slow
def test_floors_on_the_published_rows(shared_data):
    movie = shared_data / "rec_data/movie"
    test = EvaluationSet(movie / "test.json", RecordSet(movie / "train.json"))
    constant = np.full(len(test), 0.4)
    found = summarise(test.labels, constant, constant, test.users, test.floors)
    floors = {name: (round(f["auc"], 4), round(f["uauc"], 3)) for name, f in found["floors"].items()}
    assert floors["history"] == (0.7260, 0.541) and floors["item"][1] == 0.724
    assert floors["history + item"][0] == 0.7623
    weighted = [round(found["floors"][name]["uauc_weighted"], 3) for name in ("history", "item")]
    assert weighted == [0.601, 0.712] and found["users"]["n"] == found["uauc_users"] == 16
    assert found["auc"] == found["uauc"] == 0.5  # ties count half
    best = found["difference_to_best_floor"]
    assert best["floor"] == "history + item" and round(best["auc"], 4) == -0.2623
    assert found["uauc_difference_to_best_floor"]["floor"] == "item"
    intervals = found["floors"]["history"]["intervals"]["auc"]
    assert np.ptp(intervals["users"]) > 2 * np.ptp(intervals["rows"])  # 16 users are few
    book = EvaluationSet(shared_data / "rec_data/book/test.json")
    assert round(m.auc(book.labels, book.floors["history"]), 4) == 0.6981


@pytest.mark.slow
def test_a_metric_is_one_entry(monkeypatch, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
    (code,) = re.findall(r"^def first_is_liked.*?^    return float.*?$", page, re.DOTALL | re.MULTILINE)
    names = {"np": np}
    exec(code, names)
    first_is_liked = names["first_is_liked"]
    importlib.import_module("tlrec.evaluation.formats")  # its schema is of the metrics there are at its first import
    monkeypatch.setitem(m.METRICS, "first_is_liked", first_is_liked)
    records = make_records(users=20, seed=3)
    write_records(tmp_path / "test.json", records)
    for name, skill in (("a", 1.5), ("b", 0.3)):
        evaluate(tmp_path / name, tmp_path / "test.json", records, *score(records, skill, 2))
    (first, predictions), (second, _) = read_evaluation(tmp_path / "a"), read_evaluation(tmp_path / "b")
    value = first_is_liked(predictions["label"], predictions["score"], predictions["user"])
    assert first["first_is_liked"] == value and first["intervals"]["first_is_liked"]["users"][0] < value
    assert first["first_is_liked_difference_to_best_floor"]["floor"] == "history"
    assert f"first_is_liked {value:.4f}" in " ".join(results_table(first).split())
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found["difference"]["first_is_liked"] == pytest.approx(value - second["first_is_liked"])
    assert "first_is_liked" in comparison_table(found)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    report()
    header, *rows = (tmp_path / "report/results.csv").read_text().splitlines()
    assert float(rows[0].split(",")[header.split(",").index("first_is_liked")]) == value
    assert "first_is_liked, 95 % over users" in (tmp_path / "report/results.md").read_text()
