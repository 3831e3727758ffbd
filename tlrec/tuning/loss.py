"""The loss of a tuning step, and the batches that it is computed on.

A loss is a function (model, batch) -> tensor (): summed over the rows of a batch. The trainer divides it by the sum of
`batch["weights"]` over all rows of the step, however they are divided into micro-batches and over processes.
docs/extend.md shows how to write another one.
"""

import torch
from accelerate.utils import extract_model_from_parallel
from torch.nn.functional import cross_entropy as cross_entropy_of_logits

from tlrec.errors import InputError
from tlrec.model.memory import POSITIONS_AT_ONCE
from tlrec.model.parts import language_model_parts


class Collator:
    """Makes a batch of rows `{"input_ids", "answer_start"}`: {"input_ids", "weights"}, both (rows, longest).

    Rows are padded on the right. Weights are `prompt_loss_weight` for the tokens of the prompt, 1 for those of the answer, 0
    for padding and for the first token, which nothing predicts. No attention mask is made: causal attention never looks
    to the right. Other columns of numbers become tensors (rows,). Counts the tokens that pass, with and without padding.
    """

    def __init__(self, prompt_loss_weight):
        self.prompt_loss_weight = prompt_loss_weight
        self.tokens = self.padded_tokens = 0

    def __call__(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
        weights = torch.zeros((len(rows), longest))
        for place, row in enumerate(rows):
            input_ids[place, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            weights[place, : row["answer_start"]] = self.prompt_loss_weight
            weights[place, row["answer_start"] : len(row["input_ids"])] = 1.0
        weights[:, 0] = 0.0
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self.padded_tokens += input_ids.numel()
        numbers = [name for name, value in rows[0].items() if isinstance(value, (int, float))]
        others = {name: torch.tensor([row[name] for row in rows]) for name in numbers}
        return {"input_ids": input_ids, "weights": weights, **others}


def cross_entropy(model, batch):
    """Cross-entropy (nats) of the tokens, summed with their weights."""
    targets, weights = batch["input_ids"][:, 1:], batch["weights"][:, 1:]
    counted = weights > 0
    states = hidden_states(model, input_ids=batch["input_ids"])[:, :-1]
    return ChunkedCrossEntropy.apply(states[counted], targets[counted], weights[counted], output_head(model))


def hidden_states(model, **inputs):
    """(rows, length, width) hidden states below the output head. The outer model runs, so that wrappers, mixed precision
    and compilation work; its own head computes one position only."""
    states = model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=-1).hidden_states[-1]
    if model.training and not states.requires_grad:
        raise InputError("no LoRA layer has a gradient: the model's output does not depend on the adapter")
    return states


def output_head(model):
    """The function from hidden states to logits of a model, however it is wrapped."""
    return language_model_parts(extract_model_from_parallel(model, keep_torch_compile=False))[1]


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy (nats) of targets (n,) given hidden states (n, width), for a frozen output head, summed with weights
    (n,).

    Logits of a few positions at a time are made, turned into loss and gradient, and dropped, so [n, vocabulary] is
    never held. (torch has `linear_cross_entropy` since 2.13; this one also runs on 2.11 and takes heads that rescale.)
    """

    @staticmethod
    def forward(ctx, hidden, targets, weights, head):
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), POSITIONS_AT_ONCE):
            chunk = slice(start, start + POSITIONS_AT_ONCE)
            with torch.enable_grad():
                states = hidden[chunk].detach().requires_grad_()
                loss = cross_entropy_of_logits(head(states).float(), targets[chunk], reduction="none") @ weights[chunk]
            (gradient[chunk],) = torch.autograd.grad(loss, states)
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None
