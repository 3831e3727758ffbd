"""What the two tuners truly share: the collator, the loss in chunks, and a Trainer whose `evaluate` uses `scoring`."""

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer

from tlrec.metrics import auc, two_probabilities_to_score
from tlrec.modeling import language_model_parts

POSITIONS_AT_ONCE = 256  # whose logits [positions, vocabulary] exist at the same time; so few fit the caches of a CPU


class Collator:
    """Pads rows `{"input_ids", "labels"}` on the right into two long tensors of shape (rows, longest).

    No attention mask is made: causal attention never looks at what stands to the right, and labels of -100 keep padding
    out of the loss. Counts the tokens that pass, with and without padding.
    """

    def __init__(self):
        self.tokens = 0
        self.padded_tokens = 0

    def __call__(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
        labels = torch.full((len(rows), longest), -100)
        for place, row in enumerate(rows):
            input_ids[place, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            labels[place, : len(row["labels"])] = torch.tensor(row["labels"])
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self.padded_tokens += input_ids.numel()
        return {"input_ids": input_ids, "labels": labels}


class TuningTrainer(Trainer):
    """A Trainer for one LoRA run on one model.

    Its loss is the usual mean cross-entropy of the labelled tokens, without ever holding all logits. Its `evaluate` is
    the forward pass of `evaluate.py`: "eval_auc" is the published AUC on the validation records, "eval_loss" the mean
    cross-entropy over their prompts and answers.

    scorer: tlrec.scoring.Scorer of the validation records, made `with_loss`; validation_labels: their (n,) labels.
    """

    def __init__(self, *, scorer, validation_labels, **arguments):
        super().__init__(data_collator=Collator(), eval_dataset=scorer.rows, **arguments)
        self.scorer = scorer
        self.validation_labels = validation_labels
        self.validation_seconds = 0.0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # of the run before, in a sweep

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")[:, 1:]
        _, head = language_model_parts(self.model)
        # The outer model runs, so that wrappers, mixed precision and compilation work; its own head sees one position.
        hidden = model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=-1).hidden_states[-1]
        labelled = labels != -100
        loss = ChunkedCrossEntropy.apply(hidden[:, :-1][labelled], labels[labelled], head)
        if num_items_in_batch is None:
            return loss / labelled.sum()
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
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def history(self):
        """[{"step", "eval_auc", "eval_loss"}] of all validations so far."""
        keys = ("step", "eval_auc", "eval_loss")
        return [{key: entry[key] for key in keys} for entry in self.state.log_history if "eval_auc" in entry]

    def best_step(self):
        """The step of the best validation, whose weights the model has once `train` has ended."""
        return self.state.best_global_step

    def speed(self, seconds):
        """What a run of `seconds` was worth: tokens per second outside validation, share of padding, peak memory in GB
        (GPU only)."""
        collator = self.data_collator
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        return {
            "seconds": round(seconds, 1),
            "seconds_validation": round(self.validation_seconds, 1),
            "tokens_per_second": round(collator.tokens / (seconds - self.validation_seconds)),
            "padding_share": round(1 - collator.tokens / max(collator.padded_tokens, 1), 4),
            "peak_memory_gb": peak and round(peak, 2),
        }


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of targets (n,) given hidden states (n, width), for a frozen output head.

    Logits of a few positions at a time are made, turned into loss and gradient, and forgotten, so [n, vocabulary] is
    never held. (torch has `linear_cross_entropy` since 2.13; this one also runs on 2.11 and takes heads that rescale.)
    """

    @staticmethod
    def forward(ctx, hidden, targets, head):
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            chunk = slice(start, start + POSITIONS_AT_ONCE)
            with torch.enable_grad():
                states = hidden[chunk].detach().requires_grad_()
                loss = cross_entropy(head(states).float(), targets[chunk], reduction="sum")
            (gradient[chunk],) = torch.autograd.grad(loss, states)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None
