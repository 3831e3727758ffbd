"""Tuning with `--share_prefix`: what all rows of a micro-batch begin with goes through the model once.

All prompts begin alike (`Below is an instruction ... User Preference: "`). The micro-batch becomes one row, the prefix once
and the rest of every row behind it, so that linear layers, norms and LoRA see each token of the prefix once. Only attention
takes the row apart again: the prefix sees itself, each row the prefix and itself.

    rows    p1 p2 p3 a1 a2 a3          one row     p1 p2 p3   a1 a2 a3   b1 b2  0
            p1 p2 p3 b1 b2  0          position     0  1  2    3  4  5    3  4  5
                                       attention   [prefix]  [prefix a] [prefix b]

Loss and gradient are those of the rows on their own but for rounding; with LoRA dropout the prefix has one draw for all rows.
Autograd, checkpointing and DDP see an ordinary forward pass of one row.
"""

from contextlib import contextmanager, nullcontext

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tlrec.model.base_models import is_quantized
from tlrec.model.parts import shortest_window
from tlrec.model.processes import is_spread
from tlrec.tuning.loss import ChunkedCrossEntropy, cross_entropy, hidden_states, output_head

ATTENTION = "tlrec_shared_prefix"
WORTH_IT = 8  # tokens of a prefix; a shorter one is not shared
ROUNDING = 0.05  # how far 16 bits may drive hidden states off, relative to their length; see docs/engine.md


class SharedPrefix:
    """`tlrec.tuning.loss.cross_entropy` of the same batches; what all rows of one begin with goes through the model once,
    if the model can. It says whether it does, once. longest: tokens of the longest row of all."""

    def __init__(self, longest):
        self.longest = longest
        self.sharing = None  # whether the model can, once that is known
        self._length = 0  # tokens of this batch that are shared

    @contextmanager
    def during_step(self, model, batch):
        """Inside the block, which has to hold forward and backward pass, `model` takes what `shared` returns."""
        ids = batch["input_ids"]
        self._length = shared_length(ids) if self.sharing is not False else 0
        if self._length and self.sharing is None:
            reason = why_not(model, ids.to(model.device), self.longest)
            self.sharing = reason is None
            print(f"shared prefix: {self._length} tokens" if self.sharing else f"no shared prefix: {reason}")
        self._length = self._length if self.sharing else 0
        with sharing_attention(model) if self._length else nullcontext():
            yield

    def __call__(self, model, batch):
        if not self._length:
            return cross_entropy(model, batch)
        ids, weights = batch["input_ids"], batch["weights"][:, 1:]
        inputs, places = shared(ids, self._length)
        counted = weights > 0
        read, targets, sums = once(places[:, :-1][counted], ids[:, 1:][counted], weights[counted])
        return ChunkedCrossEntropy.apply(hidden_states(model, **inputs)[0, read], targets, sums, output_head(model))


def _attention(module, query, key, value, attention_mask, is_causal=None, **arguments):
    """Attention of one row as in the drawing. query, key, value: (1, heads, prefix + rows * own, width of a head);
    attention_mask: (1, 1, own, prefix + own), what a row's own tokens see, whose shape tells how the row is divided.
    Returns ((1, tokens, heads, width), None)."""
    own = attention_mask.shape[-2]
    prefix = attention_mask.shape[-1] - own

    def of_prefix(states):
        return states[:, :, :prefix]

    def of_rows(states):  # (rows, heads, own, width)
        _, heads, _, width = states.shape
        return states[0, :, prefix:].reshape(heads, -1, own, width).transpose(0, 1)

    def of_both(states):
        rows = of_rows(states)
        return torch.cat([of_prefix(states).expand(len(rows), -1, -1, -1), rows], dim=-2)

    first, _ = sdpa_attention_forward(
        module, of_prefix(query), of_prefix(key), of_prefix(value), None, is_causal=True, **arguments
    )
    rows, _ = sdpa_attention_forward(
        module, of_rows(query), of_both(key), of_both(value), attention_mask, is_causal=False, **arguments
    )
    return torch.cat([first, rows.flatten(0, 1)[None]], dim=1), None


AttentionInterface.register(ATTENTION, _attention)


@contextmanager
def sharing_attention(model):
    """Inside the block, which has to hold the backward pass too, `model` takes what `shared` returns."""
    config = model.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = usual


def shared_length(ids):
    """How many tokens all rows of `ids` (n, length) begin with, and less than all of them; 0 if too few to be shared."""
    same = (ids == ids[:1]).all(dim=0)[:-1]
    length = int(same.long().cumprod(0).sum())
    return length if len(ids) > 1 and length >= WORTH_IT else 0


def shared(ids, length):
    """(inputs, places): the model's inputs for rows `ids` (n, length + own) of which the first `length` tokens are shared,
    and places (n, length + own), where in the one row each token stands."""
    n, own, device = len(ids), ids.shape[1] - length, ids.device
    behind = torch.arange(length, length + own, device=device)
    before = torch.arange(length, device=device)
    inputs = {
        "input_ids": torch.cat([ids[0, :length], ids[:, length:].flatten()])[None],
        "position_ids": torch.cat([before, behind.repeat(n)])[None],
        "attention_mask": torch.ones(own, length + own, dtype=torch.bool, device=device).tril(length)[None, None],
    }
    rows = length + own * torch.arange(n, device=device)[:, None] + torch.arange(own, device=device)
    return inputs, torch.cat([before.expand(n, -1), rows], dim=1)


def once(places, targets, weights):
    """(places, targets, weights) without repetitions: a token that rows share and a target that it has in several of them
    appear once, with the sum of their weights. All are (n,) tensors."""
    pairs, inverse = torch.unique(torch.stack([places, targets]), dim=1, return_inverse=True)
    return *pairs, torch.zeros(pairs.shape[1], device=places.device).index_add(0, inverse, weights)


def why_not(model, ids, longest):
    """Why this model cannot share the prefix of `ids` (n, length), or None. longest: tokens of the longest row of all.

    A model that takes no notice of position ids or of the mask raises no error, so its hidden states are compared with
    those of a plain forward pass.
    """
    attention = model.config.get_text_config()._attn_implementation
    if attention != "sdpa":
        return f"it needs --attention sdpa, not {attention}"
    if is_spread(model):
        return "not with FSDP or ZeRO-3"
    window = shortest_window(model)
    if window is not None and window < longest:
        return f"rows of {longest} tokens are longer than the model's sliding window of {window}"
    exact = model.dtype == torch.float32 and not is_quantized(model)
    inputs, places = shared(ids, shared_length(ids))
    row = 1 + (ids[1:] != 0).sum(dim=1).argmax()  # the least padding; the first row follows the prefix in any case
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            plain = _hidden_states(model, input_ids=ids[row : row + 1])[0]
            with sharing_attention(model):
                together = _hidden_states(model, **inputs)[0, places[row]]
    except (RuntimeError, ValueError, TypeError, IndexError):  # what architectures raise for a mask of this shape
        return "this model does not take the mask"
    finally:
        model.train(was_training)
    off = ((together - plain).norm() / plain.norm()).item()
    if not off <= (1e-4 if exact else ROUNDING):  # or NaN
        return "this model's hidden states would not be those of each row alone"
    return None


def _hidden_states(model, **inputs):
    return model(**inputs, use_cache=False, logits_to_keep=1, output_hidden_states=-1).hidden_states[-1].float()
