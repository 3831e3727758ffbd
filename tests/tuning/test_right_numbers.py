"""No wrong number and no lost work, through the scripts' own command lines.

1. One run at a time works in a folder: another is refused in one line with the first one's process, while it tunes too.
2. The weights of the best validation are saved, or nothing is: a best checkpoint that is gone or changed is an error.
3. What shaped the scores at tuning is kept with the adapter, and shapes every evaluation unless a flag says otherwise.
4. Another base model at the same path is noticed: when a run is complete, when it goes on, and when it is scored.
5. --overwrite acts once: a stopped run goes on with the same command, a finished one is complete.
6. The same base model under another path, and a workspace that has moved, are the same.
7. A full disk is one line.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.support.models import make_llama
from tests.support.tuned import die_behind_checkpoint, digest, predictions, read, signal_in_batch, snapshot
from tests.test_locks import holder  # noqa: F401  # a process that holds tmp_path / "run"
from tlrec.model import base_models
from tlrec.tuning.loss import Collator
from tlrec.tuning.trainer import TuningTrainer

pytestmark = pytest.mark.slow

WILD = ["--learning_rate", 0.1, "--eval_steps", 1, "--patience", 99]  # the best of eight validations is an early one
CALM = ["--learning_rate", 1e-2, "--eval_steps", 3]


@pytest.fixture
def stage(instruct):
    """ins_tuning.py for eight steps; returns (status, out, err)."""
    return lambda folder, *flags, **base: instruct(folder, "--num_epochs", 4, *flags, **base)


@pytest.fixture
def sweep(few_shot, tiny_workspace):
    """rec_tuning.py, scored on the test rows; returns (status, out, err)."""
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    return lambda folder, *flags: few_shot(folder, "--num_epochs", 4, "--test_data_path", test, *CALM, *flags)


@pytest.fixture
def own_base(tiny_llama, tmp_path):
    """A copy of the base model, to be replaced."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


# ---------------------------------------------------------------------------------------------------- one run at a time


def test_a_folder_where_another_process_works(holder, stage, sweep, evaluate, tiny_adapter, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    before = snapshot(tmp_path)
    refused = re.compile(
        rf"error: \S+run: process {holder.pid} on \S+ is writing there; wait for its end, or give another folder\n"
    )
    for status, out, err in (
        stage(folder, *CALM),
        stage(folder, *CALM, "--overwrite", "--check_only"),
        sweep(folder, "--sample", 4),
        evaluate(tiny_adapter, "--output_dir", folder),
    ):
        assert (status, out) == (2, "") and refused.fullmatch(err)
    assert snapshot(tmp_path) == before


def test_one_folder_of_a_sweep_is_taken(holder, sweep, tmp_path):  # noqa: F811
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "1_4").symlink_to(tmp_path / "run")
    status, _, err = sweep(tmp_path / "sweep", "--sample", 4, "--seed", 0, 1)
    assert status == 2 and f"1_4: process {holder.pid} on " in err


def test_a_second_process_while_a_run_tunes(run_script, stage_words, tmp_path, monkeypatch):
    words, seen = list(map(str, stage_words(tmp_path / "a run"))), []

    def fetch(collator, rows, original=Collator.__call__):
        if not seen:
            second = [sys.executable, *words, "--check_only"]
            seen.append(subprocess.run(second, capture_output=True, text=True, cwd=REPOSITORY))
        return original(collator, rows)

    monkeypatch.setattr(Collator, "__call__", fetch)
    status, _, err = run_script(*words)
    assert status == 0, err
    assert (seen[0].returncode, seen[0].stdout) == (2, "")
    assert seen[0].stderr.startswith(f"error: {tmp_path / 'a run'}: process {os.getpid()} on ")
    assert not (tmp_path / "a run" / ".lock").exists()


# -------------------------------------------------------------------------------------------------- the best validation


def test_a_best_checkpoint_that_is_gone(stage, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 14)
        assert stage(tmp_path, *WILD)[0] == 143
    state = read(tmp_path / "checkpoints" / "checkpoint-7", "trainer_state.json")
    best = tmp_path / "checkpoints" / f"checkpoint-{state['best_global_step']}"
    assert state["best_global_step"] < 7
    shutil.rmtree(best)
    before = snapshot(tmp_path)
    status, out, err = stage(tmp_path, *WILD, "--resume")
    assert (status, out) == (2, "")
    assert err == (
        f"error: {tmp_path / 'checkpoints'}: {best.name}, the checkpoint of the best validation, is gone, so the run "
        "that was stopped there cannot continue; remove that folder to start again\n"
    )
    assert snapshot(tmp_path) == before


def test_a_best_checkpoint_that_goes_while_the_run_tunes(stage, tmp_path, monkeypatch):
    def lose(trainer, *arguments, original=TuningTrainer._load_best_model):
        shutil.rmtree(trainer.state.best_model_checkpoint)
        return original(trainer, *arguments)

    monkeypatch.setattr(TuningTrainer, "_load_best_model", lose)
    status, out, err = stage(tmp_path, *WILD)
    assert status == 2 and "best step" not in out
    assert re.search(rf"error: {tmp_path}/checkpoints/checkpoint-\d: an adapter without weights", err)
    assert not (tmp_path / "adapter_config.json").exists()


def test_a_best_checkpoint_that_was_changed(stage, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 14)
        assert stage(tmp_path, *WILD)[0] == 143
    checkpoints = tmp_path / "checkpoints"
    best = read(checkpoints / "checkpoint-7", "trainer_state.json")["best_global_step"]
    name = "adapter_model.safetensors"
    shutil.copy(checkpoints / "checkpoint-7" / name, checkpoints / f"checkpoint-{best}" / name)
    status, _, err = stage(tmp_path, *WILD, "--resume")
    assert status == 2
    assert f"the weights of step {best}, the best validation, are not what they were then; nothing is saved" in err
    assert not (tmp_path / "adapter_config.json").exists()


# ------------------------------------------------------------------------------------------------ what shapes a score


@pytest.mark.parametrize(
    "flags",
    [["--cutoff_len", 200], ["--dtype", "bfloat16"], ["--quantization", "8bit"], ["--attention", "eager"]],
    ids=str,
)
def test_an_evaluation_scores_as_the_tuning_did(flags, sweep, evaluate, tmp_path):
    assert sweep(tmp_path / "a", "--sample", 4, *flags)[0] == 0
    scoring = {"frame": "alpaca", "cutoff_len": 512, "dtype": "float32", "quantization": "none", "attention": "sdpa"}
    plain = scoring | {"merge": True, flags[0][2:]: flags[1]}
    assert read(tmp_path / "a")["scoring"] == plain == read(tmp_path / "a", "metrics.json")["run"]["scoring"]
    status, out, err = evaluate(tmp_path / "a", "--output_dir", tmp_path / "scored")
    assert status == 0, err
    words = ", ".join(f"{name} {plain[name]}" for name in scoring if name != "frame")
    assert out.splitlines()[1] == f"scored with {words}"
    assert read(tmp_path / "scored", "metrics.json")["run"]["scoring"] == plain | {"orders": 1}
    exact = 1e-7 if flags[1] in (200, "eager") else 2e-3  # other kernels for a merged adapter than for one in training
    for one, other in zip(predictions(tmp_path / "a"), predictions(tmp_path / "scored"), strict=True):
        assert one["p_yes"] == pytest.approx(other["p_yes"], abs=exact)


def test_a_flag_says_otherwise(sweep, evaluate, tmp_path):
    assert sweep(tmp_path / "a", "--sample", 4, "--cutoff_len", 200)[0] == 0
    status, out, err = evaluate(
        tmp_path / "a", "--output_dir", tmp_path / "b", "--cutoff_len", 512, "--dtype", "bfloat16"
    )
    assert status == 0, err
    assert out.splitlines()[1] == (
        "scored with cutoff_len 512, dtype bfloat16, quantization none, attention sdpa; "
        "tuned with cutoff_len 200, dtype float32"
    )
    scoring = read(tmp_path / "b", "metrics.json")["run"]["scoring"]
    assert (scoring["cutoff_len"], scoring["dtype"]) == (512, "bfloat16")
    assert predictions(tmp_path / "a") != predictions(tmp_path / "b")


def test_adapters_that_want_other_numbers_of_the_base(
    run_script, tiny_llama, tiny_workspace, sweep, tmp_path, monkeypatch
):
    adapters = {"float32": tmp_path / "a", "bfloat16": tmp_path / "b"}
    for dtype, folder in adapters.items():
        assert sweep(folder, "--sample", 4, "--dtype", dtype)[0] == 0
    alone = {dtype: predictions(folder) for dtype, folder in adapters.items()}
    loaded = []

    def load(base_model, device, dtype, *rest, original=base_models.load_base_model, **options):
        loaded.append(str(dtype))
        return original(base_model, device, dtype, *rest, **options)

    monkeypatch.setattr(base_models, "load_base_model", load)
    a, b = adapters.values()
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    flags = ["--base_model", tiny_llama, "--test_data_path", test, "--device", "cpu", "--lora_weights", a, b, a]
    status, out, err = run_script("evaluate.py", *flags)
    assert status == 0, err
    assert loaded == ["torch.float32", "torch.bfloat16"]
    for dtype, folder in adapters.items():
        assert read(folder, "metrics.json")["run"]["scoring"]["dtype"] == dtype
        for one, other in zip(predictions(folder), alone[dtype], strict=True):
            assert one["p_yes"] == pytest.approx(other["p_yes"], abs=2e-3)


def test_float16_of_a_gpu_is_scored_in_float32_on_the_cpu_and_said(sweep, evaluate, tmp_path):
    assert sweep(tmp_path / "a", "--sample", 4)[0] == 0
    run = read(tmp_path / "a")
    run["scoring"] |= {"dtype": "float16", "attention": "flash_attention_2"}
    (tmp_path / "a" / "run.json").write_text(json.dumps(run))
    status, out, err = evaluate(tmp_path / "a")
    assert status == 0, err
    assert out.splitlines()[1].endswith(
        "dtype float32, quantization none, attention sdpa; tuned with dtype float16, attention flash_attention_2"
    )


# --------------------------------------------------------------------------------------------- another base model


def replace(base):
    """Another model of the same shape at the same path."""
    shutil.rmtree(base)
    make_llama(base, seed=1)


def test_a_base_model_that_was_replaced(stage, evaluate, own_base, tmp_path):
    folder = tmp_path / "run"
    assert stage(folder, *CALM, base=own_base)[0] == 0
    assert set(read(folder)["base"]) == {"config", "tokenizer", "weights"}
    assert evaluate(folder, base=own_base)[0] == 0
    first = read(folder, "metrics.json")
    replace(own_base)
    before = snapshot(folder)
    status, out, err = stage(folder, *CALM, base=own_base)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: --output_dir {folder}: holds another run's result: weights of the base model ")
    status, out, err = evaluate(folder, base=own_base)
    assert (status, out) == (2, "")
    assert err == (
        f"error: --lora_weights {folder}: was tuned on another base model (then {own_base}), which differs from "
        f"{own_base} in its weights; give its own base model, or --other_base to score it on this one\n"
    )
    assert snapshot(folder) == before
    status, out, err = evaluate(folder, "--other_base", base=own_base)
    assert status == 0 and f"warning: --lora_weights {folder}: was tuned on another base model" in err
    second = read(folder, "metrics.json")
    assert second["auc"] != first["auc"]
    assert second["run"]["base"]["weights"] != first["run"]["base"]["weights"] == read(folder)["base"]["weights"]


def test_a_start_adapter_of_a_base_model_that_was_replaced(stage, own_base, tmp_path):
    assert stage(tmp_path / "one", *CALM, base=own_base)[0] == 0
    replace(own_base)
    status, _, err = stage(tmp_path / "two", *CALM, "--resume_from_checkpoint", tmp_path / "one", base=own_base)
    assert status == 0
    assert err.splitlines()[0] == (
        f"warning: --resume_from_checkpoint {tmp_path / 'one'}: was tuned on another base model (then {own_base}), "
        f"which differs from {own_base} in its weights; tuning continues on this one"
    )


def test_a_stopped_run_whose_base_model_was_replaced(stage, own_base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 8)
        assert stage(tmp_path / "run", *CALM, base=own_base)[0] == 143
    replace(own_base)
    status, out, err = stage(tmp_path / "run", *CALM, "--resume", base=own_base)
    assert (status, out) == (2, "") and "another run was stopped there: weights of the base model " in err


def test_the_same_base_under_another_path(stage, evaluate, own_base, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert stage(folder, *CALM, base=own_base)[0] == 0
    complete = (0, f"complete already: {folder}\n", "")
    assert stage(folder, *CALM, base=f"{own_base}/") == complete
    monkeypatch.chdir(tmp_path)
    assert stage(folder, *CALM, base="./model") == complete
    moved = own_base.rename(tmp_path / "of another name")
    assert stage(folder, *CALM, base=moved) == complete
    assert evaluate(folder, base=moved)[0] == 0


@pytest.mark.parametrize("last", [7, 8])
def test_a_stopped_run_in_a_workspace_that_has_moved(last, stage, own_base, tmp_path, monkeypatch):
    assert stage(tmp_path / "undisturbed", *WILD, base=own_base)[0] == 0
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()

    with monkeypatch.context() as patch:
        die_behind_checkpoint(patch, last)  # of 8 steps
        assert stage(there / "run", *WILD, base=shutil.copytree(own_base, there / "model"))[0] == 130
    there.rename(here)
    status, out, err = stage(here / "run", *WILD, "--resume", base=here / "model")
    assert status == 0, err
    assert f"resuming: {here}/run/checkpoints/checkpoint-{last}\n" in out
    assert digest(here / "run") == digest(tmp_path / "undisturbed")
    assert not there.exists()


# ------------------------------------------------------------------------------------------------------ --overwrite once


def test_a_stopped_run_with_overwrite_goes_on(stage, tmp_path, monkeypatch):
    flags = [*CALM, "--overwrite", "--resume"]
    assert stage(tmp_path / "undisturbed", *CALM)[0] == 0
    assert stage(tmp_path / "run", *CALM, "--seed", 1)[0] == 0  # what is overwritten
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 8)
        status, out, _ = stage(tmp_path / "run", *flags)
        assert status == 143 and "starting at step 0\n" in out
    assert read(tmp_path / "run")["seed"] == 1  # until there is something better
    status, out, err = stage(tmp_path / "run", *flags)
    assert status == 0, err
    assert f"resuming: {tmp_path}/run/checkpoints/checkpoint-4\n" in out
    assert digest(tmp_path / "run") == digest(tmp_path / "undisturbed")
    before = snapshot(tmp_path)
    assert stage(tmp_path / "run", *flags) == (0, f"complete already: {tmp_path / 'run'}\n", "")
    assert snapshot(tmp_path) == before


def test_a_sweep_with_overwrite_does_the_rest_only(sweep, tmp_path, monkeypatch):
    flags = ["--sample", 4, "--seed", 0, 1, "--overwrite", "--resume"]
    assert sweep(tmp_path, *flags[:-2])[0] == 0  # what is overwritten
    old = {seed: read(tmp_path / f"{seed}_4")["started"] for seed in (0, 1)}
    assert not any(read(tmp_path / f"{seed}_4")["arguments"]["overwrite"] for seed in (0, 1))
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 6)  # in the second run: four rows are one batch of each of four epochs
        status, out, err = sweep(tmp_path, *flags)
        assert status == 143, err
    assert read(tmp_path / "0_4")["arguments"]["overwrite"] and read(tmp_path / "1_4")["started"] == old[1]
    first = snapshot(tmp_path / "0_4")
    status, out, err = sweep(tmp_path, *flags)
    assert status == 0, err
    assert f"complete already: {tmp_path / '0_4'}\n" in out and "resuming: " in out
    assert snapshot(tmp_path / "0_4") == first
    status, out, err = sweep(tmp_path, *flags)
    assert (status, out) == (0, "".join(f"complete already: {tmp_path / name}\n" for name in ("0_4", "1_4")))


# ------------------------------------------------------------------------------------------------------------ a full disk


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError(
            "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file: file write failed"
        ),
    ],
    ids=["the system", "torch.save"],
)
def test_a_full_disk_is_one_line(error, stage, tmp_path, monkeypatch):
    assert stage(tmp_path / "undisturbed", *CALM)[0] == 0

    def full(trainer, folder):
        if folder.endswith("-6"):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(TuningTrainer, "_save_optimizer_and_scheduler", full)
        status, _, err = stage(tmp_path / "run", *CALM)
    assert status == 2
    line = f"error: {tmp_path / 'run'}: the disk is full; free some space and run the same command again"
    assert err.splitlines()[-1].endswith(line)  # behind what the progress bar has left
    assert not (tmp_path / "run" / "adapter_config.json").exists()
    assert stage(tmp_path / "run", *CALM)[0] == 0
    assert digest(tmp_path / "run") == digest(tmp_path / "undisturbed")
