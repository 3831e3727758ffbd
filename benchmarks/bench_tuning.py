"""Tuning, in tokens per second: ours compared with the published way of running the same steps.

    python benchmarks/bench_tuning.py --shape 20m --rows 128 --output tuning.json
    python benchmarks/bench_tuning.py --shape 7b --rows 512 --steps 4 --output tuning_7b.json   # on a GPU

published   transformers' Trainer: micro-batches of 32 in random order, padded on the left; eager attention; the model's own
            loss on logits of every position; fp16 on a GPU, float32 on the CPU
ours        tlrec.tuning.trainer: micro-batches of similar length without a mask; the loss in chunks; bf16 on a GPU
shared      ours with --share_prefix: what all rows of a micro-batch begin with goes through the model once
All take --steps optimiser steps of 128 rows from the same adapter. Padding is not counted. Asserts that one step
without dropout has the same loss and, in float32, the same gradient norm.
"""

import argparse
import tempfile

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from benchmarks import measure, models
from tlrec.errors import one_line_errors
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring.records import Scorer
from tlrec.tuning.loss import Collator, cross_entropy
from tlrec.tuning.rows import lengths, tokenised
from tlrec.tuning.shared_prefix import SharedPrefix
from tlrec.tuning.trainer import TuningTrainer

FRAME = load_frame("alpaca")
BATCH, MICRO_BATCH = 128, 32
OURS, PUBLISHED, SHARED = "ours", "published", "shared"


def left_padded(rows):
    ids, mask = models.left_padded([row["input_ids"] for row in rows], "cpu")
    labels = torch.where(mask == 1, ids, -100)
    # BOS is no label: after padding it would be predicted, but not in the longest row.
    labels[torch.arange(len(rows)), mask.argmax(1)] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def arguments_of(args, on_gpu, folder):
    """The TrainingArguments that all procedures share."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": min(MICRO_BATCH, args.rows),
        "gradient_accumulation_steps": max(1, min(BATCH, args.rows) // MICRO_BATCH),
        "max_steps": args.steps,
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": not on_gpu,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
    }


def prepare(args):
    """{name: a function that tunes and returns [{"loss", "grad_norm", ...}], one for each optimiser step}."""
    device = base_models.resolve_device(args.device)
    on_gpu = device.type == "cuda"
    tokenizer = models.load_tokenizer(args.shape)
    records = models.load_records(args.data, args.rows)
    rows = tokenised(RecordTokenizer(tokenizer, FRAME, cutoff_len=512), Dataset.from_list(records))
    procedures = {}

    def add(name, dtype, attention, trainer_class, parts, **arguments):
        model = models.make_model(args.shape, device, dtype, attention, args.lora_dropout)
        start = {key: value.clone() for key, value in model.state_dict().items() if "lora_" in key}

        def procedure():
            model.load_state_dict(start, strict=False)
            set_seed(0)
            with tempfile.TemporaryDirectory() as folder:
                settings = TrainingArguments(**arguments_of(args, on_gpu, folder), **arguments)
                trainer = trainer_class(model=model, train_dataset=rows, args=settings, **parts)
                trainer.remove_callback(PrinterCallback)
                trainer.train()
            return trainer.state.log_history

        procedures[name] = procedure

    half = torch.float16 if on_gpu else torch.float32
    add(PUBLISHED, half, "eager", Trainer, {"data_collator": left_padded}, fp16=on_gpu, optim="adamw_torch")
    scorer = Scorer(tokenizer, records[:2], FRAME, cutoff_len=512, with_loss=True)  # never used
    parts = {"scorer": scorer, "validation_labels": None, "data_collator": Collator(prompt_loss_weight=1)}
    own = {"bf16": on_gpu, "optim": "adamw_torch_fused" if on_gpu else "adamw_torch"}
    own |= {"train_sampling_strategy": "group_by_length"}
    dtype = torch.bfloat16 if on_gpu else torch.float32
    attention = base_models.resolve_attention("auto", device, dtype)
    add(OURS, dtype, attention, TuningTrainer, parts | {"loss": cross_entropy}, **own)
    add(SHARED, dtype, "sdpa", TuningTrainer, parts | {"loss": SharedPrefix(lengths(rows).max())}, **own)
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
    parser = measure.parser(__doc__)
    parser.add_argument("--steps", type=int, default=1, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--lora_dropout", type=float, default=0.05, help="(default: %(default)s)")
    args = parser.parse_args(arguments)

    # 1. Measure
    device = base_models.resolve_device(args.device)
    figures, _ = measure.measure(prepare, args)
    same_step = check_same_steps(args, device)

    # 2. Compare
    records = models.load_records(args.data, args.rows)
    rows = RecordTokenizer(models.load_tokenizer(args.shape), FRAME, cutoff_len=512).examples(records).rows
    # Every epoch has all rows, in rows / BATCH optimiser steps.
    tokens = sum(len(row["input_ids"]) for row in rows) * args.steps / max(1, args.rows / BATCH)
    table = measure.rates(figures, "tokens/s", tokens, {OURS: PUBLISHED, SHARED: PUBLISHED})
    report = measure.report(args, device, procedures=figures, table=table, same_step=same_step)

    # 3. Print
    print(f"{args.steps} steps of tuning on {args.rows} rows of {args.data}, {args.shape}, {report['hardware']}")
    measure.print_table(table)
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
