"""How much memory tuning and scoring take, counted from a model's shapes, and how much this machine has.

When main memory runs out there is no error: the kernel kills the process. So on the CPU the number of rows in a forward
pass is chosen beforehand. tests/tuning/test_memory_table.py compares the count with real steps.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import check_target_module_exists

from tlrec.errors import InputError
from tlrec.model.parts import backbone_of, linear_layers

POSITIONS_AT_ONCE = 256  # whose logits [positions, vocabulary] the loss holds at a time; so few fit a CPU's caches
OF_THE_MACHINE, OF_WHAT_IS_FREE = 0.7, 0.9  # shares of all memory and of free memory that a run may use


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaMA, or of a model that is counted as one. `width`: of the residual stream; `inner`: of the
    feed-forward part; `lora_inputs`: input widths of the modules of one layer that get LoRA, None for q and v."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    lora_r: int = 8
    lora_inputs: tuple[int, ...] | None = None

    @property
    def lora_widths(self):
        return (self.width, self.width) if self.lora_inputs is None else self.lora_inputs


def shape_of(skeleton, lora=None):
    """(Shape, number of weights) of a causal LM on the meta device; lora: its LoraConfig with the names of its modules.

    Experts count as one feed-forward part. A feed-forward part without a gate counts as one with a gate.
    """
    config = skeleton.config.get_text_config()
    linear = linear_layers(backbone_of(skeleton))
    layers = config.num_hidden_layers
    adapted = [
        width
        for name, width in linear.items()
        if lora and (lora.target_modules == "all-linear" or check_target_module_exists(lora, f"model.{name}"))
    ]
    shape = Shape(
        config.vocab_size,
        config.hidden_size,
        max(linear.values(), default=4 * config.hidden_size),
        layers,
        config.num_attention_heads or 1,
        lora.r if lora else 8,
        tuple(adapted[: math.ceil(len(adapted) / layers)]),
    )
    return shape, sum(parameter.numel() for parameter in skeleton.parameters())


# ------------------------------------------------------------------------------------------------------- the count


def lora_and_optimizer(shape):
    """Bytes of A and B of each module: float32 weight, gradient, and two moments of AdamW. B counts as large as A."""
    return 4 * 4 * shape.layers * 2 * shape.lora_r * sum(shape.lora_widths)


def layer(shape, tokens, quantization, mask, number=2):
    """Bytes that autograd keeps of one layer for `tokens` positions.

    Frozen linear layers keep no input. Quantised models have float32 norms, and with them a float32 residual stream and
    float32 outputs of q, k, v, gate and up, which are cast for attention. mask: bytes of a dropout mask's element, 1 on
    a GPU, 4 on the CPU. number: bytes of a number of --dtype.
    """
    n, d, m = tokens, shape.width, shape.inner
    size = number if quantization == "none" else 4
    norms = 2 * (4 * n * d + 4 * n)  # both norms' inputs in float32, and 1 / root mean square
    # LoRA: mask, what A reads, what B reads
    lora = sum((mask + number) * n * width + number * n * shape.lora_r for width in shape.lora_widths)
    attention = 4 * number * n * d + 4 * n * shape.heads  # q, k, v, output; float32 log-sum-exp
    feed_forward = 3 * size * n * m  # gate, silu(gate), up
    return norms + lora + attention + feed_forward


def kept_inputs(shape, tokens):
    """Bytes of a layer's inputs that bitsandbytes' 8-bit product keeps, with or without checkpointing: those of q, k
    and v (one tensor), gate and up (one tensor), and down, all in float32. The input of o is the attention's output."""
    n, d, m = tokens, shape.width, shape.inner
    return 4 * n * d + 4 * n * d + 4 * n * m


def activations(shape, tokens, quantization, checkpointing, mask=1, number=2):
    """Bytes of activations and temporary tensors of a forward and backward pass of `tokens` positions, at the highest
    of three peaks."""
    n, d, m, vocabulary = tokens, shape.width, shape.inner, shape.vocabulary
    size = number if quantization == "none" else 4
    one = layer(shape, n, quantization, mask, number)
    if checkpointing:
        kept = shape.layers * size * n * d  # the input of each layer
        if size == 4:
            one -= 4 * n * d  # it is the input of the first norm too
        if quantization == "8bit":
            kept += shape.layers * (kept_inputs(shape, n) + 2 * n * d)  # that of o is no longer kept by the attention
    else:
        kept = shape.layers * one - (4 + 2 * mask) * n * d  # before the first LoRA nothing needs a gradient
        if quantization == "8bit":
            kept += shape.layers * kept_inputs(shape, n) - 4 * n * d
    # The loss: last norm's input; the hidden states in float32, those with a label, their gradient; for 256 positions
    # the log-probabilities and two gradients. A float32 head is cast to 16 bits.
    cast_head = 2 * vocabulary * d if size > number else 0
    loss = 4 * 4 * n * d + 3 * 4 * min(n, POSITIONS_AT_ONCE) * vocabulary + cast_head
    last_norm = 6 * 4 * n * d  # backward: its input, and five products in float32
    # Backward of a feed-forward part: gradients of the product and of both its factors, and that of the layer.
    feed_forward = 3 * size * n * m + size * n * d
    if quantization != "none":  # just before, one factor's gradient beside the weight of `down`, dequantised twice
        feed_forward = max(feed_forward, size * n * (m + d) + (4 + number) * d * m)
    if checkpointing:
        feed_forward += one  # computed again
    return kept + max(loss, last_norm, feed_forward)


def scoring(shape, tokens, number):
    """Bytes of a forward pass without gradients of `tokens` positions: keys and values of all layers, and the temporary
    tensors of one layer."""
    n, d, m = tokens, shape.width, shape.inner
    return 2 * number * shape.layers * n * d + n * (8 * 4 * d + 3 * number * m) + 4 * n * shape.heads


def base_weights(weights, dtype, quantization):
    """Bytes of the base model's `weights` (a number). Embedding and head, about a sixth of them, are not quantised."""
    return weights * {"none": dtype.itemsize, "8bit": 1.5, "4bit": 1.2}[quantization]


# ---------------------------------------------------------------------------------------------------- this machine


def memory_at_hand():
    """Bytes that a run on the CPU may use: a fixed share of the machine's memory (or of its control group's limit), or
    a share of the free memory if that is less. With the fixed share, runs divide their batches alike at any time."""
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    for limit, usage in _group_limits():
        total, free = min(total, limit), min(free, max(0, limit - usage))
    return int(min(OF_THE_MACHINE * total, OF_WHAT_IS_FREE * free))


def gpu_memory_at_hand():
    """Bytes of the GPU that this process may use: a share of what is free."""
    return int(OF_WHAT_IS_FREE * torch.cuda.mem_get_info()[0])


def _group_limits(root=Path("/sys/fs/cgroup"), own=Path("/proc/self/cgroup")):
    """(limit, usage without file cache) in bytes of the control groups that this process is in; version 1 and 2."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, names = (
            (root, ("memory.max", "memory.current", "inactive_file"))
            if not controllers
            else (root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))
        )
        for folder in (base / path.lstrip("/"), base):  # in a container the group is mounted as the root
            try:
                limit, usage = ((folder / name).read_text().strip() for name in names[:2])
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if limit != "max":
                yield int(limit), int(usage) - int(statistics.get(names[2], 0))


def rows_that_fit(skeleton, lora, longest, most, dtype, quantization, checkpointing, memory, mask=4):
    """How many rows of `longest` tokens a forward and backward pass may have, at most `most`.

    skeleton: the model on the meta device; memory: bytes that may be used; mask: as for `layer`. Raises InputError if
    not one fits.
    """
    shape, weights = shape_of(skeleton, lora)
    number = dtype.itemsize
    fixed = base_weights(weights, dtype, quantization) + lora_and_optimizer(shape)
    longest = int(longest)  # lengths on disk are int32, in which bytes overflow

    def takes(rows):
        return fixed + activations(shape, rows * longest, quantization, checkpointing, mask, number)

    rows = next((rows for rows in range(most, 0, -1) if takes(rows) <= memory), 0)
    if not rows:
        raise InputError(
            f"one row of {longest} tokens takes about {takes(1) / 1e9:.1f} GB, and {memory / 1e9:.1f} GB of memory may "
            "be used here; give --gradient_checkpointing, --dtype bfloat16, --quantization 4bit or a smaller "
            "--cutoff_len"
        )
    return rows


def check_scoring_fits(skeleton, longest, dtype, quantization, memory):
    """Raise InputError unless the base model and scoring one row of `longest` tokens fit into `memory` (bytes)."""
    shape, weights = shape_of(skeleton)
    number = dtype.itemsize
    free = memory - base_weights(weights, dtype, quantization) - scoring(shape, longest, number)
    if free < 0:
        raise InputError(
            f"the base model and one row of {longest} tokens take about {(memory - free) / 1e9:.1f} GB, and "
            f"{memory / 1e9:.1f} GB of memory may be used here; give --dtype bfloat16 or --quantization 4bit"
        )


def tokens_in_a_pass(model, most):
    """How many tokens one scoring pass of a model on the CPU may have, at most `most`, in the memory that is left."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    shape, _ = shape_of(causal)
    return max(1, min(most, int(memory_at_hand() / (scoring(shape, 1000, model.dtype.itemsize) / 1000))))
