"""GPU memory of tuning LLaMA-7B and 13B, computed from their shapes: which card is enough for which setting?

    python benchmarks/memory_table.py             # the table of base_model/README.md
    python benchmarks/memory_table.py --check     # the same count beside what small models take on the CPU

Counts what the recipe holds at its peak: weights, LoRA with its gradients and AdamW states, activations that autograd
keeps, and the largest temporary tensors. All rows are as long as --cutoff_len, which is the worst case: a median MovieLens
row has half of 512 tokens. Not counted: the CUDA context and the allocator's gaps, about 1 GB together, and validation,
which takes what is left and halves its batches if need be.
"""

import argparse
import sys
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import tlrec  # noqa: F401 - first: it quiets the libraries


@dataclass(frozen=True)
class Shape:
    """A LLaMA with as many key as query heads; `width` of the residual stream, `inner` of the feed-forward part."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    lora_r: int = 8  # on q and v, as published


SHAPES = {
    "LLaMA-7B": Shape(32_000, 4_096, 11_008, 32, 32),
    "LLaMA-13B": Shape(32_000, 5_120, 13_824, 40, 40),
}
SMALL_SHAPES = {  # for --check
    "small": Shape(512, 128, 384, 3, 4),
    "other": Shape(640, 192, 512, 2, 6),
}
QUANTIZATIONS = {"fp16 / bf16": "none", "8bit": "8bit", "4bit": "4bit"}
POSITIONS_AT_ONCE = 256  # as in tlrec.tuning.trainer: the rows of logits that exist at the same time


def weights(shape, quantization):
    """Bytes of the frozen base model."""
    d, m = shape.width, shape.inner
    linear = shape.layers * (4 * d * d + 3 * d * m)  # q, k, v, o; gate, up, down
    others = 2 * shape.vocabulary * d + (2 * shape.layers + 1) * d  # embedding, head; norms
    if quantization == "none":
        return 2 * (linear + others)
    # PEFT's preparation makes float32 of what is not quantised.
    if quantization == "8bit":
        outputs = shape.layers * (4 * d + 2 * m + d)
        return linear + 4 * outputs + 4 * others  # a scale in float32 for each output of a linear layer
    # NF4 with double quantisation: half a byte; for 64 weights a scale of one byte; for 256 scales a float32
    return linear // 2 + linear // 64 + 4 * linear // (64 * 256) + 4 * others


def lora_and_optimizer(shape):
    """Bytes of A (r, d) and B (d, r) on q and v: float32 weight, gradient, and two moments of AdamW."""
    return 4 * 4 * shape.layers * 2 * 2 * shape.lora_r * shape.width


def layer(shape, tokens, quantization, mask):
    """Bytes that autograd keeps of one layer for `tokens` positions.

    Frozen linear layers keep no input. Quantised models have float32 norms, and with them a float32 residual stream and
    float32 outputs of q, k, v, gate and up, which are cast to 16 bits for attention. mask: bytes of a dropout mask's
    element, 1 on a GPU, 4 on the CPU.
    """
    n, d, m = tokens, shape.width, shape.inner
    size = 2 if quantization == "none" else 4
    norms = 2 * (4 * n * d + 4 * n)  # both norms' inputs in float32, and 1 / root mean square
    lora = 2 * (mask * n * d + 2 * n * d + 2 * n * shape.lora_r)  # q and v: mask, what A reads, what B reads
    attention = 4 * 2 * n * d + 4 * n * shape.heads  # q, k, v, output; float32 log-sum-exp
    feed_forward = 3 * size * n * m  # gate, silu(gate), up
    return norms + lora + attention + feed_forward


def kept_inputs(shape, tokens):
    """Bytes of a layer's inputs that bitsandbytes' 8-bit product holds on to, checkpointing or not: those of q, k and v
    (one tensor), gate and up (one tensor), down, all in float32. That of o is the attention's output."""
    n, d, m = tokens, shape.width, shape.inner
    return 4 * n * d + 4 * n * d + 4 * n * m


def activations(shape, tokens, quantization, checkpointing, mask=1):
    """Bytes of activations and temporary tensors of a micro-batch of `tokens` positions, at the highest of three peaks."""
    n, d, m, vocabulary = tokens, shape.width, shape.inner, shape.vocabulary
    size = 2 if quantization == "none" else 4
    one = layer(shape, n, quantization, mask)
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
    # The loss: last norm's input; the hidden states in float32, those with a label, their gradient; of 256 positions the
    # log-probabilities and two gradients. A float32 head is cast to 16 bits.
    loss = 4 * 4 * n * d + 3 * 4 * min(n, POSITIONS_AT_ONCE) * vocabulary + (2 * vocabulary * d if size == 4 else 0)
    last_norm = 6 * 4 * n * d  # backward: its input, and five products in float32
    # Backward of a feed-forward part: gradients of the product and of both its factors, and that of the layer.
    feed_forward = 3 * size * n * m + size * n * d
    if size == 4:  # earlier, one factor's gradient beside the weight of `down`, dequantised to 16 and to 32 bits
        feed_forward = max(feed_forward, size * n * (m + d) + 6 * d * m)
    if checkpointing:
        feed_forward += one  # computed again
    return kept + max(loss, last_norm, feed_forward)


def total(shape, tokens, quantization, checkpointing):
    """Bytes at the peak of a tuning step."""
    return (
        weights(shape, quantization)
        + lora_and_optimizer(shape)
        + activations(shape, tokens, quantization, checkpointing)
    )


def table(cutoff_len, micro_batches=(32, 8, 1)):
    """Lines of a Markdown table in GB (1e9 bytes)."""
    columns = "".join(f" micro-batch {size} | {size}, checkpointing |" for size in micro_batches)
    yield "| GB, computed, not measured | base model |" + columns
    yield "|---" + "|---:" * (1 + 2 * len(micro_batches)) + "|"
    for model, shape in SHAPES.items():
        for name, quantization in QUANTIZATIONS.items():
            cells = [weights(shape, quantization)]
            for size in micro_batches:
                cells += [total(shape, size * cutoff_len, quantization, on) for on in (False, True)]
            yield f"| {model}, {name} | " + " | ".join(f"{cell / 1e9:.1f}" for cell in cells) + " |"


def measured(shape, rows, length, quantization, checkpointing):
    """Bytes of all tensors at the peak of two tuning steps of a random model on the CPU, its frozen weights left out.

    One micro-batch of `rows` rows of `length` tokens in bfloat16, by the tuners' own trainer. On a GPU the 8-bit product
    has another implementation than on the CPU; it runs here too, and is the one that is measured.
    """
    import torch
    from bitsandbytes.autograd import _functions as bitsandbytes_products
    from peft import LoraConfig, get_peft_model
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from transformers import AutoModelForCausalLM, LlamaConfig, PrinterCallback, TrainingArguments

    from tlrec.model import base_models
    from tlrec.tuning.trainer import TuningTrainer

    class LiveTensors(TorchDispatchMode):
        """Adds up the storages that operations return, until they are freed."""

        def __init__(self, known):
            super().__init__()
            self.sizes, self.now, self.peak = dict.fromkeys(known, 0), 0, 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.forget, storage._cdata)
            self.peak = max(self.peak, self.now)
            return result

        def forget(self, key):
            self.now -= self.sizes.pop(key)

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
    )
    product = bitsandbytes_products.MatMul8bitFp
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        base = base_models.load_base_model(folder, torch.device("cpu"), torch.bfloat16, quantization)
        base = base_models.prepare_for_tuning(base, checkpointing)
        frozen = [tensor.untyped_storage()._cdata for tensor in (*base.parameters(), *base.buffers())]
        lora = LoraConfig(r=shape.lora_r, lora_alpha=16, lora_dropout=0.05, task_type="CAUSAL_LM")
        ids = torch.randint(shape.vocabulary, (rows, length)).tolist()
        trainer = TuningTrainer(
            model=get_peft_model(base, lora),
            train_dataset=[{"input_ids": row, "labels": row} for row in ids],
            scorer=SimpleNamespace(rows=[]),  # never asked
            validation_labels=None,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=rows,
                max_steps=2,
                bf16=True,
                use_cpu=True,
                gradient_checkpointing=checkpointing,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        try:
            bitsandbytes_products.MatMul8bitFp = bitsandbytes_products.MatMul8bitLt
            with LiveTensors(frozen) as live:
                trainer.train()
        finally:
            bitsandbytes_products.MatMul8bitFp = product
    weights_of_lora = lora_and_optimizer(shape) // 4  # existed before
    return live.peak + weights_of_lora


def check(shape, rows, length, quantization, checkpointing):
    """(computed, measured) bytes of everything but the frozen weights, on the CPU."""
    computed = lora_and_optimizer(shape) + activations(shape, rows * length, quantization, checkpointing, mask=4)
    return computed, measured(shape, rows, length, quantization, checkpointing)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--cutoff_len", type=int, default=512, help="tokens of a record (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare with small models on the CPU instead")
    args = parser.parse_args(arguments)
    if not args.check:
        print("\n".join(table(args.cutoff_len)))
        return
    print(f"{'':<32}{'computed':>12}{'measured':>12}")
    for name, shape in SMALL_SHAPES.items():
        for quantization in QUANTIZATIONS.values():
            for checkpointing in (False, True):
                computed, found = check(shape, 4, 256, quantization, checkpointing)
                setting = f"{name}, {quantization}{', checkpointing' if checkpointing else ''}"
                print(f"{setting:<32}{computed:>12,}{found:>12,}  {computed / found - 1:+.1%}")


if __name__ == "__main__":
    main()
