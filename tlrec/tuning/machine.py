"""The base model that a tuner's flags name, with LoRA on it, and how this machine tunes it."""

import copy
import math
from functools import cached_property

from peft import get_peft_model
from transformers import set_seed
from transformers.integrations.integration_utils import get_available_reporting_integrations

from tlrec import runs
from tlrec.errors import InputError
from tlrec.model import adapters, base_models, lora_targets, memory
from tlrec.model.processes import least, models_are_spread, share_batch
from tlrec.model.prompts import load_frame
from tlrec.scoring.loaded import LoadedModel
from tlrec.tuning.rows import lengths


class TuningModel(LoadedModel):
    """Tokenizer, base model and start adapter of a tuner's flags `args`; the base is loaded once for all runs of a sweep.

    runs: how many runs this process is to make. Raises InputError if it cannot make them.
    """

    def __init__(self, args, runs=1):
        super().__init__(
            args.base_model, args.device, args.dtype, args.quantization, args.attention, args.trust_remote_code
        )
        self.args, self.start_adapter = args, args.resume_from_checkpoint or None
        self._tensors = None  # of the start adapter, once it is known to fit
        check_trackers(args.report_to)
        share_batch(args.batch_size, args.micro_batch_size, self.processes)
        if models_are_spread() and runs > 1:
            raise InputError("with FSDP or ZeRO-3 a process makes only one run: give one --sample and one --seed")

    @cached_property
    def frame(self):
        """The prompt frame: the user's, else that of the start adapter, else the public one of Alpaca."""
        name = self.args.prompt_frame or runs.frame_of(self.start_adapter, self.args.base_model) or "alpaca"
        return load_frame(name, self.tokenizer)

    @property
    def precision(self):
        """The number type that it is tuned in: "float32", "bfloat16" or "float16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def optimizer(self):
        """AdamW in the Trainer's words. The fused one counts the steps that float16 skips."""
        return "adamw_torch_fused" if self.device.type == "cuda" and self.precision != "float16" else "adamw_torch"

    @property
    def scoring(self):
        """The settings that a score depends on, as in run.json."""
        return {"frame": self.frame.name, "cutoff_len": self.args.cutoff_len, **self.machine_scoring}

    def load_base(self):
        return base_models.prepare_for_tuning(super().load_base(), self.args.gradient_checkpointing)

    @cached_property
    def lora_targets(self):
        """Names of the modules that get LoRA: the user's, else the architecture's query and value projections."""
        targets, model = self.args.lora_target_modules, (self.base_model, self.trust_remote_code)
        if targets == ["all-linear"]:
            targets = lora_targets.linear_modules(*model)
        targets = targets or lora_targets.query_and_value_modules(*model)
        print(f"LoRA targets: {' '.join(targets)}")
        return targets

    @cached_property
    def start_lora(self):
        """The start adapter's own LoraConfig, with --lora_dropout if that was given; None without a start adapter.
        Raises InputError if --lora_target_modules asks for others."""
        if self.start_adapter is None:
            return None
        lora = adapters.read_config(self.start_adapter)
        if self.args.lora_target_modules and set(self.lora_targets) != set(lora.target_modules or ()):
            targets = lora.target_modules
            raise InputError(
                f"--resume_from_checkpoint {self.start_adapter}: the adapter has target modules "
                f"{targets if isinstance(targets, str) else ' '.join(sorted(targets or ()))}, this run asks for "
                f"{' '.join(self.lora_targets)}; leave out --lora_target_modules"
            )
        return lora

    def check_start(self, lora):
        """Raise InputError, before the base is loaded, unless the start adapter fits on it, or LoRA of this LoraConfig."""
        if self.start_adapter is None:
            adapters.expected_adapter(self.base_model, lora, self.trust_remote_code, tuned=True)
        elif self._tensors is None:
            self._tensors = self.check_adapter(self.start_adapter, tuned=True)

    def with_lora(self, lora, seed):
        """The base with LoRA on it: the start adapter's, compared tensor by tensor, else a fresh one of this LoraConfig
        from `seed`. `check_start` has been called before."""
        start = self.start_adapter

        def put_on(base):
            set_seed(seed)
            if start is None:
                return get_peft_model(base, copy.deepcopy(lora))
            return adapters.attach_adapter(base, start, True, self._tensors, self.args.lora_dropout)

        model = self.carry(put_on)
        if start is None:
            print("start adapter: none, a fresh LoRA")
        else:
            print(f"start adapter: {start}, {len(self._tensors)} tensors loaded and compared")
        return model


def machine_arguments(args, model, lora, rows):
    """TrainingArguments that are not part of the recipe: how a batch is divided, memory, checkpoints, and trackers.

    args: a tuner's flags; model: its TuningModel; lora: the LoraConfig; rows: what is learnt from.
    """
    size, accumulation = divide_batch(args, model, lora, lengths(rows).max())
    return {
        "per_device_train_batch_size": min(size, math.ceil(len(rows) / model.processes)),
        "gradient_accumulation_steps": accumulation,
        "use_cpu": model.device.type == "cpu",
        "gradient_checkpointing": args.gradient_checkpointing,
        "torch_compile": args.torch_compile,
        "ddp_find_unused_parameters": False,
        "save_total_limit": 2,  # the best one and the last
        "restore_callback_states_from_checkpoint": True,
        "report_to": args.report_to,
        "remove_unused_columns": False,
    }


def divide_batch(args, model, lora, longest):
    """(rows of a forward pass, forward passes of a step) of each process: as many rows as fit into memory, which changes
    neither the batch nor its gradient. longest: tokens of the longest row. InputError if not even one fits on the CPU,
    where no error would say so; a GPU is tried."""
    skeleton = base_models.skeleton_of(args.base_model, args.trust_remote_code)
    how = model.dtype, args.quantization, args.gradient_checkpointing, model.memory
    mask = 4 if model.device.type == "cpu" else 1
    try:
        fit = memory.rows_that_fit(skeleton, lora, longest, args.micro_batch_size, *how, mask)
    except InputError:
        if model.device.type == "cpu":
            raise
        fit = 1
    fit = least(fit)
    size, accumulation = share_batch(args.batch_size, fit, model.processes)
    if fit < args.micro_batch_size:
        print(
            f"memory: {model.memory / 1e9:.1f} GB may be used here, so {size} rows go through the model at once instead "
            f"of {args.micro_batch_size}; the batch stays {args.batch_size} rows"
        )
    return size, accumulation


def check_trackers(names):
    """Raise InputError unless the experiment trackers of `--report_to` are installed; "none" and "all" always are."""
    installed = get_available_reporting_integrations()
    for name in names:
        if name not in ("none", "all", *installed):
            raise InputError(
                f"--report_to {name}: no such tracker is installed here (found: "
                f"{', '.join(installed) or 'none'}); pip install {name}"
            )
