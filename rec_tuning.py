"""Few-shot tuning on the target domain, from an instruction adapter: one run, or a sweep over seeds and shots.

    python rec_tuning.py --base_model base_model/llama-7b/ \
        --train_data_path rec_data/movie/train.json --val_data_path rec_data/movie/valid.json \
        --resume_from_checkpoint instruction_model/movie/alpaca_stage123_instrument \
        --output_dir output_model/movie/few_shot --sample 16 64 256 --seed 0 1 2 --test_data_path rec_data/movie/test.json

Reads  labelled preference records of the target domain to draw shots from, and others to select the best checkpoint on.
Writes the adapter, and last run.json, into --output_dir; in a sweep into --output_dir/<seed>_<shots>, each run from the
       start adapter anew, runs that are complete skipped. With --test_data_path, metrics.json and predictions.jsonl too.
       `diff ins_tuning.py rec_tuning.py` shows the recipe's two halves.
"""

import argparse
import copy
import math
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from tlrec import runs
from tlrec.data.records import RecordFile, check_two_classes, draw_shots, labels_of, read_records
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.results import check_evaluation_dir, record_evaluation
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
    add("--train_data_path", required=True, help="labelled records to draw the shots from")
    add("--val_data_path", required=True, help="labelled records to select the best checkpoint on")
    add("--test_data_path", help="labelled records to score each result on (default: none)")
    add("--output_dir", required=True, help="folder of the new adapter, or of the sweep's <seed>_<shots> folders")
    add("--resume_from_checkpoint", help="adapter to start from (default: a fresh one)")
    add("--sample", type=int, nargs="+", default=[16], help="shots; several make a sweep; -1: all rows (default: 16)")
    add(
        "--seed", type=int, nargs="+", default=[0], help="of the draw and the tuning; several make a sweep (default: 0)"
    )
    add("--prompt_frame", choices=FRAME_NAMES, help="(default: the start adapter's, else alpaca)")
    # recipe
    add("--batch_size", type=int, default=128, help="rows in one optimiser step (default: %(default)s)")
    add("--micro_batch_size", type=int, default=32, help="rows in one forward pass (default: %(default)s)")
    add("--num_epochs", type=int, default=30, help="(default: %(default)s)")
    add("--learning_rate", type=float, default=1e-4, help="(default: %(default)s)")
    add("--warmup_steps", type=int, default=20, help="(default: %(default)s)")
    add("--cutoff_len", type=int, default=512, help="tokens of a record; answers are never cut (default: %(default)s)")
    add("--train_on_inputs", action=argparse.BooleanOptionalAction, default=True, help="labels cover the prompt too")
    add("--group_by_length", action=argparse.BooleanOptionalAction, default=True, help="batches of like length")
    # LoRA
    add("--lora_r", type=int, default=8, help="(default: %(default)s)")
    add("--lora_alpha", type=int, default=16, help="(default: %(default)s)")
    add("--lora_dropout", type=float, default=0.05, help="(default: %(default)s)")
    add("--lora_target_modules", nargs="+", help="(default: the architecture's query and value projections)")
    # selection
    add("--eval_steps", type=int, help="validate every so many steps (default: 10; above 128 shots, shots / 128 * 5)")
    add("--metric_for_best_model", choices=["auc", "loss"], default="loss", help="(default: %(default)s)")
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
    add("--stage", default="few-shot", help="name of this stage in run.json and the report (default: %(default)s)")
    add("--target", help="name of the target domain in run.json")
    add("--overwrite", action="store_true", help="replace the adapters that --output_dir holds")
    return parser.parse_args()


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    for flag in ("batch_size", "micro_batch_size", "num_epochs", "eval_steps", "patience", "lora_r"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: give 1 or more")
    if args.batch_size % args.micro_batch_size:
        raise InputError(
            f"--batch_size {args.batch_size} is not a multiple of --micro_batch_size {args.micro_batch_size}"
        )
    check_base_model(args.base_model, args.cutoff_len)
    train_records = RecordFile(args.train_data_path)
    for shots in args.sample:
        if shots == 0 or shots < -1 or shots > len(train_records):
            raise InputError(
                f"--sample {shots}: {args.train_data_path} has 1 to {len(train_records)} rows, or -1 for all"
            )
    val_records = read_records(args.val_data_path)
    check_two_classes(val_records, args.val_data_path)
    if args.test_data_path:
        test_records = read_records(args.test_data_path)
        check_two_classes(test_records, args.test_data_path)
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
    todo = []  # (shots, seed, folder, arguments, whether it is tuned already, checkpoint to go on from)
    sweep = len(args.seed) * len(args.sample) > 1
    for seed in args.seed:
        for shots in args.sample:
            folder = Path(args.output_dir) / f"{seed}_{shots}" if sweep else Path(args.output_dir)
            arguments = {**vars(args), "sample": shots, "seed": seed, "output_dir": folder}
            tuned = not args.overwrite and runs.is_complete(folder, arguments, data, start_adapter)
            checkpoint = None
            if not tuned:
                check_output_dir(folder, args.overwrite)
                if args.resume and not args.overwrite:
                    checkpoint = runs.checkpoint_of(folder, arguments, data, start_adapter)
            scored = tuned and (folder / "metrics.json").exists()
            if scored and args.test_data_path:
                check_evaluation_dir(folder, args.test_data_path, args.overwrite)
            if tuned and (scored or not args.test_data_path):
                print(f"complete already: {folder}")
                continue
            todo.append((shots, seed, folder, arguments, tuned, checkpoint))
    if args.check_only:
        print(f"checked: {len(todo)} runs to do in {args.output_dir}")
    if args.check_only or not todo:
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
    if models_are_spread() and len(todo) > 1:
        raise InputError("with FSDP or ZeRO-3 a process makes one run: give one --sample and one --seed")
    micro_batch_size, accumulation = share_batch(args.batch_size, args.micro_batch_size, processes)

    # 3. Records to token ids, once for all runs
    tokenizer = base_models.load_tokenizer(args.base_model, args.trust_remote_code)
    frame = args.prompt_frame or runs.frame_of(start_adapter, args.base_model) or "alpaca"
    frame = load_frame(frame, tokenizer)
    encoder = RecordTokenizer(tokenizer, frame, args.cutoff_len)
    scorer = Scorer(tokenizer, val_records, frame, args.cutoff_len, True, args.train_on_inputs)
    print(f"validation: {len(val_records)} rows, {scorer.truncated} with a cut prompt; frame: {frame.name}")
    if args.test_data_path:
        test_scorer = Scorer(tokenizer, test_records, frame, args.cutoff_len)

    # 4. Base model, once for all runs; a start adapter is checked tensor by tensor before the base is loaded
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
    base = base_models.prepare_for_tuning(base, args.gradient_checkpointing)

    for shots, seed, folder, arguments, tuned, checkpoint in todo:
        started = datetime.now(UTC)
        print(f"== {shots if shots != -1 else len(train_records)} shots, seed {seed}: {folder}")
        if tuned:
            model = adapters.attach_adapter(base, folder)
        else:
            # 5. Draw the shots and start from the adapter anew
            examples = training_examples(encoder, draw_shots(train_records, shots, seed), args.train_on_inputs)
            print(f"train: {len(examples.rows)} rows, {examples.truncated} with a cut prompt")
            set_seed(seed)
            model = get_peft_model(base, copy.deepcopy(lora))
            if start_adapter:
                adapters.load_adapter(model, tensors, start_adapter)
                print(f"start adapter: {start_adapter}, {len(tensors)} tensors loaded and compared")
            else:
                print("start adapter: none, a fresh LoRA")

            # 6. Tune; the best checkpoint by validation is the result
            steps = math.ceil(len(examples.rows) / args.batch_size) * args.num_epochs
            eval_steps = min(args.eval_steps or max(10, len(examples.rows) * 5 // 128), steps)
            if first and not checkpoint:
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # of a run that was stopped
                runs.write_start(folder, arguments, data, start_adapter)
            print(f"resuming: {checkpoint}" if checkpoint else "starting at step 0")
            trainer = TuningTrainer(
                model=model,
                train_dataset=examples.rows,
                scorer=scorer,
                validation_labels=labels_of(val_records),
                callbacks=[EarlyStoppingCallback(early_stopping_patience=args.patience)],
                args=TrainingArguments(
                    output_dir=folder / CHECKPOINTS,
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
                    seed=seed,
                    restore_callback_states_from_checkpoint=True,
                    report_to=args.report_to,
                    run_name=f"{args.stage}-{args.target}-{shots}shots-seed{seed}",
                    remove_unused_columns=False,
                ),
            )
            clock = time.perf_counter()
            trainer.train(resume_from_checkpoint=checkpoint)
            speed = trainer.speed(time.perf_counter() - clock)

            # 7. Save the adapter whole, and last what made it
            adapters.save_adapter(model, folder)
            if first:
                runs.write_run(
                    folder,
                    script="rec_tuning.py",
                    arguments=arguments,
                    data=data,
                    results={
                        "history": trainer.history(),
                        "best_step": trainer.best_step(),
                        "truncated": {"train": examples.truncated, "valid": scorer.truncated},
                        **speed,
                    },
                    started=started,
                    stage=args.stage,
                    start_adapter=runs.describe_adapter(start_adapter),
                    shots=shots,
                    seed=seed,
                    frame=frame.name,
                    base_model=args.base_model,
                    target=args.target,
                    metric_for_best_model=args.metric_for_best_model,
                    hardware=base_models.hardware(device),
                )
                remove_checkpoints(folder)
            best = max(trainer.history(), key=lambda entry: entry["step"] == trainer.best_step())
            print(
                f"best step {best['step']} of {steps}: validation auc {best['eval_auc']:.4f}, loss "
                f"{best['eval_loss']:.4f}; {speed['tokens_per_second']} tokens/s, {speed['padding_share']:.1%} padding"
            )

        # 8. Score the test set, as evaluate.py does
        if args.test_data_path:
            scores = test_scorer.score(model, progress="test")
            if first:
                metrics = record_evaluation(
                    folder,
                    "rec_tuning.py",
                    arguments,
                    args.test_data_path,
                    test_records,
                    scores,
                    args.train_data_path,
                    train_records,
                    adapter=folder,
                    frame=frame.name,
                    base_model=args.base_model,
                    target=args.target,
                    hardware=base_models.hardware(device),
                )
                print(f"===== auc: {metrics['auc']} =====")
        base = model.unload()


if __name__ == "__main__":
    with one_line_errors():
        main()
