"""What the two tuners share: the order of rows, the collator, the loss in chunks, and a Trainer whose `evaluate` uses
`scoring`, which adapts to the available memory and saves a checkpoint when it is stopped."""

import signal
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.integrations.integration_utils import get_available_reporting_integrations
from transformers.trainer_pt_utils import get_length_grouped_indices

from tlrec.errors import InputError, Stopped
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model.memory import POSITIONS_AT_ONCE
from tlrec.model.parts import language_model_parts
from tlrec.model.processes import add_up, catch_signals
from tlrec.tuning.learning import ChecksFirstStep, check_changed, fingerprint, fingerprints
from tlrec.tuning.shared_prefix import once, shared, shared_length, sharing_attention, why_not
from tlrec.tuning.token_cache import TokenRows


class Collator:
    """Pads rows `{"input_ids", "labels"}` on the right into two long tensors of shape (rows, longest).

    No attention mask is made: causal attention never looks to the right, and labels of -100 keep padding
    out of the loss. Counts the tokens that pass, with and without padding.

    prompt_loss_weight: weight of the prompt's tokens in the loss. Strictly between 0 and 1 the labels also cover the
    prompt, labelled -100 in the rows, and a third tensor "weights" has this weight for its tokens and 1 for the
    answer's; for 0 and 1 the rows' own labels are enough.
    """

    def __init__(self, prompt_loss_weight=1.0):
        self.prompt_loss_weight = prompt_loss_weight
        self.tokens = 0
        self.padded_tokens = 0

    def __call__(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
        labels = torch.full((len(rows), longest), -100)
        for place, row in enumerate(rows):
            input_ids[place, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            labels[place, : len(row["labels"])] = torch.tensor(row["labels"])
        labels[:, 0] = -100  # nothing predicts the first token, so it must not be counted either
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self.padded_tokens += input_ids.numel()
        if self.prompt_loss_weight in (0, 1):
            return {"input_ids": input_ids, "labels": labels}
        weights = torch.where(labels == -100, self.prompt_loss_weight, 1.0)
        for place, row in enumerate(rows):
            labels[place, 1 : len(row["input_ids"])] = input_ids[place, 1 : len(row["input_ids"])]
        return {"input_ids": input_ids, "labels": labels, "weights": weights}


def check_trackers(names):
    """Raise InputError unless the experiment trackers of `--report_to` are installed; "none" and "all" always are."""
    installed = get_available_reporting_integrations()
    for name in names:
        if name not in ("none", "all", *installed):
            raise InputError(
                f"--report_to {name}: no such tracker is installed here (found: "
                f"{', '.join(installed) or 'none'}); pip install {name}"
            )


def lengths_of(rows):
    """Tokens of each training row, without reading rows that are on disk."""
    return rows.lengths if isinstance(rows, TokenRows) else [len(row["input_ids"]) for row in rows]


class EpochOrder(Sampler):
    """A new order of the rows in each epoch, which depends on seed and epoch alone: not on the process, not on random
    numbers drawn before, and not on whether the run was interrupted.

    lengths: tokens of each row. group: rows of one group come in batches of similar length; None: all are shuffled.
    epoch: function that returns the current epoch, from 0; whatever follows its decimal point is left out.
    """

    def __init__(self, lengths, group, seed, epoch):
        self.lengths, self.group, self.seed, self.epoch = lengths, group, seed, epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + int(self.epoch() or 0))
        if self.group is None:
            return iter(torch.randperm(len(self.lengths), generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.group, generator=generator))


class TuningTrainer(Trainer):
    """A Trainer for one LoRA run on one model.

    Its loss is the usual mean cross-entropy (nats) of the labelled tokens, but all logits are never held at once. Its
    `evaluate` is the forward pass of `evaluate.py`: "eval_auc" is the published AUC on the validation records,
    "eval_loss" the mean cross-entropy over their prompts and answers, weighted as in tuning, "eval_last" the step, which
    makes the last validation the best. When memory runs out, micro-batches are halved, which changes neither the batch
    nor its gradient. On SIGTERM and SIGINT it saves a checkpoint and raises Stopped. A tuning that learns nothing raises
    InputError.

    scorer: tlrec.model.scoring.Scorer of the validation records, made `with_loss`; validation_labels: (n,) labels.
    share_prefix: compute what all rows of a micro-batch begin with once, where the model can (tlrec.tuning.shared_prefix).
    """

    def __init__(self, *, scorer, validation_labels, share_prefix=False, **arguments):
        super().__init__(data_collator=Collator(scorer.prompt_loss_weight), eval_dataset=scorer.rows, **arguments)
        self.scorer = scorer
        self.validation_labels = validation_labels
        self.seconds = self.validation_seconds = 0.0
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the tokens of the whole batch, for every model
        self.rows_at_once = self.args.per_device_train_batch_size
        self.share_prefix, self.sharing_is_checked = share_prefix, False
        self.saving = _SaveWhenStopped(self)
        for callback in (_KeepsTheBest(), self.saving, ChecksFirstStep(self.accelerator)):
            self.add_callback(callback)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # of the run before, in a sweep

    def train(self, resume_from_checkpoint=None):
        """Tune. resume_from_checkpoint: folder of the Trainer's checkpoint to continue from. With or without it, the
        model must have the adapter that the run began with."""
        start, clock = fingerprints(self.model), time.perf_counter()
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
        best = [entry for entry in self.state.log_history if "eval_auc" in entry and entry["step"] == self.best_step()]
        then = best[-1].get("adapter") if best else None  # not in the checkpoints of older versions
        if then and then != fingerprint(self.model):
            raise InputError(
                f"{self.args.output_dir}: the weights of step {self.best_step()}, the best validation, are not what "
                "they were then; nothing is saved; remove that folder to start again"
            )

    def _get_train_sampler(self, train_dataset=None):
        lengths = lengths_of(self.train_dataset)
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        group = batch if self.args.train_sampling_strategy == "group_by_length" else None
        # self.state is looked up in each epoch, since the Trainer puts another object in its place when it starts
        return EpochOrder(lengths, group, self.args.seed, lambda: self.state.epoch)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one step. With several processes accelerate fills the last ones of an epoch with rows
        from its beginning; those do not count."""
        processes, size, accumulation = (
            self.args.world_size,
            self.args.train_batch_size,
            self.args.gradient_accumulation_steps,
        )
        micro_batches = -(-len(self.train_dataset) // (size * processes))  # of each process in one epoch
        steps = -(-micro_batches // accumulation)
        first = self.state.global_step % steps * accumulation

        def without_repeated_rows():
            for number, batch in enumerate(epoch_iterator, start=first):
                seen = (
                    number * processes + self.args.process_index
                ) * size  # rows of the epoch before this micro-batch
                batch["labels"][max(0, len(self.train_dataset) - seen) :] = -100
                yield batch

        return super().get_batch_samples(without_repeated_rows(), num_batches, device)

    def _get_num_items_in_batch(self, batch_samples, device):
        """The number that the loss of a step is divided by: its labelled tokens, or the sum of their weights."""
        if not batch_samples or "weights" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = sum(batch["weights"][batch["labels"] != -100].sum() for batch in batch_samples).to(device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch, in pieces of `rows_at_once` rows. The loss is a sum divided by the tokens of the whole
        batch, so the gradients of the pieces add up to that of the whole."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        before = [None if parameter.grad is None else parameter.grad.clone() for parameter in trained]
        while True:
            try:
                pieces = zip(*(tensor.split(self.rows_at_once) for tensor in inputs.values()))
                return sum(self._piece(model, dict(zip(inputs, piece)), num_items_in_batch) for piece in pieces)
            except torch.OutOfMemoryError:
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
        length = self._shared_length(inputs["input_ids"])
        with sharing_attention(self.model) if length else nullcontext():
            return super().training_step(model, inputs | {"shared_length": length}, num_items_in_batch)

    def _shared_length(self, ids):
        """How many tokens at the beginning of all rows of `ids` go through the model once, 0 if none."""
        length = shared_length(ids) if self.share_prefix else 0
        if length and not self.sharing_is_checked:
            longest = max(lengths_of(self.train_dataset))
            self.sharing_is_checked, reason = True, why_not(self.model, ids.to(self.model.device), longest)
            self.share_prefix = reason is None
            if self.is_world_process_zero():
                print(f"shared prefix: {length} tokens" if reason is None else f"no shared prefix: {reason}")
        return length if self.share_prefix else 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, weights = inputs.pop("labels")[:, 1:], inputs.pop("weights", None)
        length = inputs.pop("shared_length", 0)
        if length:
            inputs, places = shared(inputs["input_ids"], length)
        _, head = language_model_parts(self.model)
        # The outer model runs, so that wrappers, mixed precision and compilation work; its head computes one position.
        hidden = model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=-1).hidden_states[-1]
        if model.training and not hidden.requires_grad:
            raise InputError("no LoRA layer has a gradient: the model's output does not depend on the adapter")
        labelled = labels != -100
        weights = None if weights is None else weights[:, 1:][labelled]
        if length:
            read, targets, sums = once(places[:, :-1][labelled], labels[labelled], weights)
            loss = ChunkedCrossEntropy.apply(hidden[0, read], targets, head, sums)
        else:
            loss = ChunkedCrossEntropy.apply(hidden[:, :-1][labelled], labels[labelled], head, weights)
        if num_items_in_batch is None:
            return loss / (labelled.sum() if weights is None else weights.sum())
        if self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return loss / num_items_in_batch

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

    def history(self):
        """[{"step", "eval_auc", "eval_loss"}] of all validations so far."""
        keys = ("step", "eval_auc", "eval_loss")
        return [{key: entry[key] for key in keys} for entry in self.state.log_history if "eval_auc" in entry]

    def best_step(self):
        """The step of the best validation, whose weights the model has once `train` has ended."""
        return self.state.best_global_step

    def speed(self):
        """Costs of the tuning: seconds, tokens per second outside validation, share of padding, peak memory in GB (1e9
        bytes, GPU only)."""
        tokens, padded = add_up(
            np.array([self.data_collator.tokens, self.data_collator.padded_tokens], dtype=np.float64)
        )
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        return {
            "seconds": round(self.seconds, 1),
            "seconds_validation": round(self.validation_seconds, 1),
            "tokens_per_second": round(tokens / (self.seconds - self.validation_seconds)),
            "padding_share": round(1 - tokens / max(padded, 1), 4),
            "rows_at_once": self.rows_at_once,
            "processes": self.args.world_size,
            "peak_memory_gb": peak and round(peak, 2),
        }


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy (nats) of targets (n,) given hidden states (n, width), for a frozen output head; weights:
    (n,) or None.

    Logits of a few positions at a time are made, turned into loss and gradient, and dropped, so [n, vocabulary] is
    never held. (torch has `linear_cross_entropy` since 2.13; this one also runs on 2.11 and takes heads that rescale.)
    """

    @staticmethod
    def forward(ctx, hidden, targets, head, weights=None):
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            chunk = slice(start, start + POSITIONS_AT_ONCE)
            with torch.enable_grad():
                states = hidden[chunk].detach().requires_grad_()
                losses = cross_entropy(
                    head(states).float(), targets[chunk], reduction="none" if weights is not None else "sum"
                )
                loss = losses if weights is None else losses @ weights[chunk]
            (gradient[chunk],) = torch.autograd.grad(loss, states)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None


class _KeepsTheBest(TrainerCallback):
    """Finds the best checkpoint of a run that is resumed. If it is gone, or if the workspace has been moved, the
    Trainer would ignore it and end with the last weights. If the last weights are to be kept, validates after the last
    step, too, which need not be a multiple of --eval_steps."""

    def on_train_begin(self, args, state, control, **_):
        if state.best_global_step:
            best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
            if not best.is_dir():
                raise InputError(
                    f"{best}: the checkpoint of the best validation is gone; remove {best.parent} to start again"
                )
            state.best_model_checkpoint = str(best)

    def on_step_end(self, args, state, control, **_):
        if state.global_step == state.max_steps and args.metric_for_best_model == "eval_last":
            control.should_evaluate = control.should_save = True


class _SaveWhenStopped(TrainerCallback):
    """Ends training, with a checkpoint, after the step in which a signal came. Also ends a resumed run after one step
    if early stopping had ended it before the process was killed: the Trainer would train to the next validation."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.had_ended = self.underway = False

    def on_train_end(self, args, state, control, **_):
        self.underway = False

    def on_train_begin(self, args, state, control, **_):
        self.underway = True
        stopping = [one for one in self.trainer.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback)]
        self.had_ended = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in stopping)

    def on_step_end(self, args, state, control, **_):
        if self.had_ended:  # the weights of this step are forgotten: the best ones are loaded
            control.should_evaluate = control.should_save = control.should_log = False
            control.should_training_stop = True
        if add_up(np.array([float(len(self.trainer.received))]))[0]:  # whichever process received it
            if not self.trainer.received:
                self.trainer.received.append(signal.SIGTERM)
            control.should_save = control.should_training_stop = True
