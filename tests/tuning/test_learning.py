"""A tuning that learns nothing ends in one line and status 2, and nothing it leaves passes for an adapter.

1. A graph that is cut, wholly or below one layer, and gradients that are no numbers, are seen at the first step, with and
   without a start adapter, and in a run that goes on from a checkpoint.
2. A of a fresh LoRA has no gradient in the first step; no other half of a layer may be without.
3. Steps that cannot change anything are refused before they are made; a best checkpoint that is the start is not saved.
4. float16 overflows at first, which is not yet an error.
"""

import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from peft import LoraConfig, get_peft_model

from tests.support.tuned import signal_in_batch
from tlrec.errors import InputError
from tlrec.model import adapters, base_models
from tlrec.runs.folder import CHECKPOINTS
from tlrec.tuning.learning import ChecksFirstStep, check_changed, check_gradients, fingerprint

CPU = torch.device("cpu")


def refused(result, message, folder):
    """The run has ended in this one line, and left no adapter and no run.json."""
    status, _, err = result
    line = err.strip().splitlines()[-1].strip()  # a carriage return ends a bar
    assert status == 2 and line.startswith("error: ") and message in line, err
    assert "Traceback" not in err
    assert {path.name for path in folder.iterdir()} <= {CHECKPOINTS}


def cut(causal):
    """Nothing gets through below the head."""
    causal.model.norm.register_forward_hook(lambda module, inputs, output: output.detach())


def cut_below_second_layer(causal):
    causal.model.layers[0].register_forward_hook(lambda module, inputs, output: output.detach())


def cut_at_one_projection(causal):
    """As a kernel without gradients in this layer alone: those below get theirs by way of the residual stream."""
    causal.model.layers[1].self_attn.register_forward_hook(
        lambda module, inputs, output: (output[0].detach(), *output[1:])
    )


def spoil_gradients(causal):
    def spoil(module, inputs, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * float("nan"))

    causal.model.layers[1].register_forward_hook(spoil)


DAMAGES = [
    (cut, "no LoRA layer has a gradient"),
    (cut_below_second_layer, "2 of 4 LoRA layers, such as model.layers.0.self_attn.q_proj, have no gradient"),
    (cut_at_one_projection, "2 of 4 LoRA layers, such as model.layers.1.self_attn.q_proj, have no gradient"),
    (
        spoil_gradients,
        "4 of 4 LoRA layers, such as model.layers.0.self_attn.q_proj, have a gradient that is not finite",
    ),
]


@contextmanager
def damaged(how):
    """Inside the block every base model is damaged by `how` as soon as it is loaded."""

    def load(*arguments, original=base_models.load_base_model, **options):
        model = original(*arguments, **options)
        how(model)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_models, "load_base_model", load)
        yield


# ------------------------------------------------------------------------------------------------------- the first step


@pytest.mark.parametrize("fresh, how, message", [(True, *each) for each in DAMAGES] + [(False, *DAMAGES[1])])
def test_a_damaged_graph(instruct, tiny_adapter, tmp_path, fresh, how, message):
    folder = tmp_path / "out"
    with damaged(how):
        result = instruct(folder, *([] if fresh else ["--resume_from_checkpoint", tiny_adapter]))
    refused(result, message, folder)
    assert not any(folder.rglob("checkpoint-*"))  # at the first step


@pytest.mark.slow
def test_a_run_that_goes_on_is_looked_at_too(instruct, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in_batch(patch, 4)
        assert instruct(tmp_path / "out")[0] == 128 + 15
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    status, out, err = instruct(tmp_path / "whole", "--resume")  # with a B that is no longer zero
    assert status == 0 and "resuming: " in out, err
    with damaged(cut_below_second_layer):
        refused(instruct(tmp_path / "out", "--resume"), "2 of 4 LoRA layers", tmp_path / "out")


@pytest.fixture
def model(tiny_llama):
    lora = LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    return get_peft_model(base_models.load_base_model(tiny_llama, CPU, torch.float32), lora)


def backward(model):
    ids = torch.arange(3, 20)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    return dict(model.named_parameters())


@pytest.mark.parametrize("half, gradient", [("lora_A", None), ("lora_B", torch.zeros(()))])
def test_half_a_layer_without_gradient(tiny_llama, tiny_adapter, half, gradient):
    base = base_models.load_base_model(tiny_llama, CPU, torch.float32)
    model = adapters.attach_adapter(base, tiny_adapter, tuned=True)
    parameters = backward(model)
    assert check_gradients(model)
    (place,) = (name for name in parameters if f"layers.1.self_attn.v_proj.{half}" in name)
    parameters[place].grad = gradient if gradient is None else gradient.expand_as(parameters[place]).clone()
    with pytest.raises(
        InputError, match="^1 of 4 LoRA layers, such as model.layers.1.self_attn.v_proj, have no gradient"
    ):
        check_gradients(model)


def test_float16_may_overflow_until_its_scale_is_one(model):
    parameters = backward(model)
    (place,) = (name for name in parameters if "layers.1.self_attn.q_proj.lora_B" in name)
    finite, parameters[place].grad = parameters[place].grad, torch.full_like(parameters[place], torch.inf)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))  # makes its scale
    accelerator = SimpleNamespace(scaler=scaler, distributed_type=DistributedType.NO)
    callback = ChecksFirstStep(accelerator)
    callback.on_pre_optimizer_step(None, None, None, model=model)
    assert not callback.done  # the next step is looked at again
    parameters[place].grad = finite
    callback.on_pre_optimizer_step(None, None, None, model=model)
    assert callback.done
    scaler.update(1.0)
    for accelerator.scaler in (scaler, None):
        parameters[place].grad = torch.full_like(finite, torch.nan)
        with pytest.raises(InputError, match="1 of 3 LoRA layers.*q_proj, have a gradient that is not finite"):
            ChecksFirstStep(accelerator).on_pre_optimizer_step(None, None, None, model=model)


# -------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.slow
def test_steps_that_cannot_change_anything(instruct, tmp_path):
    status, _, err = instruct(tmp_path / "a", "--learning_rate", 0)
    assert (status, err.count("\n")) == (2, 1) and err.startswith(
        "error: --learning_rate 0.0: give a number above 0"
    ), err
    assert not (tmp_path / "a").exists()
    one = ["--batch_size", 16, "--num_epochs", 1, "--warmup_steps", 20]
    message = (
        "there is only one step, and with --warmup_steps 20 its learning rate is 0, so that nothing is learnt; give"
    )
    refused(instruct(tmp_path / "b", *one), message, tmp_path / "b")
    assert not any(tmp_path.rglob("checkpoint-*"))
    status, _, err = instruct(tmp_path / "c", *one, "--warmup_steps", 0)
    assert status == 0, err


@pytest.mark.slow
def test_a_best_checkpoint_that_is_the_start(instruct, tiny_adapter, tmp_path, monkeypatch):
    worse = iter(range(10, 0, -1))
    monkeypatch.setattr("tlrec.tuning.trainer.auc", lambda labels, scores: next(worse) / 10)
    flags = ["--warmup_steps", 5, "--resume_from_checkpoint", tiny_adapter]
    message = "nothing was learnt in 4 steps: the adapter of step 1, which would be kept, is the one that tuning began "
    message += "with (the first of the --warmup_steps has a learning rate of 0, and none after it was better); give --warmup_steps 0"
    refused(instruct(tmp_path / "out", *flags), message, tmp_path / "out")
    # its checkpoints are those of a run that has ended; going on from them comes to the same
    refused(instruct(tmp_path / "out", *flags, "--resume"), message, tmp_path / "out")


def test_the_end_is_compared_with_the_start_of_the_whole_run(model):
    state = SimpleNamespace(best_global_step=20, global_step=30, max_steps=30)
    arguments = SimpleNamespace(learning_rate=1e-4, get_warmup_steps=lambda steps: 20)
    start = fingerprint(model)
    with pytest.raises(
        InputError, match="learnt in 30 steps: the adapter of step 20, .* began with .no step has changed"
    ):
        check_changed(model, start, state, arguments)
    (b,) = (each for name, each in model.named_parameters() if "layers.1.self_attn.q_proj.lora_B" in name)
    with torch.no_grad():
        b[0, 0] = 1e-30
    check_changed(model, start, state, arguments)
    with torch.no_grad():
        b[0, 0] = torch.nan
    with pytest.raises(
        InputError, match="the adapter of step 20 is useless: .*q_proj.lora_B.weight is not finite; give a"
    ):
        check_changed(model, start, state, arguments)
