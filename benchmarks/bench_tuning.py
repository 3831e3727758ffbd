"""Tuning, in tokens per second: ours compared with the published way of running the same steps.

    python benchmarks/bench_tuning.py --shape 20m --rows 128 --output tuning.json
    python benchmarks/bench_tuning.py --shape 7b --rows 512 --steps 4 --output tuning_7b.json   # on a GPU

published   transformers' Trainer: micro-batches of 32 in random order, padded on the left to the longest row; eager
            attention; the model's own loss on logits of every position; fp16 on a GPU, float32 on the CPU.
ours        tlrec.tuning.trainer: micro-batches of similar length, padded on the right without a mask; PyTorch's
            attention or FlashAttention; the loss in chunks; bf16 on a GPU, float32 on the CPU, fused AdamW on a GPU.
shared      ours with --share_prefix: what all rows of a micro-batch begin with goes through the model once.
All take --steps optimiser steps of 128 rows from the same adapter. Padding is not counted. Asserts that one step
without dropout has the same loss and, in float32, the same gradient norm.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from benchmarks import measure, models
from tlrec.errors import one_line_errors
from tlrec.files import write_json
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.scoring import Scorer
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning.trainer import TuningTrainer

FRAME = load_frame("alpaca")
BATCH, MICRO_BATCH = 128, 32
OURS, PUBLISHED, SHARED = "ours", "published", "shared"


def training_arguments(args, folder, device, **arguments):
    """What both share."""
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=min(MICRO_BATCH, args.rows),
        gradient_accumulation_steps=max(1, min(BATCH, args.rows) // MICRO_BATCH),
        max_steps=args.steps,
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        **arguments,
    )


def left_padded(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    padding = [longest - len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([[0] * n + row["input_ids"] for n, row in zip(padding, rows)]),
        "attention_mask": torch.tensor([[0] * n + [1] * (longest - n) for n in padding]),
        # BOS is no label: after padding it would be predicted, but not in the longest row.
        "labels": torch.tensor([[-100] * (n + 1) + row["labels"][1:] for n, row in zip(padding, rows)]),
    }


def log_of(trainer):
    """Train; returns [{"loss", "grad_norm", ...}], one for each optimiser step."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.state.log_history


def published(args, device, model, rows):
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            train_dataset=rows,
            data_collator=left_padded,
            args=training_arguments(args, folder, device, fp16=device.type == "cuda", optim="adamw_torch"),
        )
        return log_of(trainer)


def ours(args, device, model, rows, scorer, share_prefix=False):
    with tempfile.TemporaryDirectory() as folder:
        trainer = TuningTrainer(
            model=model,
            train_dataset=rows,
            scorer=scorer,
            share_prefix=share_prefix,
            validation_labels=None,
            args=training_arguments(
                args,
                folder,
                device,
                bf16=device.type == "cuda",
                optim="adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
                train_sampling_strategy="group_by_length",
                gradient_checkpointing=args.gradient_checkpointing,
                torch_compile=args.torch_compile,
            ),
        )
        return log_of(trainer)


def prepare(args):
    device = base_models.resolve_device(args.device)
    tokenizer = models.load_tokenizer()
    records, _ = models.load_records(args.data, args.rows)
    rows = RecordTokenizer(tokenizer, FRAME, cutoff_len=512).examples(records).rows
    scorer = Scorer(tokenizer, records[:2], FRAME, cutoff_len=512, with_loss=True)  # never used
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    attention = base_models.resolve_attention("auto", device, dtype)
    procedures = {}

    def add(name, dtype, attention, tune, *others):
        model = models.make_model(args.shape, device, dtype, attention, args.lora_dropout)
        start = {key: value.clone() for key, value in model.state_dict().items() if "lora_" in key}

        def procedure():
            model.load_state_dict(start, strict=False)
            set_seed(0)
            return tune(args, device, model, rows, *others)

        procedures[name] = procedure

    add(PUBLISHED, torch.float16 if device.type == "cuda" else torch.float32, "eager", published)
    add(OURS, dtype, attention, ours, scorer)
    add(SHARED, dtype, "sdpa", ours, scorer, True)
    return procedures


def check_same_steps(args, device):
    """Assert that one step on few rows without dropout has the same loss and the same gradient; returns both."""
    small = argparse.Namespace(**{**vars(args), "rows": min(args.rows, 16), "steps": 1, "lora_dropout": 0.0})
    first = {name: procedure()[0] for name, procedure in prepare(small).items()}
    loss, norm = ({name: float(step[key]) for name, step in first.items()} for key in ("loss", "grad_norm"))
    tolerance = measure.TOLERANCE[torch.float32 if device.type == "cpu" else torch.float16]
    for name in (OURS, SHARED):
        assert abs(loss[name] - loss[PUBLISHED]) < tolerance, f"losses differ: {loss}"
        # In fp16 the loss scaler skips steps whose gradients overflow, and their norm is infinite.
        assert device.type == "cuda" or abs(norm[name] / norm[PUBLISHED] - 1) < 1e-3, f"gradients differ: {norm}"
    return {"loss": loss, "grad_norm": norm}


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--shape", choices=models.SHAPES, default="20m", help="(default: %(default)s)")
    add(
        "--data",
        type=Path,
        default=models.MOVIE_TEST,
        help="records (default: the Movie test file, or else demo records)",
    )
    add("--rows", type=int, default=128, help="(default: %(default)s)")
    add("--steps", type=int, default=1, help="optimiser steps (default: %(default)s)")
    add("--lora_dropout", type=float, default=0.05, help="(default: %(default)s)")
    add("--gradient_checkpointing", action="store_true", help="for ours")
    add("--torch_compile", action="store_true", help="for ours; it compiles in each repeat, so give many --steps")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)

    # 1. Measure
    device = base_models.resolve_device(args.device)
    records, source = models.load_records(args.data, args.rows)
    environment = measure.environment(device)
    figures, _ = measure.measure(prepare, args, device)

    # 2. Compare
    medians = {name: figure["median"] for name, figure in figures.items()}
    rows = RecordTokenizer(models.load_tokenizer(), FRAME, cutoff_len=512).examples(records).rows
    # Every epoch has all rows, in rows / BATCH optimiser steps.
    tokens = sum(len(row["input_ids"]) for row in rows) * args.steps / max(1, args.rows / BATCH)
    report = environment | {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "rows_from": source,
        "procedures": figures,
        "tokens_per_second": {name: tokens / median for name, median in medians.items()},
        "ours_over_published": medians[PUBLISHED] / medians[OURS],
        "shared_over_ours": medians[OURS] / medians[SHARED],
        "memory_ours_over_published": measure.ratio_of_peaks(figures, OURS, PUBLISHED),
    }
    if device.type == "cuda":
        report["matrix_rate"] = measure.matrix_rate()
        operations = models.operations_of_tuned_token(models.config_of(args.shape)) * tokens
        report["share_of_matrix_rate"] = operations / medians[OURS] / report["matrix_rate"]

    # 3. Print
    print(
        f"{args.steps} steps of tuning on {args.rows} rows of {source}, shape {args.shape}, {environment['hardware']}"
    )
    measure.print_table(
        ["", "seconds", "tokens/s", "times as fast", "peak GB"],
        [
            [
                name,
                figure["median"],
                tokens / figure["median"],
                medians[PUBLISHED] / figure["median"],
                figure["peak_memory_gb"],
            ]
            for name, figure in figures.items()
        ],
    )
    if device.type == "cuda":
        print(
            f"share of the measured bf16 matrix rate ({report['matrix_rate'] / 1e12:.0f} TFLOP/s): "
            f"{report['share_of_matrix_rate']:.0%}"
        )
    if args.output:
        write_json(args.output, report)
    report["same_step"] = check_same_steps(args, device)
    if args.output:
        write_json(args.output, report)
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
