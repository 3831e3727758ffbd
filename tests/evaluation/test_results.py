"""metrics.json and predictions.jsonl: tlrec/evaluation/results.py.

1. What are not labels or probabilities is refused by row.
2. Files are read back as written, in the same bytes again, and only if metrics and predictions belong together.
3. One class, or one user, leaves None; the table says where there is no interval.
4. The published test file is known by its content, and said.
"""

import json

import numpy as np
import pytest

from tests.support.synthetic import evaluate, make_records, score
from tlrec.data.records import write_records
from tlrec.errors import InputError
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.metrics import auc
from tlrec.evaluation.results import read_evaluation, record_evaluation, results_table, summarise
from tlrec.scoring.scores import Scores


@pytest.fixture
def evaluation(tmp_path):
    """A folder with an evaluation of 60 made-up rows."""
    records = make_records(users=6, seed=1)
    write_records(tmp_path / "test.json", records)
    return evaluate(tmp_path / "run", tmp_path / "test.json", records, *score(records, 1, 1))


@pytest.mark.parametrize(
    ("p_yes", "message"),
    [
        ([0.5, float("nan"), 0.1], "row 2: p_yes is nan, not a probability"),
        ([0.5, 0.2, 1.1], "row 3: p_yes is 1.1, not a probability .1 such rows"),
    ],
)
def test_bad_predictions(tmp_path, p_yes, message):
    records = make_records(users=1, seed=1)[:3]
    records[0]["output"], records[1]["output"] = "Yes.", "No."
    write_records(tmp_path / "test.json", records)
    test = EvaluationSet(tmp_path / "test.json")
    with pytest.raises(InputError, match=message):
        record_evaluation(tmp_path, "x.py", {}, test, Scores(np.array(p_yes), np.full(3, 0.1), 0, 1.0))
    assert not (tmp_path / "metrics.json").exists()


def test_an_evaluation_is_read_back(evaluation):
    metrics, predictions = read_evaluation(evaluation)
    first = json.loads((evaluation / "predictions.jsonl").read_text().splitlines()[0])
    assert list(first) == ["row", "label", "score", "p_yes", "p_no", "user", "floors"]
    assert (first["row"], first["user"], list(first["floors"])) == (1, 0, ["history"])
    assert (predictions["score"][0], predictions["p_no"][0]) == (first["score"], first["p_no"])
    assert auc(predictions["label"], predictions["score"]) == metrics["auc"]
    assert auc(predictions["label"], predictions["floors"]["history"]) == metrics["floors"]["history"]["auc"]
    assert np.bincount(predictions["user"]).tolist() == [10] * 6


def test_same_evaluation_same_bytes(evaluation):
    def written():
        metrics = json.loads((evaluation / "metrics.json").read_text())
        return (evaluation / "predictions.jsonl").read_bytes(), {k: v for k, v in metrics.items() if k != "run"}

    before, records = written(), make_records(users=6, seed=1)
    evaluate(evaluation, evaluation.parent / "test.json", records, *score(records, 1, 1))
    assert written() == before


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("predictions.jsonl", '"label": 1', '"label": 0', "its AUC is .*, metrics.json says .*evaluate again"),
        ("predictions.jsonl", '"p_no"', '"p_never"', "row 1: the key 'p_no' is missing"),
        ("predictions.jsonl", '"floors": {"history"', '"floors": {"x"', "row 2: its floors differ from those of row 1"),
        ("metrics.json", "{", "[", "damaged"),
    ],
)
def test_damaged_evaluations(evaluation, name, old, new, message):
    text = (evaluation / name).read_text()
    assert old in text
    (evaluation / name).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_evaluation(evaluation)


def test_one_class_and_one_user_leave_none():
    p_yes, p_no, floors = np.array([0.5, 0.6, 0.7]), np.full(3, 0.2), {"history": np.array([1.0, 2.0, 1.5])}
    found = summarise(np.ones(3, int), p_yes, p_no, np.array([0, 0, 1]), "given", floors)
    assert found["auc"] is found["auc_logodds"] is found["uauc"] is found["floors"]["history"]["auc"] is None
    assert found["intervals"]["auc"] == {} and found["difference_to_best_floor"] is None
    assert (found["accuracy"], found["uauc_users"]) == (1.0, 0)
    found = summarise(np.array([1, 0, 1]), p_yes, p_no, np.zeros(3), "given", floors)
    assert found["auc"] == 0.5 and found["intervals"]["auc"]["users"] is None
    json.dumps(found, allow_nan=False)


def test_the_table(evaluation):
    metrics, _ = read_evaluation(evaluation)
    lines = results_table(metrics).splitlines()
    assert lines[0] == f"60 rows, {metrics['n_positive']} liked, 6 users (inferred from overlapping windows)"
    low, high = metrics["intervals"]["auc"]["users"]
    assert lines[2].startswith("AUC (published)") and lines[2].endswith(f"{low:.4f} {high:.4f}")
    assert lines[4].split()[:4] == ["no", "training:", "history", f"{metrics['floors']['history']['auc']:.4f}"]
    assert f"{metrics['difference_to_best_floor']['auc']:+.4f}" in lines[5]
    metrics["intervals"]["uauc"]["users"] = None
    said = results_table(metrics).splitlines()
    assert said[-1].startswith("none: no interval") and any(line.endswith(" none") for line in said)


def test_published_rows_are_named(shared_data, tmp_path):
    (tmp_path / "mine.json").write_bytes((shared_data / "rec_data/book/test.json").read_bytes())
    test = EvaluationSet(tmp_path / "mine.json")
    p_yes = np.linspace(0.1, 0.6, len(test))
    metrics = record_evaluation(tmp_path, "x.py", {}, test, Scores(p_yes, 0.9 - p_yes, 0, 1.0))
    assert metrics["run"]["data"]["test"]["published"] == "Book test"
    assert results_table(metrics).startswith("Book test, as published\n2427 rows, ")
