"""Whether a tuning learns anything: every LoRA layer gets a gradient, and the result is not the adapter it began with.

If a library, or a kernel without gradients, cuts the graph, a run ends without an error and has learnt nothing. So the
first step and the result are checked.
"""

import hashlib

import numpy as np
import torch
from accelerate import DistributedType
from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from tlrec.errors import InputError
from tlrec.model.processes import add_up, whole


class ChecksFirstStep(TrainerCallback):
    """Raises InputError before training if no step can change a weight, and at its first step unless every LoRA layer
    has a gradient. The first step is that of this process: a run that is resumed is checked again."""

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self.done = False

    def on_train_begin(self, args, state, control, **_):
        if state.max_steps == 1 and args.get_warmup_steps(1):
            raise InputError(
                f"there is only one step, and with --warmup_steps {args.get_warmup_steps(1)} its learning rate is 0, "
                "so that nothing is learnt; give --warmup_steps 0, or more --num_epochs"
            )

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        gradients_are_gone = self.accelerator.distributed_type == DistributedType.DEEPSPEED  # it steps during backward
        if self.done or gradients_are_gone:
            return
        scaler = self.accelerator.scaler
        overflow_is_usual = scaler is not None and scaler.get_scale() > 1  # float16 answers it with a smaller scale
        self.done = check_gradients(model, overflow_is_usual)


def check_gradients(model, overflow_is_usual=False):
    """Raise InputError unless A and B of every LoRA layer have a finite gradient that is not zero. With several
    processes all of them have to call this.

    The gradient of A is proportional to B and that of B to A, so A's may be zero in a fresh LoRA, whose B is zero.
    overflow_is_usual: return False, instead of raising, if a gradient is not finite. Returns True otherwise.
    """
    layers = list(_lora_layers(model))
    sizes = [_largest(tensor) for _, *pair in layers for tensor in (*(one.grad for one in pair), *pair)]
    sizes = add_up(torch.stack([size.cpu() for size in sizes]).double().numpy()).reshape(len(layers), 2, 2)
    gradients, weights = sizes[:, 0], sizes[:, 1]
    broken = ~np.isfinite(gradients).all(axis=1)
    if broken.any() and overflow_is_usual:
        return False
    unmoved = ~gradients.any(axis=1) | ((gradients == 0) & (weights[:, ::-1] > 0)).any(axis=1)
    if broken.any():
        raise InputError(
            f"{_such_as(layers, broken)}, have a gradient that is not finite: the base model may overflow in this "
            "--dtype; give another"
        )
    if unmoved.any():
        raise InputError(
            f"{_such_as(layers, unmoved)}, have no gradient and would learn nothing; leave them out with "
            "--lora_target_modules, or give another --quantization, --dtype or --attention"
        )
    return True


def _such_as(layers, chosen):
    return f"{chosen.sum()} of {len(layers)} LoRA layers, such as {layers[chosen.argmax()][0]}"


def _lora_layers(model):
    """(name, A, B) of every LoRA layer."""
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            (adapter,) = layer.active_adapters
            if adapter in layer.lora_A:
                pair = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            else:
                pair = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
            yield name.removeprefix("base_model.model."), *pair


def _largest(tensor):
    """The largest absolute value in this process's share of the tensor, NaN if one of them is NaN; 0 for None."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    return torch.zeros(()) if tensor is None or not tensor.numel() else tensor.detach().abs().max()


def fingerprint(model):
    """SHA-256 of the adapter's tensors. With several processes all of them have to call this."""
    digest = hashlib.sha256()
    for _, tensor in sorted(get_peft_model_state_dict(model).items()):
        digest.update(whole(tensor).detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_changed(model, start, state, args):
    """Raise InputError if the adapter is still the one whose `fingerprint` was `start`, or has values that are not
    finite. With --validate_start the start may be the best; that is said, and is no error.

    state, args: of the Trainer; the model has the weights of its best checkpoint. With several processes all of them
    have to call this.
    """
    step = state.global_step if state.best_global_step is None else state.best_global_step
    for name, tensor in get_peft_model_state_dict(model).items():
        if not whole(tensor).isfinite().all():
            raise InputError(
                f"the adapter of step {step} is useless: {name} is not finite; give a smaller --learning_rate than "
                f"{args.learning_rate}, or another --dtype"
            )
    if step == 0:
        print(
            "no validation was better than that before the first step: the result is the adapter that tuning began with"
        )
    elif fingerprint(model) == start:
        if step == 1 and args.get_warmup_steps(state.max_steps):
            why = "the first of the --warmup_steps has a learning rate of 0, and none after it was better"
            remedy = "--warmup_steps 0, or another --learning_rate"
        else:
            why, remedy = "no step has changed it", f"a larger --learning_rate than {args.learning_rate}"
        raise InputError(
            f"nothing was learnt in {state.global_step} steps: the adapter of step {step}, which would be kept, is the "
            f"one that tuning began with ({why}); give {remedy}"
        )
