"""One curriculum stage: LoRA instruction tuning, from scratch or from an adapter.

    python ins_tuning.py --base_model base_model/llama-7b/ \
        --train_data_path instruction_data/netflix/train.json --val_data_path rec_data/movie/valid.json \
        --resume_from_checkpoint instruction_model/movie/alpaca_stage123 \
        --output_dir instruction_model/movie/alpaca_stage123_instrument

Reads  records to learn from (preference records, or the chain-of-thought records of cot_data/stage123.json) and labelled
       preference records of the target domain to select the best checkpoint on.
Writes the adapter, and last run.json, into --output_dir. `diff ins_tuning.py rec_tuning.py` shows the recipe's two halves.
"""

import argparse
import math
import shutil
import time
from pathlib import Path

from tlrec import runs
from tlrec.data.records import RecordFile, check_two_classes, draw_shots, labels_of, read_records
from tlrec.errors import InputError, one_line_errors
from tlrec.model.checks import check_adapter, check_base_model, check_same_lora
from tlrec.model.prompts import FRAME_NAMES, load_frame
from tlrec.runs import CHECKPOINTS, check_output_dir, remove_checkpoints


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    # model and data
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--train_data_path", required=True, help="records to learn from")
    add("--val_data_path", required=True, help="labelled records to select the best checkpoint on")
    add("--output_dir", required=True, help="folder of the new adapter")
    add("--resume_from_checkpoint", help="adapter to start from (default: a fresh one)")
    add("--max_train_samples", type=int, default=-1, help="a seeded draw of so many rows (default: -1, all)")
    add("--prompt_frame", choices=FRAME_NAMES, help="(default: the start adapter's, else alpaca)")
    # recipe
    add("--batch_size", type=int, default=128, help="rows in one optimiser step (default: %(default)s)")
    add("--micro_batch_size", type=int, default=32, help="rows in one forward pass (default: %(default)s)")
    add("--num_epochs", type=int, default=3, help="(default: %(default)s)")
    add("--learning_rate", type=float, default=3e-4, help="(default: %(default)s)")
    add("--warmup_steps", type=int, default=20, help="(default: %(default)s)")
    add("--cutoff_len", type=int, default=512, help="tokens of a record; answers are never cut (default: %(default)s)")
    add("--train_on_inputs", action=argparse.BooleanOptionalAction, default=True, help="labels cover the prompt too")
    add("--group_by_length", action=argparse.BooleanOptionalAction, default=False, help="batches of like length")
    add("--seed", type=int, default=0, help="of LoRA's start, the order of rows and dropout (default: %(default)s)")
    # LoRA
    add("--lora_r", type=int, default=8, help="(default: %(default)s)")
    add("--lora_alpha", type=int, default=16, help="(default: %(default)s)")
    add("--lora_dropout", type=float, default=0.05, help="(default: %(default)s)")
    add("--lora_target_modules", nargs="+", help="(default: the architecture's query and value projections)")
    # selection
    add("--eval_steps", type=int, default=10, help="validate every so many steps (default: %(default)s)")
    add("--metric_for_best_model", choices=["auc", "loss"], default="auc", help="(default: %(default)s)")
    add("--patience", type=int, default=10, help="stop after so many validations without gain (default: %(default)s)")
    # machine
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="(default: %(default)s)")
    add("--quantization", choices=["none", "8bit", "4bit"], default="none", help="of the base (default: %(default)s)")
    add("--attention", choices=["auto", "sdpa", "eager", "flash_attention_2"], default="auto", help="(default: auto)")
    add("--gradient_checkpointing", action="store_true", help="less memory, more time")
    add("--torch_compile", action="store_true", help="compile the model: minutes at the start, faster steps after")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    # bookkeeping
    add("--resume", action="store_true", help="go on from the last checkpoint, if this run was stopped here before")
    add("--check_only", action="store_true", help="check flags, data and adapters, and stop before anything is loaded")
    add("--report_to", nargs="+", default=["none"], help="experiment trackers of the Trainer (default: none)")
    add("--stage", default="source", help="name of this stage in run.json and the report (default: %(default)s)")
    add("--source", help="name of the source domain in run.json")
    add("--target", help="name of the target domain in run.json")
    add("--overwrite", action="store_true", help="replace the adapter that --output_dir holds")
    return parser.parse_args()


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    for flag in ("batch_size", "micro_batch_size", "num_epochs", "eval_steps", "patience", "lora_r"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: give 1 or more")
    if args.batch_size % args.micro_batch_size:
        raise InputError(
            f"--batch_size {args.batch_size} is not a multiple of --micro_batch_size {args.micro_batch_size}"
        )
    check_base_model(args.base_model, args.cutoff_len)
    train_records = RecordFile(args.train_data_path, labelled=False)
    if args.max_train_samples == 0 or args.max_train_samples < -1 or args.max_train_samples > len(train_records):
        raise InputError(f"--max_train_samples {args.max_train_samples}: 1 to {len(train_records)} rows, or -1 for all")
    val_records = read_records(args.val_data_path)
    check_two_classes(val_records, args.val_data_path)
    start_adapter = args.resume_from_checkpoint
    if start_adapter:
        check_same_lora(
            check_adapter(start_adapter, "--resume_from_checkpoint"),
            start_adapter,
            "--resume_from_checkpoint",
            args.lora_r,
            args.lora_alpha,
            args.lora_target_modules,
        )
    data = {
        "train": runs.describe_data(args.train_data_path, len(train_records), train_records.sha256),
        "valid": runs.describe_data(args.val_data_path, len(val_records)),
    }
    if not args.overwrite and runs.is_complete(args.output_dir, vars(args), data, start_adapter):
        print(f"complete already: {args.output_dir}")
        return
    check_output_dir(args.output_dir, args.overwrite)
    checkpoint = None
    if args.resume and not args.overwrite:
        checkpoint = runs.checkpoint_of(args.output_dir, vars(args), data, start_adapter)
    if args.check_only:
        print(f"checked: {args.output_dir}")
        return

    # 2. Import the heavy libraries
    import torch
    from accelerate import PartialState
    from peft import LoraConfig, get_peft_model
    from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

    from tlrec.model import (
        adapters,  # before the others: it quiets their warnings
        base_models,  # before the others: it quiets their warnings
    )
    from tlrec.model.processes import models_are_spread, only_the_first_speaks, share_batch
    from tlrec.model.scoring import Scorer
    from tlrec.model.tokenization import RecordTokenizer
    from tlrec.tuning.token_cache import training_examples
    from tlrec.tuning.trainer import TuningTrainer, check_trackers

    device = base_models.resolve_device(args.device)
    dtype = base_models.resolve_dtype(args.dtype, device)
    attention = base_models.resolve_attention(args.attention, device, dtype)
    processes, first = PartialState().num_processes, PartialState().is_main_process
    only_the_first_speaks()
    check_trackers(args.report_to)
    micro_batch_size, accumulation = share_batch(args.batch_size, args.micro_batch_size, processes)

    # 3. Records to token ids
    tokenizer = base_models.load_tokenizer(args.base_model, args.trust_remote_code)
    frame = args.prompt_frame or runs.frame_of(start_adapter, args.base_model) or "alpaca"
    frame = load_frame(frame, tokenizer)
    encoder = RecordTokenizer(tokenizer, frame, args.cutoff_len)
    drawn = draw_shots(train_records, args.max_train_samples, args.seed)
    examples = training_examples(encoder, drawn, args.train_on_inputs)
    scorer = Scorer(tokenizer, val_records, frame, args.cutoff_len, True, args.train_on_inputs)
    print(
        f"train: {len(examples.rows)} rows, {examples.truncated} with a cut prompt, {len(examples.dropped)} left out "
        f"because the answer exceeds --cutoff_len {args.cutoff_len}"
    )
    print(f"validation: {len(val_records)} rows, {scorer.truncated} with a cut prompt; frame: {frame.name}")
    if not examples.rows:
        raise InputError(f"{args.train_data_path}: no record fits into --cutoff_len {args.cutoff_len}")

    # 4. Base model and adapter: a fresh one, or one whose every tensor is checked before the base is loaded
    set_seed(args.seed)
    targets = args.lora_target_modules or adapters.query_and_value_modules(args.base_model, args.trust_remote_code)
    print(f"LoRA targets: {' '.join(targets)}")
    lora = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    expected = adapters.expected_adapter(args.base_model, lora, args.trust_remote_code)
    if start_adapter:
        tensors = adapters.read_adapter(start_adapter)
        adapters.check_adapter_fits(tensors, expected, start_adapter)
    loaded_to = torch.device("cpu") if models_are_spread() else device  # FSDP and ZeRO-3 share it out from main memory
    base = base_models.load_base_model(
        args.base_model, loaded_to, dtype, args.quantization, attention, trust_remote_code=args.trust_remote_code
    )
    model = get_peft_model(base_models.prepare_for_tuning(base, args.gradient_checkpointing), lora)
    if start_adapter:
        adapters.load_adapter(model, tensors, start_adapter)
        print(f"start adapter: {start_adapter}, {len(tensors)} tensors loaded and compared")
    else:
        print("start adapter: none, a fresh LoRA")

    # 5. Tune; the best checkpoint by validation is the result
    steps = math.ceil(len(examples.rows) / args.batch_size) * args.num_epochs
    eval_steps = min(args.eval_steps, steps)
    if first and not checkpoint:
        shutil.rmtree(Path(args.output_dir) / CHECKPOINTS, ignore_errors=True)  # of a run that was stopped
        runs.write_start(args.output_dir, vars(args), data, start_adapter)
    print(f"resuming: {checkpoint}" if checkpoint else "starting at step 0")
    trainer = TuningTrainer(
        model=model,
        train_dataset=examples.rows,
        scorer=scorer,
        validation_labels=labels_of(val_records),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=args.patience)],
        args=TrainingArguments(
            output_dir=Path(args.output_dir) / CHECKPOINTS,
            per_device_train_batch_size=min(micro_batch_size, math.ceil(len(examples.rows) / processes)),
            gradient_accumulation_steps=accumulation,
            num_train_epochs=args.num_epochs,
            learning_rate=args.learning_rate,
            warmup_steps=args.warmup_steps,
            optim="adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
            bf16=dtype == torch.bfloat16,
            fp16=dtype == torch.float16,
            train_sampling_strategy="group_by_length" if args.group_by_length else "random",
            eval_strategy="steps",
            eval_steps=eval_steps,
            save_strategy="steps",
            save_steps=eval_steps,
            save_total_limit=2,  # the best one and the last
            load_best_model_at_end=True,
            metric_for_best_model=f"eval_{args.metric_for_best_model}",
            greater_is_better=args.metric_for_best_model == "auc",
            logging_steps=eval_steps,
            gradient_checkpointing=args.gradient_checkpointing,
            torch_compile=args.torch_compile,
            use_cpu=device.type == "cpu",
            seed=args.seed,
            restore_callback_states_from_checkpoint=True,
            report_to=args.report_to,
            run_name=f"{args.stage}-{args.source}-{args.target}-seed{args.seed}",
            remove_unused_columns=False,
        ),
    )
    clock = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    speed = trainer.speed(time.perf_counter() - clock)

    # 6. Save the adapter whole, and last what made it
    adapters.save_adapter(model, args.output_dir)
    if first:
        runs.write_run(
            args.output_dir,
            script="ins_tuning.py",
            arguments=vars(args),
            data=data,
            results={
                "history": trainer.history(),
                "best_step": trainer.best_step(),
                "truncated": {"train": examples.truncated, "valid": scorer.truncated},
                "dropped": len(examples.dropped),
                **speed,
            },
            stage=args.stage,
            start_adapter=runs.describe_adapter(start_adapter),
            shots=None,
            seed=args.seed,
            frame=frame.name,
            base_model=args.base_model,
            source=args.source,
            target=args.target,
            metric_for_best_model=args.metric_for_best_model,
            hardware=base_models.hardware(device),
        )
        remove_checkpoints(args.output_dir)
    best = max(trainer.history(), key=lambda entry: entry["step"] == trainer.best_step())
    print(
        f"best step {best['step']} of {steps}: validation auc {best['eval_auc']:.4f}, loss {best['eval_loss']:.4f}; "
        f"{speed['tokens_per_second']} tokens/s, {speed['padding_share']:.1%} padding"
    )
    print(f"adapter: {args.output_dir}")


if __name__ == "__main__":
    with one_line_errors():
        main()
