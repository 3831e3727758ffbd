"""GPU memory for tuning LLaMA-7B and 13B, computed from their shapes: which card is enough for which setting.

    python benchmarks/memory_table.py             # the table of base_model/README.md

Counts what is in memory at the peak: weights, LoRA with its gradients and AdamW states, activations that autograd
keeps, and the largest temporary tensors. All rows are as long as --cutoff_len, which is the worst case: the median
MovieLens row has half of 512 tokens. Not counted: the CUDA context and the allocator's gaps, about 1 GB together, and
validation, which uses what is left and halves its batches if necessary. tests/tuning/test_memory_table.py compares the
count with the bytes of all tensors in real steps of small models.
"""

import argparse

from tlrec.model.memory import Shape, activations, lora_and_optimizer, scoring

SHAPES = {
    "LLaMA-7B": Shape(32_000, 4_096, 11_008, 32, 32),
    "LLaMA-13B": Shape(32_000, 5_120, 13_824, 40, 40),
}
QUANTIZATIONS = {"fp16 / bf16": "none", "8bit": "8bit", "4bit": "4bit"}


def weights(shape, quantization):
    """Bytes of the frozen base model."""
    d, m = shape.width, shape.inner
    linear = shape.layers * (4 * d * d + 3 * d * m)  # q, k, v, o; gate, up, down
    others = 2 * shape.vocabulary * d + (2 * shape.layers + 1) * d  # embedding, head; norms
    if quantization == "none":
        return 2 * (linear + others)
    # PEFT's preparation converts to float32 what is not quantised.
    if quantization == "8bit":
        outputs = shape.layers * (4 * d + 2 * m + d)
        return linear + 4 * outputs + 4 * others  # a scale in float32 for each output of a linear layer
    # NF4 with double quantisation: half a byte; for 64 weights a scale of one byte; for 256 scales a float32
    return linear // 2 + linear // 64 + 4 * linear // (64 * 256) + 4 * others


def total(shape, tokens, quantization, checkpointing):
    """Bytes at the peak of a tuning step."""
    return (
        weights(shape, quantization)
        + lora_and_optimizer(shape)
        + activations(shape, tokens, quantization, checkpointing)
    )


def scored(shape, tokens, quantization):
    """Bytes at the peak of scoring one row: with whole weights, copies of those that the adapter is merged into (q and v);
    where they do not fit, it is scored unmerged."""
    copies = 2 * shape.layers * sum(width * shape.width for width in shape.lora_widths)
    return weights(shape, quantization) + scoring(shape, tokens, 2) + (copies if quantization == "none" else 0)


def table(cutoff_len, micro_batches=(32, 8, 1)):
    """Lines of a Markdown table in GB (1e9 bytes)."""
    columns = "".join(f" micro-batch {size} | {size}, checkpointing |" for size in micro_batches)
    yield "| GB, computed, not measured | base model | scoring a row |" + columns
    yield "|---" + "|---:" * (2 + 2 * len(micro_batches)) + "|"
    for model, shape in SHAPES.items():
        for name, quantization in QUANTIZATIONS.items():
            cells = [weights(shape, quantization), scored(shape, cutoff_len, quantization)]
            for size in micro_batches:
                cells += [total(shape, size * cutoff_len, quantization, on) for on in (False, True)]
            yield f"| {model}, {name} | " + " | ".join(f"{cell / 1e9:.1f}" for cell in cells) + " |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--cutoff_len", type=int, default=512, help="tokens of a record (default: %(default)s)")
    print("\n".join(table(parser.parse_args().cutoff_len)))


if __name__ == "__main__":
    main()
