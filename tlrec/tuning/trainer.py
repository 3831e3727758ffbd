"""A Trainer for one LoRA run: its validation is evaluate.py's scoring, it adapts to the available memory, and saves a
checkpoint when it is stopped."""

import signal
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from peft.helpers import disable_input_dtype_casting
from transformers import Trainer

from tlrec.errors import InputError, Stopped
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model import adapters
from tlrec.model.processes import add_up, catch_signals, is_spread, out_of_memory
from tlrec.tuning.learning import ChecksFirstStep, check_changed, fingerprint
from tlrec.tuning.order import EpochOrder
from tlrec.tuning.rows import lengths
from tlrec.tuning.stopping import KeepsTheBest, SaveWhenStopped


class TuningTrainer(Trainer):
    """A Trainer for one LoRA run on one model.

    loss: a function (model, batch) -> summed loss, see tlrec.tuning.loss. It may have a method `during_step(model, batch)`,
    a context for forward and backward pass. data_collator: makes the batches, with "weights". train_dataset: a Dataset
    with the columns "input_ids" and "length". scorer: tlrec.scoring.records.Scorer of the validation records, made
    `with_loss`; validation_labels: (n,) labels.

    Validation is the forward pass of evaluate.py: "eval_auc" is the published AUC on the validation records, "eval_loss"
    the scorer's loss, "eval_last" the step, which makes the last validation the best. When memory runs out, micro-batches
    are halved, which changes neither the batch nor its gradient. On SIGTERM and SIGINT it saves a checkpoint and raises
    Stopped. A tuning that learns nothing raises InputError.
    """

    def __init__(self, *, args, loss, scorer, validation_labels, **others):
        args._n_gpu = min(args.n_gpu, 1)  # one process uses one GPU, however many it sees
        super().__init__(args=args, eval_dataset=scorer.rows, **others)
        self.loss, self.scorer, self.validation_labels = loss, scorer, validation_labels
        self.started, self.seconds, self.validation_seconds = datetime.now(UTC), 0.0, 0.0
        self.model_accepts_loss_kwargs = True  # the loss is divided by the weights of the whole batch, for every model
        self.rows_at_once = self.args.per_device_train_batch_size
        self.saving = SaveWhenStopped(self)
        for callback in (KeepsTheBest(), self.saving, ChecksFirstStep(self.accelerator)):
            self.add_callback(callback)
        if self.args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # of the run before, in a sweep

    def train(self, resume_from_checkpoint=None):
        """Tune. resume_from_checkpoint: folder of the Trainer's checkpoint to continue from. With or without it, the
        model must have the adapter that the run began with."""
        start, clock = fingerprint(self.model), time.perf_counter()
        print(f"resuming: {resume_from_checkpoint}" if resume_from_checkpoint else "starting at step 0")
        with catch_signals() as self.received:
            try:
                output = super().train(resume_from_checkpoint=resume_from_checkpoint)
            except Exception:
                if self.saving.underway:  # close progress bars and trackers
                    self.callback_handler.on_train_end(self.args, self.state, self.control)
                raise
        self.seconds = time.perf_counter() - clock
        if self.received:
            name = signal.Signals(self.received[0]).name
            raise Stopped(
                f"{name}: stopped after step {self.state.global_step}, a checkpoint is saved; the same command "
                "with --resume continues from there",
                self.received[0],
            )
        self._check_best()
        check_changed(self.model, start, self.state, self.args)
        return output

    def _check_best(self):
        """Raise InputError unless the model has the weights of the best validation."""
        best = [entry for entry in self.validations() if entry["step"] == self.state.best_global_step]
        if best and best[-1]["adapter"] != fingerprint(self.model):
            raise InputError(
                f"{self.args.output_dir}: the weights of step {self.state.best_global_step}, the best validation, are not what "
                "they were then; nothing is saved; remove that folder to start again"
            )

    def _get_train_sampler(self, train_dataset=None):
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        group = batch if self.args.train_sampling_strategy == "group_by_length" else None
        # self.state is looked up in each epoch, since the Trainer puts another object in its place when it starts
        return EpochOrder(lengths(self.train_dataset), group, self.args.seed, lambda: self.state.epoch)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one step, and what its loss is divided by. With several processes accelerate fills the
        last ones of an epoch with rows from its beginning; those do not count."""
        processes, size = self.args.world_size, self.args.train_batch_size
        accumulation = self.args.gradient_accumulation_steps
        micro_batches = -(-len(self.train_dataset) // (size * processes))  # of each process in one epoch
        steps = -(-micro_batches // accumulation)
        first = self.state.global_step % steps * accumulation
        batches = []
        for number, batch in enumerate(epoch_iterator, start=first):
            seen = (number * processes + self.args.process_index) * size  # rows of the epoch before this micro-batch
            batch["weights"][max(0, len(self.train_dataset) - seen) :] = 0
            batches.append(batch)
            if len(batches) == num_batches:
                break
        total = sum(batch["weights"][batch["weights"] > 0].sum() for batch in batches).to(device)
        return batches, self.accelerator.gather(total).sum() if processes > 1 else total

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch, in pieces of `rows_at_once` rows. The loss is a sum divided by the weights of the whole
        batch, so the gradients of the pieces add up to that of the whole."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        before = [None if parameter.grad is None else parameter.grad.clone() for parameter in trained]
        while True:
            try:
                pieces = zip(*(tensor.split(self.rows_at_once) for tensor in inputs.values()))
                return sum(self._piece(model, dict(zip(inputs, piece)), num_items_in_batch) for piece in pieces)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                rows = self.rows_at_once // 2
                if self.args.world_size > 1 or not rows:  # the other processes wait for this one's gradient
                    smaller = f"--micro_batch_size {rows}, " if rows else ""
                    raise InputError(
                        f"out of memory with {self.rows_at_once} rows in a forward pass; give {smaller}"
                        "--gradient_checkpointing or --quantization 4bit"
                    ) from None
            # outside the except block, whose traceback holds the tensors of the failed pass
            self.rows_at_once = rows
            for parameter, gradient in zip(trained, before):
                parameter.grad = None if gradient is None else gradient.clone()
            torch.cuda.empty_cache()
            print(f"out of memory: continuing with {rows} rows in a forward pass, the batch stays the same")

    def _piece(self, model, inputs, num_items_in_batch):
        during = getattr(self.loss, "during_step", None)
        # PEFT casts a layer's input to float32, for its dropout; without one, autocast undoes that at once: the same bits,
        # a tenth more time
        lora = self.model.active_peft_config
        plain = self.accelerator.native_amp and not lora.lora_dropout and not lora.use_dora
        uncast = disable_input_dtype_casting(self.model, active=plain)
        with uncast, during(self.model, inputs) if during else nullcontext():
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return self.loss(model, inputs) * processes / num_items_in_batch

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        scores = self.scorer.score(self.model, progress="validation")
        self.validation_seconds += scores.seconds
        published = two_probabilities_to_score(scores.p_yes, scores.p_no)
        metrics = {
            f"{metric_key_prefix}_auc": auc(self.validation_labels, published),
            f"{metric_key_prefix}_loss": scores.loss,
        }
        self.log(metrics)
        # in the same entry as this validation's numbers, so that the checkpoint has it
        self.state.log_history[-1]["adapter"] = fingerprint(self.model)
        metrics[f"{metric_key_prefix}_last"] = self.state.global_step  # selects the last validation, whatever it found
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        """Before the first step (`eval_on_start`) the validation counts like any other, with a checkpoint of the start; a
        run that goes on has made it."""
        start = skip_scheduler
        if start and self.validations():
            return None
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if start:
            self._determine_best_metric(metrics, trial)
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / "checkpoint-0")
            self._save_checkpoint(self.model, trial)
        return metrics

    def _load_best_model(self):
        if is_spread(self.model):
            return super()._load_best_model()
        best = self.state.best_model_checkpoint  # through main memory: PEFT would have all processes use the first GPU
        return adapters.load_adapter(self.model, adapters.read_adapter(best), best)

    def validations(self):
        """[{"step", "eval_auc", "eval_loss", "adapter": fingerprint}] of all validations so far."""
        return [entry for entry in self.state.log_history if "eval_auc" in entry]

    def results(self):
        """The numbers of run.json: validations, the best step, and what the tuning cost (seconds, tokens per second
        outside validation, share of padding, peak memory in GB of 1e9 bytes, GPU only)."""
        tokens, padded = add_up(
            np.array([self.data_collator.tokens, self.data_collator.padded_tokens], dtype=np.float64)
        )
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.args.device.type == "cuda" else None
        keys = ("step", "eval_auc", "eval_loss")
        return {
            "history": [{key: entry[key] for key in keys} for entry in self.validations()],
            "best_step": self.state.best_global_step,
            "seconds": round(self.seconds, 1),
            "seconds_validation": round(self.validation_seconds, 1),
            "tokens_per_second": round(tokens / (self.seconds - self.validation_seconds)),
            "padding_share": round(1 - tokens / max(padded, 1), 4),
            "rows_at_once": self.rows_at_once,
            "processes": self.args.world_size,
            "peak_memory_gb": peak and round(peak, 2),
        }
