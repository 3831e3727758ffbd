"""evaluate.py: P(Yes) for every row, one number, and files beside the adapter.

1. The AUC is the published one - of p(Yes) and p(No), softmaxed once more - and what scikit-learn says.
2. Batches, row order and the rest of the command line do not move it; titles with No, No. and Yes do not either.
3. Several adapters load the base once; each gets its own results, as when it is evaluated alone.
4. Without an adapter the base model is scored and nothing is written, unless a folder is given.
5. An evaluation on other data is not replaced without --overwrite; the same command twice gives the same files.
6. With --resume a finished evaluation is shown; other settings, weights or a damaged file make it anew.
7. Foreign adapters (no run.json) and records in another form are scored too.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.support.models import make_adapter
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.data.records import read_records, write_records
from tlrec.evaluation.results import read_evaluation
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame


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
    out = evaluate("--lora_weights", adapter)
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
    run = metrics["run"]
    assert (run["script"], run["frame"], run["data"]["test"]["rows"]) == ("evaluate.py", "alpaca", 24)
    assert run["adapter"]["path"] == str(adapter) and run["adapter"]["run"] is None
    read_evaluation(adapter)


@pytest.mark.slow
def test_how_it_is_computed_does_not_move_it(evaluate, adapter, test_data, tmp_path):
    evaluate("--lora_weights", adapter)
    order = np.random.default_rng(0).permutation(24)
    records = read_records(test_data)
    write_records(tmp_path / "shuffled.json", [records[i] for i in order])
    evaluate("--lora_weights", adapter, "--output_dir", tmp_path / "b", data=tmp_path / "shuffled.json")
    evaluate("--lora_weights", adapter, "--output_dir", tmp_path / "c", "--token_budget", 500)
    one = rows_of(adapter)
    for name, other in (("b", [one[i] for i in order]), ("c", one)):
        for ours, theirs in zip(rows_of(tmp_path / name), other, strict=True):
            assert ours["p_yes"] == pytest.approx(theirs["p_yes"], rel=1e-4)
            assert ours["p_no"] == pytest.approx(theirs["p_no"], rel=1e-4)
        assert metrics_of(tmp_path / name)["auc"] == pytest.approx(metrics_of(adapter)["auc"], abs=1e-6)


def test_titles_with_answers_in_them(evaluate, tiny_llama, adapter, pieces, tmp_path):
    titles = ["No Safe Place", "No. 1 with a Bullet", "No", "No.", "Yes", "Yes.", 'The "Yes." Man', "Harbor", "No, No"]
    books = [Item(title, "No. Author") for title in titles]
    records = [
        build_record(Preference((books[i],), (books[i - 1],), books[i - 2], "book"), liked=i % 2, quoted_target=True)
        for i in range(len(books))
    ]
    write_records(tmp_path / "book.json", records)
    evaluate("--lora_weights", adapter, data=tmp_path / "book.json")
    model = adapters.attach_adapter(
        base_models.load_base_model(tiny_llama, torch.device("cpu"), torch.float32), adapter
    )
    for record, row in zip(records, rows_of(adapter), strict=True):
        ids = [1, *pieces.encode(load_frame("alpaca").prompt(record))]
        with torch.no_grad():
            p = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        assert row["p_yes"] == pytest.approx(p[pieces.piece_to_id("Yes")].item(), rel=1e-3)
        assert row["p_no"] == pytest.approx(p[pieces.piece_to_id("No")].item(), rel=1e-3)
        assert row["label"] == (record["output"] == "Yes.")


@pytest.mark.slow
def test_several_adapters_load_the_base_once(evaluate, adapter, tiny_llama, tmp_path, monkeypatch):
    other = make_adapter(tmp_path / "other", tiny_llama, seed=2, r=4, target_modules=["k_proj", "v_proj"])
    shutil.copytree(adapter, tmp_path / "alone")
    shutil.copytree(other, tmp_path / "other alone")
    loads = []

    def load(*arguments, original=base_models.load_base_model, **options):
        loads.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(base_models, "load_base_model", load)
    out = evaluate("--lora_weights", adapter, other, adapter)
    assert len(loads) == 1 and out.count("===== auc: ") == 2
    for together, alone in ((adapter, tmp_path / "alone"), (other, tmp_path / "other alone")):
        evaluate("--lora_weights", alone)
        assert rows_of(together) == rows_of(alone)
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
def test_twice_is_once_and_other_data_needs_overwrite(evaluate, run_script, tiny_llama, adapter, tiny_workspace):
    evaluate("--lora_weights", adapter)
    first = (adapter / "predictions.jsonl").read_bytes(), metrics_of(adapter)["auc"]
    evaluate("--lora_weights", adapter)
    assert ((adapter / "predictions.jsonl").read_bytes(), metrics_of(adapter)["auc"]) == first
    valid = tiny_workspace / "rec_data" / "movie" / "valid.json"
    flags = ["--base_model", tiny_llama, "--lora_weights", adapter, "--test_data_path", valid, "--device", "cpu"]
    status, out, err = run_script("evaluate.py", *flags)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {adapter / 'metrics.json'}: is an evaluation on other data (")
    assert err.endswith("give --output_dir or --overwrite\n") and err.count("\n") == 1
    assert (adapter / "predictions.jsonl").read_bytes() == first[0]
    evaluate("--lora_weights", adapter, "--overwrite", data=valid)
    assert metrics_of(adapter)["n"] == len(rows_of(adapter)) == 12


@pytest.mark.slow
def test_resume(evaluate, adapter, tiny_llama, tmp_path):
    evaluate("--lora_weights", adapter)
    written = (adapter / "metrics.json").read_bytes()
    out = evaluate("--lora_weights", adapter, "--resume")
    assert out.splitlines()[0] == f"complete already: {adapter}" and "rows/s" not in out
    assert out.splitlines()[-1] == f"===== auc: {metrics_of(adapter)['auc']} ====="
    assert (adapter / "metrics.json").read_bytes() == written
    for flags in (["--overwrite"], ["--cutoff_len", "200"], ["--dtype", "bfloat16"], ["--no-merge"], []):
        assert "rows/s" in evaluate("--lora_weights", adapter, "--resume", *flags), flags
    shutil.copy(make_adapter(tmp_path / "other", tiny_llama, seed=2) / "adapter_model.safetensors", adapter)
    assert "rows/s" in evaluate("--lora_weights", adapter, "--resume")
    (adapter / "predictions.jsonl").write_text("{")
    assert "rows/s" in evaluate("--lora_weights", adapter, "--resume")
    read_evaluation(adapter)


def test_an_adapter_beside_the_base(evaluate, adapter, tmp_path, monkeypatch):
    """--no-merge gives the same numbers, and touches no weight of the base."""
    evaluate("--lora_weights", adapter)
    assert metrics_of(adapter)["run"]["scoring"]["merge"] is True

    def merge(*arguments, **options):
        raise AssertionError("merged")

    monkeypatch.setattr("peft.tuners.lora.Linear.merge", merge)
    evaluate("--lora_weights", adapter, "--output_dir", tmp_path / "beside", "--no-merge")
    assert metrics_of(tmp_path / "beside")["run"]["scoring"]["merge"] is False
    for one, other in zip(rows_of(adapter), rows_of(tmp_path / "beside"), strict=True):
        assert one["p_yes"] == pytest.approx(other["p_yes"], rel=1e-4)


@pytest.mark.slow
def test_floors_that_know_the_items(evaluate, adapter, tiny_workspace):
    evaluate("--lora_weights", adapter)
    without = metrics_of(adapter)["floors"]
    out = evaluate("--lora_weights", adapter, "--train_data_path", tiny_workspace / "rec_data" / "movie" / "train.json")
    with_train = metrics_of(adapter)["floors"]
    assert set(without) < set(with_train)
    assert all(without[name] == with_train[name] for name in without)
    assert metrics_of(adapter)["run"]["data"]["train"]["rows"] == 40
    assert all(name in out for name in with_train)


def test_records_in_another_form(evaluate, adapter, tmp_path):
    rows = [{"instruction": "Answer Yes or No.", "input": f"Night {n}?", "output": "No."} for n in range(6)]
    rows[0]["input"], rows[3]["output"] = "", "Yes."
    write_records(tmp_path / "own.json", rows)
    evaluate("--lora_weights", adapter, data=tmp_path / "own.json")
    assert metrics_of(adapter)["n"] == 6 and 0 <= metrics_of(adapter)["auc"] <= 1


@pytest.mark.slow
def test_a_bin_adapter(evaluate, adapter, tmp_path):
    evaluate("--lora_weights", adapter)
    other = shutil.copytree(adapter, tmp_path / "bin")
    (other / "predictions.jsonl").unlink()
    torch.save(adapters.read_adapter(other), other / "adapter_model.bin")
    (other / "adapter_model.safetensors").unlink()
    evaluate("--lora_weights", other)
    assert rows_of(other) == rows_of(adapter)


def test_cut_prompts_are_counted(evaluate, adapter):
    out = evaluate("--lora_weights", adapter, "--cutoff_len", 200)
    assert ", 24 with a cut prompt; frame: alpaca" in out.splitlines()[0]
    assert metrics_of(adapter)["run"]["results"]["truncated"] == {"test": 24}
