"""What both tuners check of their flags before torch is imported."""

from tlrec.errors import InputError
from tlrec.model.checks import check_adapter, check_base_model, check_same_lora


def check_flags(args):
    """Raise InputError for a value that no run can have, and unless base model and start adapter are there and fit."""
    for flag in ("batch_size", "micro_batch_size", "num_epochs", "eval_steps", "patience", "lora_r"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise InputError(f"--{flag} {value}: give 1 or more")
    if not 0 <= args.prompt_loss_weight <= 1:
        raise InputError(f"--prompt_loss_weight {args.prompt_loss_weight}: give 0 to 1")
    if args.batch_size % args.micro_batch_size:
        raise InputError(
            f"--batch_size {args.batch_size} is not a multiple of --micro_batch_size {args.micro_batch_size}"
        )
    check_base_model(args.base_model, args.cutoff_len)
    if start := args.resume_from_checkpoint:
        flag = "--resume_from_checkpoint"
        config = check_adapter(start, flag)
        check_same_lora(config, start, flag, args.lora_r, args.lora_alpha, args.lora_target_modules)
