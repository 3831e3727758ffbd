"""No wrong number and no lost work, through the scripts' own command lines.

1. One run at a time works in a folder: another is refused in one line with the first one's process.
2. The weights of the best validation are saved, or nothing is: a best checkpoint that is gone or changed is an error.
3. What shaped the scores at tuning is kept with the adapter, and shapes every evaluation unless a flag says otherwise.
4. Another base model at the same path is noticed: when a run is complete, when tuning goes on from it, and when it is scored.
5. --overwrite acts once: a stopped run goes on with the same command, a finished one is complete.
6. The same base model under another path, and a workspace that has moved, are the same.
7. A full disk is one line.
"""

import json
import os
import re
import shutil

import pytest

from tests.support.models import make_llama
from tests.support.tuned import die_behind_checkpoint, digest, predictions, read, signal_in_batch, snapshot
from tlrec.errors import InputError
from tlrec.model import base_models
from tlrec.runs import check_unlocked
from tlrec.tuning.loss import Collator
from tlrec.tuning.trainer import TuningTrainer

pytestmark = pytest.mark.slow

WILD = ["--learning_rate", 0.1, "--eval_steps", 1, "--patience", 99]  # the best of eight validations is an early one
CALM = ["--learning_rate", 1e-2, "--eval_steps", 3]


@pytest.fixture
def stage(instruct):
    """ins_tuning.py for eight steps; returns (status, out, err)."""
    return lambda folder, *flags, **base: instruct(folder, "--num_epochs", 4, *flags, **base)


@pytest.fixture(scope="module")
def undisturbed(instruct, tmp_path_factory):
    """Digests of the adapters of two runs that nothing disturbs, {"calm", "wild"}."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name, flags in (("calm", CALM), ("wild", WILD)):
        assert instruct(folder / name, "--num_epochs", 4, *flags)[0] == 0
    return {name: digest(folder / name) for name in ("calm", "wild")}


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


def test_the_folder_of_a_run_that_tunes_is_locked(stage, tmp_path, monkeypatch):
    seen = []

    def fetch(collator, rows, original=Collator.__call__):
        with pytest.raises(InputError, match=rf"^{tmp_path / 'run'}: process {os.getpid()} on "):
            check_unlocked(tmp_path / "run")
        seen.append(len(rows))
        return original(collator, rows)

    monkeypatch.setattr(Collator, "__call__", fetch)
    monkeypatch.setattr("tlrec.runs.locks.PATIENCE", 0.01)
    status, _, err = stage(tmp_path / "run", *CALM, "--num_epochs", 1)
    assert status == 0 and seen, err
    assert not (tmp_path / "run" / ".lock").exists()


# -------------------------------------------------------------------------------------------------- the best validation


def test_a_best_checkpoint_that_is_gone_or_was_changed(stage, tmp_path, monkeypatch):
    gone, changed, name = tmp_path / "gone", tmp_path / "changed", "adapter_model.safetensors"
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 14)
        assert stage(gone, *WILD)[0] == 143
    step = read(gone / "checkpoints" / "checkpoint-7", "trainer_state.json")["best_global_step"]
    assert step < 7
    shutil.copytree(gone, changed)
    shutil.rmtree(gone / "checkpoints" / f"checkpoint-{step}")
    before = snapshot(gone)
    assert stage(gone, *WILD, "--resume") == (
        2,
        "",
        f"error: {gone / 'checkpoints'}: checkpoint-{step}, the checkpoint of the best validation, is gone, so the run "
        "that was stopped there cannot continue; remove that folder to start again\n",
    )
    assert snapshot(gone) == before
    checkpoints = changed / "checkpoints"
    shutil.copy(checkpoints / "checkpoint-7" / name, checkpoints / f"checkpoint-{step}" / name)
    status, _, err = stage(changed, *WILD, "--resume")
    assert status == 2
    assert f"the weights of step {step}, the best validation, are not what they were then; nothing is saved" in err
    assert not (changed / "adapter_config.json").exists()


# ------------------------------------------------------------------------------------------------ what shapes a score


@pytest.mark.parametrize("other", [{"cutoff_len": 200, "attention": "eager"}, {"quantization": "8bit"}], ids=str)
def test_an_evaluation_scores_as_the_tuning_did_unless_a_flag_says_otherwise(other, sweep, evaluate, tmp_path):
    assert sweep(tmp_path / "a", "--sample", 4, *(f"--{key}={value}" for key, value in other.items()))[0] == 0
    tuned = {"frame": "alpaca", "cutoff_len": 512, "dtype": "float32", "quantization": "none", "attention": "sdpa"}
    tuned |= {"merge": True} | other
    assert read(tmp_path / "a")["scoring"] == tuned == read(tmp_path / "a", "metrics.json")["run"]["scoring"]
    status, out, err = evaluate(tmp_path / "a", "--output_dir", tmp_path / "b")
    assert status == 0 and "; tuned with" not in out, err
    assert read(tmp_path / "b", "metrics.json")["run"]["scoring"] == tuned | {"orders": 1}
    exact = 2e-3 if "quantization" in other else 1e-7  # other kernels for a merged adapter than for one in training
    for one, again in zip(predictions(tmp_path / "a"), predictions(tmp_path / "b"), strict=True):
        assert one["p_yes"] == pytest.approx(again["p_yes"], abs=exact)
    status, out, err = evaluate(tmp_path / "a", "--output_dir", tmp_path / "c", "--cutoff_len=180", "--dtype=bfloat16")
    assert status == 0, err
    said = f"quantization {tuned['quantization']}, attention {tuned['attention']}; tuned with cutoff_len"
    said = f"scored with cutoff_len 180, dtype bfloat16, {said} {tuned['cutoff_len']}, dtype float32"
    assert out.splitlines()[1] == said
    assert predictions(tmp_path / "a") != predictions(tmp_path / "c")


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
    status, _, err = stage(tmp_path / "two", *CALM, "--resume_from_checkpoint", folder, base=own_base)
    assert status == 0
    assert err.splitlines()[0] == (
        f"warning: --resume_from_checkpoint {folder}: was tuned on another base model (then {own_base}), "
        f"which differs from {own_base} in its weights; tuning continues on this one"
    )


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
def test_a_stopped_run_in_a_workspace_that_has_moved(last, stage, undisturbed, own_base, tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()

    with monkeypatch.context() as patch:
        die_behind_checkpoint(patch, last)  # of 8 steps
        assert stage(there / "run", *WILD, base=shutil.copytree(own_base, there / "model"))[0] == 130
    there.rename(here)
    status, out, err = stage(here / "run", *WILD, "--resume", base=here / "model")
    assert status == 0, err
    assert f"resuming: {here}/run/checkpoints/checkpoint-{last}\n" in out
    assert digest(here / "run") == undisturbed["wild"]
    assert not there.exists()


# ------------------------------------------------------------------------------------------------------ --overwrite once


def test_a_stopped_run_with_overwrite_goes_on(stage, undisturbed, tmp_path, monkeypatch):
    flags = [*CALM, "--overwrite", "--resume"]
    assert stage(tmp_path / "run", *CALM, "--seed", 1)[0] == 0  # what is overwritten
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 8)
        status, out, _ = stage(tmp_path / "run", *flags)
        assert status == 143 and "starting at step 0\n" in out
    assert read(tmp_path / "run")["seed"] == 1  # until there is something better
    status, out, err = stage(tmp_path / "run", *flags)
    assert status == 0, err
    assert f"resuming: {tmp_path}/run/checkpoints/checkpoint-4\n" in out
    assert digest(tmp_path / "run") == undisturbed["calm"]
    before = snapshot(tmp_path)
    assert stage(tmp_path / "run", *flags) == (0, f"complete already: {tmp_path / 'run'}\n", "")
    assert snapshot(tmp_path) == before


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
def test_a_full_disk_is_one_line(error, stage, undisturbed, tmp_path, monkeypatch):
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
    assert digest(tmp_path / "run") == undisturbed["calm"]
