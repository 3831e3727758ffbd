"""evaluate.py: P(Yes) for every row, one number, and files beside the adapter.

1. The AUC is the published one - of p(Yes) and p(No), softmaxed once more - and what scikit-learn says.
2. P is that of `score_records` (tests/evaluation/test_orders.py); batches, row order and merging change nothing.
3. Several adapters load the base once; each gets its own results, as when it is evaluated alone.
4. Without an adapter the base model is scored and nothing is written, unless a folder is given.
5. An evaluation on other data is not replaced without --overwrite; the same command twice gives the same files.
6. With --resume a finished evaluation is shown; other settings, weights or a damaged file make it anew.
7. Foreign adapters (no run.json) and records in another form are scored too; cut prompts are counted.
"""

import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.models import make_adapter
from tlrec.data.records import read_records, write_records
from tlrec.evaluation.results import read_evaluation
from tlrec.model import base_models


@pytest.fixture
def adapter(tiny_adapter, tmp_path):
    return shutil.copytree(tiny_adapter, tmp_path / "adapter")


@pytest.fixture(scope="module")
def test_data(tiny_workspace):
    return tiny_workspace / "rec_data" / "movie" / "test.json"


@pytest.fixture(scope="module")
def evaluate(run_script, tiny_llama, test_data):
    """evaluate.py on the tiny model; returns its standard output."""

    def run(*flags, data=test_data):
        flags = ["--base_model", tiny_llama, "--device", "cpu", "--test_data_path", data, *flags]
        status, out, err = run_script("evaluate.py", *flags)
        assert status == 0, err
        return out

    return run


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def rows_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_the_auc_is_the_published_one(evaluate, adapter, test_data):
    train = test_data.with_name("train.json")
    out = evaluate("--lora_weights", adapter, "--train_data_path", train)
    rows, metrics = rows_of(adapter), metrics_of(adapter)
    labels = [record["output"] == "Yes." for record in read_records(test_data)]
    assert [row["label"] for row in rows] == labels
    two = np.array([[row["p_yes"], row["p_no"]] for row in rows])
    published = (np.exp(two) / np.exp(two).sum(axis=1, keepdims=True))[:, 0]
    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, published), abs=1e-9)
    assert metrics["auc_logodds"] == pytest.approx(roc_auc_score(labels, np.log(two[:, 0] / two[:, 1])), abs=1e-9)
    assert [line for line in out.splitlines() if "=====" in line] == [f"===== auc: {metrics['auc']} ====="]
    assert out.splitlines()[0].startswith(f"{adapter}: 24 rows in ")
    assert out.splitlines()[0].endswith(", 0 with a cut prompt; frame: alpaca")
    assert metrics["n"] == 24 and metrics["n_positive"] == sum(labels)
    assert list(metrics["floors"]) == ["history", "item", "history + item"]
    assert all(f"no training: {name} " in out for name in metrics["floors"])
    run = metrics["run"]
    assert (run["script"], run["frame"], run["scoring"]["merge"]) == ("evaluate.py", "alpaca", True)
    assert {name: file["rows"] for name, file in run["data"].items()} == {"test": 24, "train": 40}
    assert run["adapter"]["path"] == str(adapter) and run["adapter"]["run"] is None
    read_evaluation(adapter)
    assert ", 24 with a cut prompt; frame: alpaca" in evaluate("--lora_weights", adapter, "--cutoff_len", 200)
    assert metrics_of(adapter)["run"]["results"]["truncated"] == {"test": 24}


@pytest.mark.slow
def test_how_it_is_computed_does_not_move_it(evaluate, adapter, test_data, tmp_path, monkeypatch):
    evaluate("--lora_weights", adapter)
    order = np.random.default_rng(0).permutation(24)
    records = read_records(test_data)
    write_records(tmp_path / "shuffled.json", [records[i] for i in order])
    evaluate("--lora_weights", adapter, "--output_dir", tmp_path / "b", data=tmp_path / "shuffled.json")
    evaluate("--lora_weights", adapter, "--output_dir", tmp_path / "c", "--token_budget", 500)
    monkeypatch.delattr("peft.tuners.lora.Linear.merge")  # with --no-merge, no weight of the base is touched
    evaluate("--lora_weights", adapter, "--output_dir", tmp_path / "d", "--no-merge")
    assert metrics_of(tmp_path / "d")["run"]["scoring"]["merge"] is False
    one = rows_of(adapter)
    for name, other in (("b", [one[i] for i in order]), ("c", one), ("d", one)):
        for ours, theirs in zip(rows_of(tmp_path / name), other, strict=True):
            assert [ours["p_yes"], ours["p_no"]] == pytest.approx([theirs["p_yes"], theirs["p_no"]], rel=1e-4)
        assert metrics_of(tmp_path / name)["auc"] == pytest.approx(metrics_of(adapter)["auc"], abs=1e-6)


@pytest.mark.slow
def test_several_adapters_load_the_base_once(evaluate, adapter, tiny_llama, tmp_path, monkeypatch):
    other = make_adapter(tmp_path / "other", tiny_llama, seed=2, r=4, target_modules=["k_proj", "v_proj"])
    alone = [(folder, shutil.copytree(folder, f"{folder} alone")) for folder in (adapter, other)]
    loads, load = [], base_models.load_base_model
    monkeypatch.setattr(
        base_models, "load_base_model", lambda *words, **more: loads.append(words) or load(*words, **more)
    )
    out = evaluate("--lora_weights", adapter, other, adapter)
    assert len(loads) == 1 and out.count("===== auc: ") == 2
    for together, itself in alone:
        evaluate("--lora_weights", itself)
        assert rows_of(together) == rows_of(tmp_path / itself)
    assert rows_of(adapter) != rows_of(other)


@pytest.mark.slow
def test_the_base_model_alone(evaluate, adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    out = evaluate()
    assert sorted(tmp_path.rglob("*")) == before
    assert out.startswith("base model alone: 24 rows in ")
    evaluate("--output_dir", tmp_path / "base")
    metrics = metrics_of(tmp_path / "base")
    assert metrics["run"]["adapter"] is None
    assert f"===== auc: {metrics['auc']} =====\n" in out
    evaluate("--lora_weights", adapter)
    assert rows_of(adapter) != rows_of(tmp_path / "base")


@pytest.mark.slow
def test_again_with_resume_and_on_other_data(evaluate, run_script, adapter, tiny_llama, test_data, tmp_path):
    evaluate("--lora_weights", adapter)
    metrics, first = (adapter / "metrics.json").read_bytes(), (adapter / "predictions.jsonl").read_bytes()
    out = evaluate("--lora_weights", adapter, "--resume")
    assert out.splitlines()[0] == f"complete already: {adapter}" and "rows/s" not in out
    assert out.splitlines()[-1] == f"===== auc: {metrics_of(adapter)['auc']} ====="
    assert (adapter / "metrics.json").read_bytes() == metrics

    valid = test_data.with_name("valid.json")
    flags = ["--base_model", tiny_llama, "--lora_weights", adapter, "--test_data_path", valid, "--device", "cpu"]
    status, out, err = run_script("evaluate.py", *flags)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {adapter / 'metrics.json'}: is an evaluation on other data (")
    assert err.endswith("give --output_dir or --overwrite\n") and err.count("\n") == 1
    assert (adapter / "predictions.jsonl").read_bytes() == first

    for flags in (["--cutoff_len", "200"], ["--dtype", "bfloat16"], ["--no-merge"], []):
        assert "rows/s" in evaluate("--lora_weights", adapter, "--resume", *flags), flags
    assert (adapter / "predictions.jsonl").read_bytes() == first  # the same command, the same bytes
    evaluate("--lora_weights", adapter, "--overwrite", data=valid)
    assert metrics_of(adapter)["n"] == len(rows_of(adapter)) == 12
    assert "rows/s" in evaluate("--lora_weights", adapter, "--resume", "--overwrite")
    shutil.copy(make_adapter(tmp_path / "other", tiny_llama, seed=2) / "adapter_model.safetensors", adapter)
    assert "rows/s" in evaluate("--lora_weights", adapter, "--resume")
    (adapter / "predictions.jsonl").write_text("{")
    assert "rows/s" in evaluate("--lora_weights", adapter, "--resume")
    read_evaluation(adapter)


def test_records_in_another_form(evaluate, adapter, tmp_path):
    rows = [{"instruction": "Answer Yes or No.", "input": f"Night {n}?", "output": "No."} for n in range(6)]
    rows[0]["input"], rows[3]["output"] = "", "Yes."
    write_records(tmp_path / "own.json", rows)
    evaluate("--lora_weights", adapter, data=tmp_path / "own.json")
    assert metrics_of(adapter)["n"] == 6 and 0 <= metrics_of(adapter)["auc"] <= 1
