"""One curriculum stage: LoRA instruction tuning, from scratch or from an adapter.

    python ins_tuning.py --base_model base_model/llama-7b/ \
        --train_data_path instruction_data/netflix/train.json --val_data_path rec_data/movie/valid.json \
        --resume_from_checkpoint instruction_model/movie/alpaca_stage123 \
        --output_dir instruction_model/movie/alpaca_stage123_instrument

Reads  records to learn from (preference records, or the chain-of-thought records of cot_data/stage123.json), and
       labelled preference records of the target domain to select the best checkpoint on.
Writes the adapter, and last run.json, into --output_dir.
       `diff ins_tuning.py rec_tuning.py` shows the recipe's two halves.
"""

import argparse
import math

from tlrec.data.records import RecordSet, check_draw, draw_shots
from tlrec.errors import one_line_errors
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.model.prompts import FRAME_NAMES
from tlrec.tuning.flags import check_flags
from tlrec.tuning.folder import TuningFolder


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument_group("recipe").add_argument
    add("--num_epochs", type=int, default=3, help="(default: %(default)s)")
    add("--learning_rate", type=float, default=3e-4, help="(default: %(default)s)")
    add("--warmup_steps", type=int, default=20, help="(default: %(default)s)")
    add("--batch_size", type=int, default=128, help="rows in one optimiser step (default: %(default)s)")
    add("--group_by_length", action=argparse.BooleanOptionalAction, default=False, help="batches of similar length")
    add("--shuffle_history", action="store_true", help="new orders of liked and disliked items in each epoch")
    add("--prompt_loss_weight", type=float, default=1.0, help="weight of prompt tokens; answers have 1 (default: 1.0)")
    add(
        "--train_on_inputs", dest="prompt_loss_weight", action="store_const", const=1.0, help="--prompt_loss_weight 1.0"
    )
    add("--no-train_on_inputs", dest="prompt_loss_weight", action="store_const", const=0.0, help="the same with 0")
    add("--cutoff_len", type=int, default=512, help="tokens of a record; answers are never cut (default: %(default)s)")
    add("--prompt_frame", help=f"{', '.join(FRAME_NAMES)} or a JSON file (default: start adapter's, else alpaca)")
    add("--seed", type=int, default=0, help="of LoRA's first weights, row order and dropout (default: %(default)s)")
    add = parser.add_argument_group("LoRA").add_argument
    add("--lora_r", type=int, help="(default: the start adapter's, else 8)")
    add("--lora_alpha", type=int, help="(default: the start adapter's, else 16)")
    add("--lora_dropout", type=float, help="(default: the start adapter's, else 0.05)")
    add(
        "--lora_target_modules", nargs="+", help="or all-linear (default: the start adapter's, else queries and values)"
    )
    add = parser.add_argument_group("selection of the best checkpoint").add_argument
    add("--metric_for_best_model", choices=["auc", "loss", "last"], default="auc", help="last: none (default: auc)")
    add("--eval_steps", type=int, default=10, help="steps between validations (default: %(default)s)")
    add("--validate_start", action="store_true", help="validate before the first step too; the start may be the best")
    add("--max_val_samples", type=int, default=-1, help="validate on this many rows, drawn (default: -1, all)")
    add("--patience", type=int, default=10, help="stop after this many validations without gain (default: %(default)s)")
    add = parser.add_argument_group("model and data").add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--resume_from_checkpoint", help="adapter to start from, a folder or a hub name (default: a fresh one)")
    add("--train_data_path", required=True, help="records to learn from")
    add("--val_data_path", required=True, help="labelled records to select the best checkpoint on")
    add("--max_train_samples", type=int, default=-1, help="use a seeded draw of this many rows (default: -1, all)")
    add("--output_dir", required=True, help="folder of the new adapter")
    add = parser.add_argument_group("machine").add_argument
    add("--micro_batch_size", type=int, default=32, help="rows in one forward pass (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="(default: %(default)s)")
    add("--quantization", choices=["none", "8bit", "4bit"], default="none", help="of the base (default: %(default)s)")
    add("--attention", choices=["auto", "sdpa", "eager", "flash_attention_2"], default="auto", help="(default: auto)")
    add("--gradient_checkpointing", action="store_true", help="less memory, more time")
    add("--share_prefix", action="store_true", help="what all prompts begin with goes through the model once a pass")
    add("--torch_compile", action="store_true", help="compile the model: minutes at the start, faster steps after")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    add = parser.add_argument_group("bookkeeping").add_argument
    add("--resume", action="store_true", help="continue from the last checkpoint, if this run was stopped here before")
    add("--check_only", action="store_true", help="check flags, data and adapters, then stop before anything is loaded")
    add("--report_to", nargs="+", default=["none"], help="experiment trackers of the Trainer (default: none)")
    add("--stage", default="source", help="name of this stage in run.json and the report (default: %(default)s)")
    add("--source", help="name of the source domain in run.json")
    add("--target", help="name of the target domain in run.json")
    add("--overwrite", action="store_true", help="replace what another run left in --output_dir, once")
    return parser.parse_args()


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    check_flags(args)
    train = RecordSet(args.train_data_path, labelled=False)
    check_draw("--max_train_samples", args.max_train_samples, train)
    valid = EvaluationSet(args.val_data_path, draw=args.max_val_samples)
    folder = TuningFolder("ins_tuning.py", args, train, valid)
    if folder.is_complete() or args.check_only:
        return

    # 2. Import the heavy libraries; look at the machine
    from tlrec.model.processes import leave
    from tlrec.tuning.machine import TuningModel

    model = TuningModel(args)
    with folder.locked(model.first):
        tune(folder, model, draw_shots(train.rows, args.max_train_samples, args.seed), valid)
    leave()


def tune(folder, model, records, valid):
    """Tune on `records`; save the adapter of the best validation, and last run.json. Returns the tuned model."""
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback

    from tlrec.model.tokenization import RecordTokenizer
    from tlrec.tuning.loss import Collator, cross_entropy
    from tlrec.tuning.rows import ShuffledHistories, lengths, tokenised, validation_scorer
    from tlrec.tuning.shared_prefix import SharedPrefix
    from tlrec.tuning.trainer import TuningTrainer

    args = folder.args

    # 3. The prompt: frame and tokenizer
    encoder = RecordTokenizer(model.tokenizer, model.frame, args.cutoff_len)

    # 4. The adapter to start from, else a fresh one; the base model is loaded with it in step 8
    lora = model.start_lora or LoraConfig(
        r=args.lora_r or 8,
        lora_alpha=args.lora_alpha or 16,
        lora_dropout=0.05 if args.lora_dropout is None else args.lora_dropout,
        target_modules=model.lora_targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model.check_start(lora)

    # 5. What is learnt from, and what selects
    rows = tokenised(encoder, records)
    if args.shuffle_history:
        rows = ShuffledHistories(encoder, records, rows, args.seed)
    scorer = validation_scorer(encoder, valid, prompt_loss_weight=args.prompt_loss_weight)

    # 6. The loss, and the weight of prompt tokens in it
    loss = SharedPrefix(longest=lengths(rows).max()) if args.share_prefix else cross_entropy
    collator = Collator(prompt_loss_weight=args.prompt_loss_weight)

    # 7. and 8. Schedule and selection; the trainer
    trainer = TuningTrainer(
        args=training_arguments(folder, model, lora, rows),
        model=model.with_lora(lora, args.seed),
        train_dataset=rows,
        data_collator=collator,
        loss=loss,
        scorer=scorer,
        validation_labels=valid.labels,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=args.patience)],
    )
    folder.tune(trainer)
    folder.save(trainer, model, rows)
    return trainer.model


def training_arguments(folder, model, lora, rows):
    """Schedule, selection and seed, and what depends on the machine only."""
    from transformers import TrainingArguments

    from tlrec.tuning.machine import machine_arguments

    args = folder.args
    steps = math.ceil(len(rows) / args.batch_size) * args.num_epochs
    eval_steps = min(args.eval_steps, steps)
    return TrainingArguments(
        output_dir=folder.checkpoints,
        run_name=f"{args.stage}: {folder.path}",
        num_train_epochs=args.num_epochs,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=args.warmup_steps,
        optim=model.optimizer,
        bf16=model.precision == "bfloat16",
        fp16=model.precision == "float16",
        train_sampling_strategy="group_by_length" if args.group_by_length else "random",
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=eval_steps,
        logging_steps=eval_steps,
        eval_on_start=args.validate_start,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{args.metric_for_best_model}",
        greater_is_better=args.metric_for_best_model != "loss",
        seed=args.seed,
        **machine_arguments(args, model, lora, rows),
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
