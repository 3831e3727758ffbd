"""--validate_start: the adapter that tuning begins with may win.

1. Its validation is step 0; where no later one is better it is the result, to the bit, and that is said. A fresh LoRA too.
2. Where a later one is better the result is that of a run without the flag.
3. A run that was stopped, even right behind the checkpoint of the start, ends as an undisturbed one.
"""

import pytest
import torch

from tests.support.tuned import die_behind_checkpoint, digest, history, read, weights

pytestmark = pytest.mark.slow

SAID = "no validation was better than that before the first step: the result is the adapter that tuning began with\n"


@pytest.fixture
def tune(few_shot):
    """rec_tuning.py for six steps, validated after every other one; returns (status, out, err)."""
    return lambda folder, *flags: few_shot(folder, "--sample", 12, "--batch_size", 4, "--eval_steps", 2, *flags)


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "started"])
def test_the_start_wins(tune, tiny_adapter, tmp_path, monkeypatch, fresh):
    worse = iter(range(10, 0, -1))
    monkeypatch.setattr("tlrec.tuning.trainer.auc", lambda labels, scores: next(worse) / 10)
    start = [] if fresh else ["--resume_from_checkpoint", tiny_adapter]
    flags = ["--validate_start", "--metric_for_best_model", "auc", "--learning_rate", 1e-2]
    status, out, err = tune(tmp_path / "a", *flags, *start)
    assert status == 0 and SAID in out, err
    found = read(tmp_path / "a")["results"]
    assert [(entry["step"], entry["eval_auc"]) for entry in found["history"]] == [(0, 1), (2, 0.9), (4, 0.8), (6, 0.7)]
    assert found["best_step"] == 0 and "best step 0 of 6: " in out
    tensors = weights(tmp_path / "a")
    if fresh:
        assert not any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    else:
        before = weights(tiny_adapter)
        assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_a_later_validation_wins(tune, tiny_adapter, tmp_path):
    flags = ["--resume_from_checkpoint", tiny_adapter, "--learning_rate", 1e-2]
    status, out, err = tune(tmp_path / "with", "--validate_start", *flags)
    assert status == 0 and SAID not in out, err
    assert tune(tmp_path / "without", *flags)[0] == 0
    assert digest(tmp_path / "with") == digest(tmp_path / "without")
    assert history(tmp_path / "with")[1:] == history(tmp_path / "without")


@pytest.mark.parametrize("last", [0, 4])
def test_it_goes_on_where_it_was_stopped(tune, tiny_adapter, tmp_path, monkeypatch, last):
    flags = ["--resume_from_checkpoint", tiny_adapter, "--validate_start", "--learning_rate", 1e-2]
    assert tune(tmp_path / "whole", *flags)[0] == 0

    with monkeypatch.context() as patch:
        die_behind_checkpoint(patch, last)
        assert tune(tmp_path / "stopped", *flags)[0] == 130
    status, out, err = tune(tmp_path / "stopped", "--resume", *flags)
    assert status == 0 and f"resuming: {tmp_path}/stopped/checkpoints/checkpoint-{last}\n" in out, err
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")
