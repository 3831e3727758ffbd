"""A test set that is read once, and its results: tlrec/evaluation/evaluation_set.py and results.py.

1. Labels, preferences, users, floors and digest are those of the functions that compute them; metrics.json has them.
2. Records in another form have no users and no floors; one class, or no label, is an InputError; what are not
   probabilities is refused by row.
3. Files are read back as written, in the same bytes again, and only if metrics and predictions belong together.
4. One class, or one user, leaves None; the table says where there is no interval.
5. The published test file is known by its content, and said.
"""

import json

import numpy as np
import pytest

from tests.support.synthetic import evaluate, make_records, score
from tlrec.data.preferences import parse_input
from tlrec.data.records import RecordSet, labels_of, read_records, write_records
from tlrec.data.users import infer_users
from tlrec.errors import InputError
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.floors import floor_scores
from tlrec.evaluation.metrics import auc
from tlrec.evaluation.results import read_evaluation, record_evaluation, results_table, summarise
from tlrec.files import sha256
from tlrec.scoring.scores import Scores


def some_scores(n):
    p_yes = np.random.default_rng(0).uniform(0.1, 0.8, n)
    return Scores(p_yes, 0.9 - p_yes, truncated=0, seconds=1.0)


@pytest.fixture
def evaluation(tmp_path):
    """A folder with an evaluation of 60 made-up rows."""
    records = make_records(users=6, seed=1)
    write_records(tmp_path / "test.json", records)
    return evaluate(tmp_path / "run", tmp_path / "test.json", records, *score(records, 1, 1))


def test_what_is_known_and_written(tiny_workspace, tmp_path):
    path, train = (tiny_workspace / "rec_data" / "movie" / f"{name}.json" for name in ("test", "train"))
    records, test = read_records(path), EvaluationSet(path, RecordSet(train))
    parsed, answers = [parse_input(record["input"]) for record in records], labels_of(records)
    assert test.records == records and len(test) == 24 and test.preferences == parsed
    assert test.labels.tolist() == answers.tolist() and test.users.tolist() == infer_users(parsed, answers).tolist()
    expected = floor_scores(parsed, [(parse_input(r["input"]), r["output"] == "Yes.") for r in read_records(train)])
    assert list(test.floors) == ["history", "item", "history + item"] == list(expected)
    assert all(np.array_equal(test.floors[name], expected[name]) for name in expected)
    assert list(EvaluationSet(path).floors) == ["history"]

    scores = some_scores(24)
    found = record_evaluation(tmp_path, "x.py", {}, test, scores)
    run = found.pop("run")
    assert found == summarise(test.labels, scores.p_yes, scores.p_no, test.users, test.floors)
    files = {
        name: {"path": str(p), "sha256": sha256(p), "rows": n}
        for name, p, n in (("test", path, 24), ("train", train, 40))
    }
    assert run["data"] == {"test": files["test"] | {"published": None}, "train": files["train"]}
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["user"] for row in rows] == test.users.tolist()
    assert [row["floors"]["item"] for row in rows] == test.floors["item"].tolist()


def test_records_in_another_form(tmp_path):
    rows = [{"instruction": "i", "input": f"Night {n}?", "output": "No."} for n in range(4)]
    write_records(tmp_path / "one.json", rows)
    with pytest.raises(InputError, match="one.json: all 4 rows are labelled 'No.'; AUC needs both"):
        EvaluationSet(tmp_path / "one.json")
    rows[2]["output"] = "Yes."
    write_records(tmp_path / "own.json", rows)
    test = EvaluationSet(tmp_path / "own.json")
    assert (test.preferences, test.users, test.floors) == (None, None, {})
    with pytest.raises(InputError, match="own.json: row 1: 'input' does not parse: expected 'User Preference: ...'"):
        test.check_preferences()
    assert record_evaluation(None, "x.py", {}, test, some_scores(4))["users"] == {"n": None, "source": None}
    for p_yes, message in (
        ([0.5, float("nan"), 0.1, 0], "row 2: p_yes is nan, not a probability"),
        ([0.5, 0.2, 1.1, 0], "row 3: p_yes is 1.1, not a probability .1 such rows"),
    ):
        with pytest.raises(InputError, match=message):
            record_evaluation(tmp_path, "x.py", {}, test, Scores(np.array(p_yes), np.full(4, 0.1), 0, 1.0))
        assert not (tmp_path / "metrics.json").exists()


def test_an_evaluation_is_read_back(evaluation):
    metrics, predictions = read_evaluation(evaluation)
    written = (evaluation / "predictions.jsonl").read_bytes()
    first = json.loads(written.splitlines()[0])
    assert list(first) == ["row", "label", "score", "p_yes", "p_no", "user", "floors"]
    assert (first["row"], first["user"], list(first["floors"])) == (1, 0, ["history"])
    assert (predictions["score"][0], predictions["p_no"][0]) == (first["score"], first["p_no"])
    assert auc(predictions["label"], predictions["score"]) == metrics["auc"]
    assert auc(predictions["label"], predictions["floors"]["history"]) == metrics["floors"]["history"]["auc"]
    assert np.bincount(predictions["user"]).tolist() == [10] * 6
    records = make_records(users=6, seed=1)  # again: the same bytes
    evaluate(evaluation, evaluation.parent / "test.json", records, *score(records, 1, 1))
    assert (evaluation / "predictions.jsonl").read_bytes() == written
    assert read_evaluation(evaluation)[0] | {"run": None} == metrics | {"run": None}


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("predictions.jsonl", '"label": 1', '"label": 0', "its AUC is .*, metrics.json says .*evaluate again"),
        (
            "predictions.jsonl",
            '"label": 1',
            '"label": 2',
            "predictions.jsonl: prediction of row .: label is 2, not 0 or 1",
        ),
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
    found = summarise(np.ones(3, int), p_yes, p_no, np.array([0, 0, 1]), floors)
    assert found["auc"] is found["auc_logodds"] is found["uauc"] is found["floors"]["history"]["auc"] is None
    assert found["intervals"]["auc"] == {} and found["difference_to_best_floor"] is None
    assert (found["accuracy"], found["uauc_users"]) == (1.0, 0)
    found = summarise(np.array([1, 0, 1]), p_yes, p_no, np.zeros(3), floors)
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


@pytest.mark.slow
def test_published_rows_are_named(shared_data, tmp_path):
    (tmp_path / "mine.json").write_bytes((shared_data / "rec_data/book/test.json").read_bytes())
    test = EvaluationSet(tmp_path / "mine.json")
    metrics = record_evaluation(tmp_path, "x.py", {}, test, some_scores(len(test)))
    assert metrics["run"]["data"]["test"]["published"] == "Book test"
    assert results_table(metrics).startswith("Book test, as published\n2427 rows, ")
