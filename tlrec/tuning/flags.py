"""Checks of both tuners' flags that run before torch is imported."""

import math
import sys

from tlrec.errors import InputError
from tlrec.model.folders import adapter_folder, check_adapter, check_base_model, check_same_lora, tuned_on_another
from tlrec.model.identity import base_identity

SEEDS = 2**32  # numpy takes seeds below this


def check_flags(args):
    """Raise InputError for an impossible value, and unless base model and start adapter exist and fit each other."""
    for flag in ("batch_size", "micro_batch_size", "num_epochs", "eval_steps", "patience", "lora_r", "cutoff_len"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: give 1 or more")
    for flag in ("learning_rate", "lora_alpha"):
        value = getattr(args, flag)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"--{flag} {value}: give a number above 0")
    if args.warmup_steps < 0:
        raise InputError(f"--warmup_steps {args.warmup_steps}: give 0 or more")
    if args.lora_dropout is not None and not 0 <= args.lora_dropout < 1:
        raise InputError(f"--lora_dropout {args.lora_dropout}: give a number from 0 to below 1")
    for seed in args.seed if isinstance(args.seed, list) else [args.seed]:
        if not 0 <= seed < SEEDS:
            raise InputError(f"--seed {seed}: give 0 to {SEEDS - 1}")
    if not 0 <= args.prompt_loss_weight <= 1:
        raise InputError(f"--prompt_loss_weight {args.prompt_loss_weight}: give 0 to 1")
    if args.batch_size % args.micro_batch_size:
        raise InputError(
            f"--batch_size {args.batch_size} is not a multiple of --micro_batch_size {args.micro_batch_size}"
        )
    check_base_model(args.base_model, args.cutoff_len)
    flag = "--resume_from_checkpoint"
    if start := adapter_folder(args.resume_from_checkpoint, flag):
        args.resume_from_checkpoint = start
        config = check_adapter(start, flag)
        check_same_lora(config, start, flag, args.lora_r, args.lora_alpha, args.lora_target_modules)
        if other := tuned_on_another(start, args.base_model, base_identity(args.base_model)):
            print(f"warning: {flag} {other}; tuning continues on this one", file=sys.stderr)
