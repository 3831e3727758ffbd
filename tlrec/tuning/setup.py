"""What both tuners load before they tune, once for all runs of a sweep, and the settings of the Trainer that are not
part of the recipe."""

import copy
import math
from functools import cached_property

import torch
from peft import get_peft_model
from transformers import set_seed

from tlrec import runs
from tlrec.data.records import LABELS
from tlrec.errors import InputError
from tlrec.model import adapters, base_models, memory
from tlrec.model.processes import models_are_spread, share_batch
from tlrec.model.prompts import load_frame
from tlrec.model.scoring import Scorer
from tlrec.model.setup import ModelSetup
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning.token_cache import training_examples
from tlrec.tuning.trainer import check_trackers, lengths_of


class TuningSetup(ModelSetup):
    """Tokenizer, frame, base model and start adapter of a tuner's flags `args`.

    micro_batch_size, accumulation: rows of a forward pass and forward passes of a step in each process.
    """

    def __init__(self, args):
        super().__init__(
            args.base_model, args.device, args.dtype, args.quantization, args.attention, args.trust_remote_code
        )
        self.args, self.start_adapter = args, args.resume_from_checkpoint or None
        check_trackers(args.report_to)
        self.micro_batch_size, self.accumulation = share_batch(args.batch_size, args.micro_batch_size, self.processes)
        frame = args.prompt_frame or runs.frame_of(self.start_adapter, args.base_model) or "alpaca"
        self.frame = load_frame(frame, self.tokenizer)
        self.encoder = RecordTokenizer(self.tokenizer, self.frame, args.cutoff_len)
        self._tensors = None  # of the start adapter, once it is known to fit
        self._longest = None  # tokens of the longest row of the run's training data

    @property
    def scoring(self):
        """The settings that a score depends on, as in run.json."""
        return {"frame": self.frame.name, "cutoff_len": self.args.cutoff_len, **self.machine_scoring}

    def examples(self, records):
        """Examples of records, a `datasets.Dataset`, to learn from. Raises InputError if none fits into --cutoff_len."""
        limit = f"--cutoff_len {self.args.cutoff_len}"
        examples = training_examples(self.encoder, records, self.args.prompt_loss_weight == 1)
        left_out = f", {len(examples.dropped)} left out because the answer exceeds {limit}"
        short = all(answer in LABELS for answer in records["output"]) and not examples.dropped  # these always fit
        print(f"train: {len(examples.rows)} rows, {examples.truncated} with a cut prompt{'' if short else left_out}")
        self._longest = max(lengths_of(examples.rows), default=0)
        if not examples.rows:
            raise InputError(f"{self.args.train_data_path}: no record fits into {limit}")
        return examples

    def validation_scorer(self, valid):
        """Scorer of the EvaluationSet `valid`, with the loss over the same tokens as in tuning."""
        scorer = Scorer(
            self.tokenizer, valid.records, self.frame, self.args.cutoff_len, True, self.args.prompt_loss_weight
        )
        of_all = f" of {valid.rows_in_file}" if len(valid) < valid.rows_in_file else ""
        print(f"validation: {len(valid)}{of_all} rows, {scorer.truncated} with a cut prompt; frame: {self.frame.name}")
        return scorer

    def test_scorer(self, test):
        """Scorer of the EvaluationSet `test`, as evaluate.py has it."""
        return Scorer(self.tokenizer, test.records, self.frame, self.args.cutoff_len)

    def check_runs(self, count):
        """Raise InputError if one process cannot make `count` runs."""
        if models_are_spread() and count > 1:
            raise InputError("with FSDP or ZeRO-3 a process makes only one run: give one --sample and one --seed")

    def load_base(self):
        return base_models.prepare_for_tuning(super().load_base(), self.args.gradient_checkpointing)

    @cached_property
    def lora_targets(self):
        """Names of the modules that get LoRA: the user's, else the architecture's query and value projections."""
        targets, model = self.args.lora_target_modules, (self.base_model, self.trust_remote_code)
        if targets == ["all-linear"]:
            targets = adapters.linear_modules(*model)
        targets = targets or adapters.query_and_value_modules(*model)
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

    def model(self, lora, seed):
        """The base with LoRA on it: the start adapter's, compared tensor by tensor, else a fresh one of this LoraConfig
        from `seed`. Raises InputError, before the base is loaded, if anything does not fit."""
        start = self.start_adapter
        if start is None:
            adapters.expected_adapter(self.base_model, lora, self.trust_remote_code, tuned=True)
        elif self._tensors is None:
            self._tensors = self.check_adapter(start, tuned=True)
        if self.device.type == "cpu":
            self.divide_batch(lora)

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

    def divide_batch(self, lora):
        """Put as many rows into a forward pass as fit into main memory, which changes neither the batch nor its
        gradient. Raises InputError if not even one fits."""
        args = self.args
        fit = memory.rows_that_fit(
            base_models.skeleton_of(self.base_model, self.trust_remote_code),
            lora,
            self._longest,
            args.micro_batch_size,
            self.dtype,
            self.quantization,
            args.gradient_checkpointing,
            self.memory,
        )
        self.micro_batch_size, self.accumulation = share_batch(args.batch_size, fit, self.processes)
        if fit < args.micro_batch_size:
            print(
                f"memory: {self.memory / 1e9:.1f} GB may be used here, so {self.micro_batch_size} rows go through the "
                f"model at once instead of {args.micro_batch_size}; the batch stays {args.batch_size} rows"
            )

    def plumbing(self, run, rows, eval_steps):
        """TrainingArguments that are not part of the recipe, for a TuningRun on `rows` rows: how a batch is divided,
        number types and memory, checkpoints, and trackers. eval_steps: optimizer steps between validations."""
        return {
            "output_dir": run.at.checkpoints,
            "per_device_train_batch_size": min(self.micro_batch_size, math.ceil(rows / self.processes)),
            "gradient_accumulation_steps": self.accumulation,
            "bf16": self.dtype == torch.bfloat16,
            "fp16": self.dtype == torch.float16,
            "use_cpu": self.device.type == "cpu",
            "gradient_checkpointing": self.args.gradient_checkpointing,
            "torch_compile": self.args.torch_compile,
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "save_steps": eval_steps,
            "save_total_limit": 2,  # the best one and the last
            "load_best_model_at_end": True,
            "restore_callback_states_from_checkpoint": True,
            "logging_steps": eval_steps,
            "report_to": self.args.report_to,
            "remove_unused_columns": False,
        }
