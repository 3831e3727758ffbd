"""GPU memory for tuning LLaMA-7B and 13B, computed from their shapes: which card is enough for which setting.

    python benchmarks/memory_table.py             # the table of base_model/README.md
    python benchmarks/memory_table.py --check     # compare the count with what small models take on the CPU

Counts what is in memory at the peak: weights, LoRA with its gradients and AdamW states, activations that autograd
keeps, and the largest temporary tensors. All rows are as long as --cutoff_len, which is the worst case: the median
MovieLens row has half of 512 tokens. Not counted: the CUDA context and the allocator's gaps, about 1 GB together, and
validation, which uses what is left and halves its batches if necessary.
"""

import argparse
import sys
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from


from tlrec.model.memory import Shape, activations, lora_and_optimizer

SHAPES = {
    "LLaMA-7B": Shape(32_000, 4_096, 11_008, 32, 32),
    "LLaMA-13B": Shape(32_000, 5_120, 13_824, 40, 40),
}
SMALL_SHAPES = {  # for --check
    "small": Shape(512, 128, 384, 3, 4),
    "other": Shape(640, 192, 512, 2, 6),
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


def measured(shape, rows, length, quantization, checkpointing, dtype="bfloat16", targets=None):
    """Bytes of all tensors at the peak of two tuning steps of a random model on the CPU, without its frozen weights.

    One micro-batch of `rows` rows of `length` tokens, by the tuners' own trainer. targets: modules that get LoRA,
    by default q and v. The 8-bit product of a GPU has another implementation than that of the CPU; it runs on the CPU
    too, and is the one measured here.
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
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
        base = base_models.load_base_model(folder, torch.device("cpu"), getattr(torch, dtype), quantization)
        base = base_models.prepare_for_tuning(base, checkpointing)
        frozen = [tensor.untyped_storage()._cdata for tensor in (*base.parameters(), *base.buffers())]
        lora = LoraConfig(
            r=shape.lora_r, lora_alpha=16, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM"
        )
        ids = torch.randint(shape.vocabulary, (rows, length)).tolist()
        trainer = TuningTrainer(
            model=get_peft_model(base, lora),
            train_dataset=[{"input_ids": row, "labels": row} for row in ids],
            scorer=SimpleNamespace(rows=[], prompt_loss_weight=1.0),  # never used
            validation_labels=None,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=rows,
                max_steps=2,
                bf16=dtype == "bfloat16",
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
    weights_of_lora = sum(
        weight.nbytes for weight in trainer.model.parameters() if weight.requires_grad
    )  # existed before
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
