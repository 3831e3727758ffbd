"""Runs that are stopped and go on: what they end with is what an undisturbed run ends with, to the bit.

1. SIGTERM and SIGINT save a checkpoint, say so, and end with 143 and 130; --resume goes on from there.
2. Killed at random moments of a curriculum and a sweep, each start with --resume: the same adapters and validations.
3. A checkpoint that was not written whole is passed over; one of another run is an error that says what differs.
4. Early stopping is taken up where it was.
5. Running out of memory cuts micro-batches in halves and changes nothing else.
6. Trackers that are not installed are named; their logs outlive the checkpoints.
"""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.support.tuned import (
    die_behind_checkpoint,
    digest,
    furthest,
    history,
    predictions,
    read,
    signal_in_batch,
    weights,
)
from tlrec.errors import InputError
from tlrec.model.processes import share_batch
from tlrec.tuning.folder import last_checkpoint, remove_checkpoints
from tlrec.tuning.trainer import TuningTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(instruct):
    """ins_tuning.py for eight steps; returns (status, out, err)."""
    return lambda folder, *flags: instruct(folder, "--num_epochs", 4, "--eval_steps", 3, *flags)


@pytest.fixture(scope="module")
def undisturbed(instruct, tmp_path_factory):
    """{dropout: folder of those eight steps}."""
    folders = {dropout: tmp_path_factory.mktemp("undisturbed") for dropout in (0.05, 0)}
    for dropout, folder in folders.items():
        assert instruct(folder, "--num_epochs", 4, "--eval_steps", 3, "--lora_dropout", dropout)[0] == 0
    return folders


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_checkpoint_and_resume_goes_on(stage, undisturbed, tmp_path, monkeypatch, number, status):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 8, number)
        stopped = stage(tmp_path / "stopped")
    assert stopped[0] == status
    assert "a checkpoint is saved; the same command with --resume continues from there" in stopped[2]
    assert not (tmp_path / "stopped" / "adapter_config.json").exists()
    checkpoint = last_checkpoint(tmp_path / "stopped" / "checkpoints")
    step = re.search(r": stopped after step (\d+), ", stopped[2])[1]
    assert checkpoint == str(tmp_path / "stopped" / "checkpoints" / f"checkpoint-{step}") and step not in "369"
    code, out, err = stage(tmp_path / "stopped", "--resume")
    assert code == 0, err
    assert f"resuming: {checkpoint}\n" in out
    assert digest(tmp_path / "stopped") == digest(undisturbed[0.05])
    assert history(tmp_path / "stopped") == history(undisturbed[0.05])
    left, wanted = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "stopped", undisturbed[0.05]))
    assert left == wanted


def test_twenty_kills(stage_words, sweep_words, tiny_workspace, tmp_path):
    test = ["--test_data_path", tiny_workspace / "rec_data" / "movie" / "test.json"]

    def curriculum(root):
        few = ["--resume_from_checkpoint", root / "source", "--sample", 4, 12, "--num_epochs", 4, *test, "--resume"]
        stage = stage_words(root / "source", "--num_epochs", 4, "--eval_steps", 3, "--resume")
        return [list(map(str, words)) for words in (stage, sweep_words(root / "few", *few))]

    command = [sys.executable, REPOSITORY / "tests" / "support" / "killed.py", "0", "20"]
    for name, kills in (("undisturbed", 0), ("killed", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "commands.json").write_text(json.dumps(curriculum(tmp_path / name)))
        command += [str(kills), tmp_path / name / "commands.json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stdout) == (0, "0 0\n10 10\n"), done.stderr
    for folder in ("source", "few/0_4", "few/0_12"):
        one, other = tmp_path / "undisturbed" / folder, tmp_path / "killed" / folder
        assert digest(one) == digest(other)
        assert history(one) == history(other)
    for folder in ("few/0_4", "few/0_12"):
        assert predictions(tmp_path / "undisturbed" / folder) == predictions(tmp_path / "killed" / folder)


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text('{"global_step": 1}')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    (tmp_path / "checkpoint-9" / "trainer_state.json").unlink()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_stopped_run_with_other_flags_is_not_resumed(stage, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 8)
        assert stage(tmp_path)[0] == 143
    status, _, err = stage(tmp_path, "--resume", "--learning_rate", 1e-3)
    assert status == 2
    assert err == (
        f"error: --output_dir {tmp_path}: another run was stopped there: --learning_rate 0.01, not 0.001; "
        "give the same, or --overwrite to start again\n"
    )
    assert last_checkpoint(tmp_path / "checkpoints")  # nothing is lost by asking
    status, out, _ = stage(tmp_path, "--resume", "--overwrite", "--learning_rate", 1e-3, "--check_only")
    assert (status, out) == (0, f"checked: {tmp_path}\n")
    status, out, _ = stage(tmp_path, "--resume", "--overwrite", "--learning_rate", 1e-3)
    assert status == 0 and "starting at step 0\n" in out


def test_early_stopping_is_taken_up_where_it_was(stage, tmp_path, monkeypatch):
    flags = ["--eval_steps", 1, "--patience", 2, "--learning_rate", 0.5]  # steps that soon make it worse
    assert stage(tmp_path / "undisturbed", *flags)[0] == 0
    steps = [entry["step"] for entry in history(tmp_path / "undisturbed")]
    assert len(steps) < 8
    for last in steps[-2:]:  # in the middle, and behind the last one
        folder = tmp_path / f"killed after {last}"
        with monkeypatch.context() as patch:
            die_behind_checkpoint(patch, last)
            assert stage(folder, *flags)[0] == 130
        assert stage(folder, "--resume", *flags)[0] == 0
        assert digest(folder) == digest(tmp_path / "undisturbed")
        assert history(folder) == history(tmp_path / "undisturbed")


def test_memory_that_runs_out_halves_the_micro_batch(stage, undisturbed, tmp_path, monkeypatch):
    def compute_loss(trainer, model, inputs, *rest, original=TuningTrainer.compute_loss, **named):
        loss = original(trainer, model, inputs, *rest, **named)
        if len(inputs["input_ids"]) > 2:
            loss.backward()  # runs out in the middle of it: gradients are there already
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss

    monkeypatch.setattr(TuningTrainer, "compute_loss", compute_loss)
    status, out, err = stage(tmp_path / "scarce", "--lora_dropout", 0)  # masks are drawn anew in the repeated pass
    assert status == 0, err
    assert out.count("out of memory: continuing with 2 rows in a forward pass, the batch stays the same\n") == 1
    assert furthest(weights(undisturbed[0]), weights(tmp_path / "scarce")) < 1e-6
    assert read(tmp_path / "scarce")["results"]["rows_at_once"] == 2


def test_memory_for_not_even_one_row(stage, undisturbed, tmp_path, monkeypatch):
    """It ends in one line, whose advice can be followed: the run goes on from its checkpoint with other machine flags."""
    flags = ["--lora_dropout", 0]

    def compute_loss(trainer, *rest, original=TuningTrainer.compute_loss, **named):
        if trainer.state.global_step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(trainer, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(TuningTrainer, "compute_loss", compute_loss)
        status, _, err = stage(tmp_path / "scarce", *flags)
    assert status == 2
    assert err.endswith(
        "error: out of memory with 1 rows in a forward pass; give --gradient_checkpointing or --quantization 4bit\n"
    )  # behind what the progress bar has left
    advised = ["--gradient_checkpointing", "--micro_batch_size", 1, "--resume"]
    status, out, err = stage(tmp_path / "scarce", *flags, *advised)
    assert status == 0 and "checkpoint-3\n" in out, err
    assert furthest(weights(undisturbed[0]), weights(tmp_path / "scarce")) < 2e-3  # Adam magnifies rounding
    assert stage(tmp_path / "scarce", *flags)[1] == f"complete already: {tmp_path / 'scarce'}\n"


def test_the_batch_is_shared_by_the_processes():
    for batch, processes, expected in ((128, 1, (32, 4)), (128, 8, (16, 1)), (96, 3, (32, 1)), (8, 1, (8, 1))):
        assert share_batch(batch, 32, processes) == expected
    with pytest.raises(InputError, match="--batch_size 128 cannot be shared by 3 processes; give --batch_size 126"):
        share_batch(128, 32, 3)


def test_trackers(stage, tmp_path):
    status, _, err = stage(tmp_path / "run", "--report_to", "no-such-tracker")
    assert status == 2
    assert "error: --report_to no-such-tracker: no such tracker is installed here (found: " in err
    logs = tmp_path / "run" / "checkpoints" / "runs" / "today"
    logs.mkdir(parents=True)
    (logs / "events").write_text("curve")
    remove_checkpoints(tmp_path / "run" / "checkpoints")
    assert (tmp_path / "run" / "runs" / "today" / "events").read_text() == "curve"
    assert not (tmp_path / "run" / "checkpoints").exists()
