"""A validation or test split is read once, and whatever is known of it is computed once: tlrec/evaluation/evaluation_set.py.

1. Labels, preferences, users, floors and digest are those of the functions that compute them.
2. However many evaluations are recorded in a sweep: rows are parsed once, users inferred once.
3. Records in another form have no users and no floors; one class, or no label, is an InputError.
"""

import json
from collections import Counter

import numpy as np
import pytest

from tlrec.data import preferences as preferences_module
from tlrec.data.records import RecordSet, labels_of, read_records, write_records
from tlrec.data.users import infer_users
from tlrec.errors import InputError
from tlrec.evaluation import evaluation_set
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.floors import floor_scores
from tlrec.evaluation.results import INFERRED, record_evaluation, summarise
from tlrec.files import sha256
from tlrec.scoring.scores import Scores


@pytest.fixture
def movie(tiny_workspace):
    return tiny_workspace / "rec_data" / "movie"


def some_scores(n, seed=0):
    p_yes = np.random.default_rng(seed).uniform(0.1, 0.8, n)
    return Scores(p_yes, 0.9 - p_yes, truncated=0, seconds=1.0)


def test_what_is_known(movie):
    records, test = (
        read_records(movie / "test.json"),
        EvaluationSet(movie / "test.json", RecordSet(movie / "train.json")),
    )
    parsed = [preferences_module.parse_input(record["input"]) for record in records]
    assert test.records == records and len(test) == 24 and test.sha256 == sha256(movie / "test.json")
    assert test.labels.tolist() == labels_of(records).tolist()
    assert test.preferences == parsed
    assert test.users.tolist() == infer_users(parsed, labels_of(records)).tolist()
    train = read_records(movie / "train.json")
    expected = floor_scores(
        parsed, [(preferences_module.parse_input(one["input"]), one["output"] == "Yes.") for one in train]
    )
    assert list(test.floors) == ["history", "item", "history + item"] == list(expected)
    assert all(np.array_equal(test.floors[name], expected[name]) for name in expected)
    assert list(EvaluationSet(movie / "test.json").floors) == ["history"]


def test_metrics_are_those_of_summarise(movie, tmp_path):
    test, scores = EvaluationSet(movie / "test.json", RecordSet(movie / "train.json")), some_scores(24)
    found = record_evaluation(tmp_path, "x.py", {}, test, scores)
    run = found.pop("run")
    assert found == summarise(test.labels, scores.p_yes, scores.p_no, test.users, INFERRED, test.floors)
    assert run["data"] == {
        "test": {
            "path": str(movie / "test.json"),
            "sha256": sha256(movie / "test.json"),
            "rows": 24,
            "published": None,
        },
        "train": {"path": str(movie / "train.json"), "sha256": sha256(movie / "train.json"), "rows": 40},
    }
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["user"] for row in rows] == test.users.tolist()
    assert [row["floors"]["item"] for row in rows] == test.floors["item"].tolist()


@pytest.mark.slow
def test_a_sweep_parses_each_file_once(run_script, tiny_llama, movie, tmp_path, monkeypatch):
    count = Counter()

    def watch(name, original):
        monkeypatch.setattr(evaluation_set, name, lambda *given: count.update([name]) or original(*given))

    watch("parse_input", preferences_module.parse_input)
    watch("infer_users", infer_users)
    flags = ["--base_model", tiny_llama, "--output_dir", tmp_path / "sweep", "--device", "cpu", "--num_epochs", 1]
    flags += ["--warmup_steps", 0]
    for flag, name in (("--train_data_path", "train"), ("--val_data_path", "valid"), ("--test_data_path", "test")):
        flags += [flag, movie / f"{name}.json"]
    status, _, err = run_script("rec_tuning.py", *flags, "--sample", 2, "--seed", 0, 1)
    assert status == 0, err
    assert count == {"parse_input": 24 + 40, "infer_users": 1}  # test and train rows, for users and floors


def test_validation_rows_are_tokenised_once(tiny_llama, movie, monkeypatch):
    from tlrec.model import base_models
    from tlrec.model.prompts import load_frame
    from tlrec.model.tokenization import RecordTokenizer
    from tlrec.scoring.records import Scorer

    tokenized = []

    def encode(encoder, texts, original=RecordTokenizer._encode):
        tokenized.extend(texts)
        return original(encoder, texts)

    monkeypatch.setattr(RecordTokenizer, "_encode", encode)
    tokenizer, records = base_models.load_tokenizer(tiny_llama), read_records(movie / "valid.json")
    scorer = Scorer(tokenizer, records, load_frame("alpaca"), 512, with_loss=True)
    assert len(tokenized) == len(records) + 3  # and the probe for the answer ids
    rows = RecordTokenizer(tokenizer, load_frame("alpaca"), 512).examples(records).rows
    assert scorer.rows == [row["input_ids"] for row in rows]
    assert scorer.answer_positions == [row["answer_start"] - 1 for row in rows]


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
    rows[1]["output"] = "Maybe."
    write_records(tmp_path / "free.json", rows)
    with pytest.raises(InputError, match="free.json: row 2: 'output' must be 'Yes.' or 'No.', not 'Maybe.'"):
        EvaluationSet(tmp_path / "free.json")
