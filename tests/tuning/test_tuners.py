"""Both tuners on a two-layer model, through their own command lines.

1. Every LoRA tensor has changed, and run.json holds the facts.
2. The best validation is kept; its AUC and loss are what evaluate.py finds on the same rows.
3. The same seed gives the same bytes; a sweep gives the bytes of single runs; what is complete is not made again; an
   interrupted sweep does the rest only.
4. No start adapter, `--sample -1`, free-text answers and all linear layers work.
5. The loss is the same in chunks of any size, whatever the micro-batch.
"""

import json
import shutil
from contextlib import nullcontext
from operator import itemgetter

import pytest
import torch

from tests.support.tuned import digest, furthest, history, predictions, read, snapshot, weights
from tlrec.data.records import draw_shots, read_records, write_records
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.files import sha256
from tlrec.model import adapters
from tlrec.tuning import trainer
from tlrec.tuning.loss import ChunkedCrossEntropy, Collator

CPU = torch.device("cpu")
FILES = {"adapter_config.json", "adapter_model.safetensors", "prompt_frame.json", "run.json"}


def changed(before, after):
    """{name: norm of the change over the norm of the tensor}."""
    return {name: ((after[name] - before[name]).norm() / after[name].norm()).item() for name in after}


@pytest.fixture(scope="module")
def stage(instruct, tiny_adapter, tmp_path_factory):
    """Folder and output of one curriculum stage that starts from `tiny_adapter`."""
    folder = tmp_path_factory.mktemp("stage") / "alpaca_instrument"
    facts = ["--source", "netflix", "--target", "movie"]
    status, out, err = instruct(folder, "--resume_from_checkpoint", tiny_adapter, *facts)
    assert status == 0, err
    return folder, out


@pytest.fixture(scope="module")
def sweep(few_shot, stage, tiny_workspace, tmp_path_factory):
    """Folder and output of a sweep over two seeds and two numbers of shots, scored on the test set."""
    folder = tmp_path_factory.mktemp("sweep")
    status, out, err = few_shot(folder, *sweep_flags(stage, tiny_workspace))
    assert status == 0, err
    return folder, out


def sweep_flags(stage, tiny_workspace):
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    return ["--resume_from_checkpoint", stage[0], "--sample", 4, 12, "--seed", 0, 1, "--test_data_path", test]


# ----------------------------------------------------------------------------------------------------- one stage


def test_files_and_facts_of_a_stage(stage, tiny_adapter, tiny_workspace):
    folder, out = stage
    assert {path.name for path in folder.iterdir()} == FILES
    run = read(folder)
    facts = {"script": "ins_tuning.py", "stage": "source", "source": "netflix", "target": "movie"}
    facts |= {"frame": "alpaca", "seed": 0, "shots": None}
    assert {key: run[key] for key in facts} == facts
    assert run["start_adapter"]["sha256"] == sha256(tiny_adapter / "adapter_model.safetensors")
    assert {name: data["rows"] for name, data in run["data"].items()} == {"train": 16, "valid": 12}
    assert [entry["step"] for entry in run["results"]["history"]] == [1, 2, 3, 4]
    assert run["results"]["truncated"] == {"train": 0, "valid": 0}
    assert 0 <= run["results"]["padding_share"] < 0.3 and run["results"]["tokens_per_second"] > 0
    assert "train: 16 rows, 0 with a cut prompt\n" in out
    assert "validation: 12 rows, 0 with a cut prompt; frame: alpaca\n" in out
    assert f"start adapter: {tiny_adapter}, 8 tensors loaded and compared\n" in out
    assert f"adapter: {folder}\n" in out


def test_every_lora_tensor_has_changed(stage, tiny_adapter):
    before, after = weights(tiny_adapter), weights(stage[0])
    assert {name: tensor.shape for name, tensor in before.items()} == {n: each.shape for n, each in after.items()}
    assert all(0.01 < change < 1 for change in changed(before, after).values())


@pytest.mark.parametrize("metric", ["auc", "loss"])
@pytest.mark.slow
def test_the_best_validation_is_kept_and_evaluate_finds_it(instruct, evaluate, tiny_workspace, tmp_path, metric):
    folder = tmp_path / "adapter"
    wild = ["--learning_rate", 3]  # so that the best is not the last
    assert instruct(folder, "--metric_for_best_model", metric, *wild)[0] == 0
    results = read(folder)["results"]
    history = results["history"]
    assert len(history) == 4 and len({entry["eval_auc"] for entry in history}) > 2
    values = [entry["eval_auc"] if metric == "auc" else -entry["eval_loss"] for entry in history]
    best = history[values.index(max(values))]  # the first of equals
    assert results["best_step"] == best["step"]
    valid = tiny_workspace / "rec_data" / "movie" / "valid.json"
    status, out, err = evaluate(folder, "--test_data_path", valid)
    assert status == 0, err
    assert read(folder, "metrics.json")["auc"] == pytest.approx(best["eval_auc"], abs=1e-6)
    assert f"===== auc: {json.loads((folder / 'metrics.json').read_text())['auc']} =====\n" in out


@pytest.mark.slow
def test_without_selection_the_last_step_is_kept(instruct, tmp_path):
    """Also if it is no multiple of --eval_steps, and the validation before it was better."""
    flags = ["--learning_rate", 3, "--patience", 1]
    assert instruct(tmp_path / "all", "--metric_for_best_model", "last", *flags)[0] == 0
    assert instruct(tmp_path / "last", "--metric_for_best_model", "last", *flags, "--eval_steps", 3)[0] == 0
    every, last = (read(tmp_path / name)["results"]["history"] for name in ("all", "last"))
    assert len({entry["eval_auc"] for entry in every}) > 2 and max(every, key=itemgetter("eval_auc")) != every[-1]
    assert [entry["step"] for entry in every] == [1, 2, 3, 4] and last == every[2:]
    assert digest(tmp_path / "all") == digest(tmp_path / "last")


def test_same_seed_same_bytes(instruct, stage, tiny_adapter, tmp_path):
    start = ["--resume_from_checkpoint", tiny_adapter]
    assert instruct(tmp_path / "again", *start)[0] == 0
    assert digest(stage[0]) == digest(tmp_path / "again")
    assert read(stage[0])["results"]["history"] == history(tmp_path / "again")
    assert instruct(tmp_path / "other", *start, "--seed", 1)[0] == 0
    assert digest(stage[0]) != digest(tmp_path / "other")


@pytest.mark.slow
def test_a_cast_that_autocast_undoes_changes_no_bit(instruct, tmp_path, monkeypatch):
    flags = ["--dtype", "bfloat16", "--lora_dropout", 0, "--lora_target_modules", "all-linear"]
    assert instruct(tmp_path / "without", *flags)[0] == 0
    monkeypatch.setattr(trainer, "disable_input_dtype_casting", lambda model, active: nullcontext())
    assert instruct(tmp_path / "peft", *flags)[0] == 0
    name = "adapter_model.safetensors"
    assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "peft" / name).read_bytes()


def test_a_second_call_is_complete_and_another_run_is_refused(instruct, stage, tiny_adapter, tmp_path):
    folder = shutil.copytree(stage[0], tmp_path / "adapter")
    facts = ["--resume_from_checkpoint", tiny_adapter, "--source", "netflix", "--target", "movie"]
    before = snapshot(folder)
    assert instruct(folder, *facts) == (0, f"complete already: {folder}\n", "")
    status, out, err = instruct(folder, *facts, "--seed", 1)
    assert (status, out) == (2, "")
    assert err == (
        f"error: --output_dir {folder}: holds another run's result: --seed 0, not 1; "
        "give --overwrite or another folder (to a launcher: EXP_NAME)\n"
    )
    status, _, err = instruct(folder)
    start = sha256(tiny_adapter / "adapter_model.safetensors")[:12]
    assert status == 2 and f"start adapter {start}, not None" in err
    assert "--source netflix, not None, --target movie, not None" in err
    assert snapshot(folder) == before
    (folder / "metrics.json").write_text("{}")
    assert instruct(folder, *facts, "--seed", 1, "--overwrite")[0] == 0
    assert read(folder)["seed"] == 1 and {path.name for path in folder.iterdir()} == FILES


def test_patience(instruct, tmp_path):
    assert instruct(tmp_path / "a", "--learning_rate", 1e-12, "--patience", 2, "--num_epochs", 4)[0] == 0
    results = read(tmp_path / "a")["results"]
    assert [entry["step"] for entry in results["history"]] == [1, 2, 3]  # the first is the best, two without gain
    assert results["best_step"] == 1


def test_chain_of_thought_records(instruct, run_script, stage, tmp_path):
    train = tmp_path / "stage123.json"
    answer = '1. "Night" - "No {it}"\nYes'
    rows = [{"instruction": "Rank {ten}.", "input": f"Night {n}", "output": answer} for n in range(8)]
    rows.append({"instruction": "Rank.", "input": "", "output": "word " * 300})
    rows.append({"instruction": "Rank.", "input": "Night " * 300, "output": "short"})
    write_records(train, rows)
    status, out, err = instruct(tmp_path / "cot", "--stage", "cot", "--cutoff_len", 300, "--train_data_path", train)
    assert status == 0, err
    assert "train: 9 rows, 1 with a cut prompt, 1 left out because the answer exceeds --cutoff_len 300\n" in out
    run = read(tmp_path / "cot")
    assert run["stage"] == "cot"
    assert run["results"]["truncated"]["train"] == 1
    write_records(train, rows[8:9])
    status, _, err = instruct(tmp_path / "none", "--cutoff_len", 300, "--train_data_path", train)
    line = "error: --train_data_path: no record fits into --cutoff_len 300"
    assert (status, err.splitlines()[-1]) == (2, line)


# ------------------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.slow
def test_a_sweep_gives_the_bytes_of_single_runs(few_shot, sweep, stage, tiny_workspace, tmp_path):
    folder, _ = sweep
    assert {path.name for path in folder.iterdir()} == {"0_4", "0_12", "1_4", "1_12"}
    for seed, shots in ((0, 4), (1, 12)):
        flags = ["--resume_from_checkpoint", stage[0], "--sample", shots, "--seed", seed]
        flags += ["--test_data_path", tiny_workspace / "rec_data" / "movie" / "test.json"]
        single, swept = tmp_path / f"{seed}_{shots}", folder / f"{seed}_{shots}"
        assert few_shot(single, *flags)[0] == 0
        assert digest(single) == digest(swept)
        assert (single / "predictions.jsonl").read_bytes() == (swept / "predictions.jsonl").read_bytes()
        assert read(swept)["results"]["history"] == read(single)["results"]["history"]
    assert len({digest(folder / name) for name in ("0_4", "0_12", "1_4")}) == 3


@pytest.mark.slow
def test_facts_of_a_sweep(sweep, stage):
    folder, out = sweep
    run = read(folder / "1_12")
    assert (run["script"], run["stage"], run["shots"], run["seed"]) == ("rec_tuning.py", "few-shot", 12, 1)
    assert (run["arguments"]["sample"], run["arguments"]["seed"]) == (12, 1)
    assert run["start_adapter"]["run"]["stage"] == "source"
    assert run["metric_for_best_model"] == "loss"
    assert all(0.001 < change < 1 for change in changed(weights(stage[0]), weights(folder / "1_12")).values())
    assert out.count("start adapter: ") == out.count("8 tensors loaded and compared") == 4
    aucs = [read(folder / name, "metrics.json")["auc"] for name in ("0_4", "0_12", "1_4", "1_12")]
    assert [line for line in out.splitlines() if "=====" in line] == [f"===== auc: {auc} =====" for auc in aucs]


@pytest.mark.slow
def test_an_interrupted_sweep_does_the_rest_only(few_shot, sweep, stage, tiny_workspace, tmp_path, monkeypatch):
    whole, flags, saves = sweep[0], sweep_flags(stage, tiny_workspace), []

    def save(model, folder, original=adapters.save_adapter):
        if len(saves) == 2:
            raise KeyboardInterrupt
        saves.append(folder)
        original(model, folder)

    monkeypatch.setattr(adapters, "save_adapter", save)
    folder = tmp_path / "sweep"
    status, _, err = few_shot(folder, *flags)
    assert status == 130
    assert err.splitlines()[-1] == "interrupted: finished work has been kept"
    assert not (folder / "1_4" / "adapter_config.json").exists()
    monkeypatch.undo()

    (folder / "0_12" / "metrics.json").unlink()  # as if stopped between tuning and scoring
    kept = snapshot(folder / "0_4"), sha256(folder / "0_12" / "run.json")
    status, out, err = few_shot(folder, *flags)
    assert status == 0, err
    assert out.count("complete already: ") == 1 and f"complete already: {folder / '0_4'}\n" in out
    assert out.count("tensors loaded and compared") == 2 and out.count("===== auc: ") == 3
    assert kept == (snapshot(folder / "0_4"), sha256(folder / "0_12" / "run.json"))
    for name in ("0_4", "0_12", "1_4", "1_12"):
        assert digest(folder / name) == digest(whole / name)
        assert predictions(folder / name) == predictions(whole / name)
        assert {path.name for path in (folder / name).iterdir()} == FILES | {"metrics.json", "predictions.jsonl"}

    before = snapshot(folder)
    status, out, err = few_shot(folder, *flags)
    assert (status, err) == (0, "")
    assert out == "".join(f"complete already: {folder / name}\n" for name in ("0_4", "0_12", "1_4", "1_12"))
    assert snapshot(folder) == before


@pytest.mark.slow
def test_all_rows_without_a_start_adapter(few_shot, tmp_path):
    status, out, err = few_shot(tmp_path / "all", "--sample", -1, "--num_epochs", 1, "--eval_steps", 5)
    assert status == 0, err
    assert "train: 40 rows, 0 with a cut prompt\n" in out
    assert "start adapter: none, a fresh LoRA\n" in out
    assert read(tmp_path / "all")["shots"] == -1  # as the report names all rows
    assert all(tensor.abs().max() > 1e-3 for tensor in weights(tmp_path / "all").values())


def test_published_batches_fit_few_shots(few_shot, tmp_path):
    status, out, err = few_shot(tmp_path / "a", "--sample", 4, "--batch_size", 128, "--micro_batch_size", 32)
    assert status == 0, err
    assert [entry["step"] for entry in history(tmp_path / "a")] == [1, 2]  # one step an epoch


# --------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("at_once", [1, 7, 1024])
def test_chunked_cross_entropy(monkeypatch, at_once):
    monkeypatch.setattr("tlrec.tuning.loss.POSITIONS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(12, 50, bias=False).requires_grad_(False)
    hidden = torch.randn(23, 12, generator=generator).requires_grad_()
    targets = torch.randint(50, (23,), generator=generator)
    weights = torch.rand(23, generator=generator)
    plain = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none") @ weights
    (plain / 23).backward()
    expected, hidden.grad = hidden.grad, None
    chunked = ChunkedCrossEntropy.apply(hidden, targets, weights, head)
    torch.testing.assert_close(chunked, plain)
    (chunked / 23).backward()
    torch.testing.assert_close(hidden.grad, expected)


def test_collator():
    collator = Collator(prompt_loss_weight=0.25)
    long, short = {"input_ids": [1, 5, 6, 2], "answer_start": 2}, {"input_ids": [1, 7], "answer_start": 1}
    batch = collator([long, short])
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2], [1, 7, 0, 0]]
    assert batch["weights"].tolist() == [[0, 0.25, 1, 1], [0, 1, 0, 0]]
    assert batch["answer_start"].tolist() == [2, 1]
    assert (collator.tokens, collator.padded_tokens) == (6, 8)
    assert Collator(1)([long | {"answer_start": 0}])["weights"].tolist() == [[0, 1, 1, 1]]


@pytest.mark.slow
def test_weight_of_the_prompt(instruct, tmp_path):
    """Between loss on everything and on answers alone; the same however a batch is divided."""
    once = ["--batch_size", 8, "--num_epochs", 1, "--warmup_steps", 0, "--lora_dropout", 0]
    runs = {
        "published": [],
        "answers": ["--no-train_on_inputs"],
        "some": ["--prompt_loss_weight", 0.05],
        "divided": ["--prompt_loss_weight", 0.05, "--micro_batch_size", 2],
    }
    for name, flags in runs.items():
        status, _, err = instruct(tmp_path / name, *once, "--micro_batch_size", 8, *flags)
        assert status == 0, err
    tensors = {name: weights(tmp_path / name) for name in runs}

    def distance(one, other):
        return furthest(tensors[one], tensors[other])

    assert distance("some", "divided") < 1e-6 < 1e-5 < min(distance("some", "published"), distance("some", "answers"))
    assert len({round(history(tmp_path / name)[-1]["eval_loss"], 3) for name in runs}) == 3


@pytest.mark.slow
def test_all_linear_layers(instruct, stage, tmp_path):
    assert instruct(tmp_path / "a", "--lora_target_modules", "all-linear", "--num_epochs", 1)[0] == 0
    layers = {name.split(".lora_")[0].split(".")[-1] for name in weights(tmp_path / "a")}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    again = ["--lora_target_modules", "all-linear", "--resume_from_checkpoint", tmp_path / "a", "--num_epochs", 1]
    assert instruct(tmp_path / "b", *again)[0] == 0
    status, _, err = instruct(
        tmp_path / "c", "--lora_target_modules", "all-linear", "--resume_from_checkpoint", stage[0]
    )
    message = (
        f"error: --resume_from_checkpoint {stage[0]}: the adapter has target modules q_proj v_proj, this run asks for "
    )
    assert (
        status == 2 and err.splitlines()[-1].startswith(message) and err.endswith("leave out --lora_target_modules\n")
    )


def test_validation_on_a_draw(instruct, tiny_workspace, tmp_path):
    """The same rows whatever the seed; run.json says how many of how many."""
    drawn = ["--num_epochs", 1, "--max_val_samples", 6]
    status, out, err = instruct(tmp_path / "a", *drawn)
    assert status == 0 and "validation: 6 of 12 rows" in out, err
    assert read(tmp_path / "a")["data"]["valid"]["rows"] == 6
    assert read(tmp_path / "a")["data"]["valid"]["rows_in_file"] == 12
    valid = tiny_workspace / "rec_data" / "movie" / "valid.json"
    rows = EvaluationSet(valid, draw=6).records
    assert rows == draw_shots(read_records(valid), 6, 0) and len(rows) == 6
    status, _, err = instruct(tmp_path / "b", "--max_val_samples", 13)
    assert status == 2 and "--max_val_samples 13: " in err and "1 to 12 rows, or -1 for all" in err
