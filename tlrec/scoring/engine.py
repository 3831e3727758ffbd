"""Forward passes for scoring and ranking: within a budget of tokens, after a prefix that is computed once.

docs/engine.md explains with drawings what is packed, shared and masked.
"""

import copy
from contextlib import contextmanager, nullcontext

import torch
from accelerate import PartialState
from tqdm import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tlrec.errors import InputError
from tlrec.model import memory
from tlrec.model.merging import merged
from tlrec.model.parts import KEYS_AND_VALUES, language_model_parts
from tlrec.model.processes import is_spread, out_of_memory

TOKEN_BUDGET = {"cpu": 2048, "cuda": 32768}  # tokens in one forward pass, padding included
LOGITS_AT_ONCE = 1 << 23  # elements of [positions, vocabulary] held in float32 at a time; these fit the CPU's caches


@contextmanager
def for_inference(model, merge):
    """Inside the block the model is in evaluation mode and, with `merge`, has LoRA added into its weights."""
    was_training = model.training
    model.eval()
    try:
        with merged(model) if merge else nullcontext():
            yield
    finally:
        model.train(was_training)


def without_gradients(model):
    """no_grad for a model that FSDP spreads: training reuses its buffers, which inference mode would forbid."""
    return torch.no_grad() if is_spread(model) else torch.inference_mode()


def padded(rows, device):
    """Rows of token ids as one tensor (n, longest), padded on the right, which causal attention ignores."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)


class Engine:
    """A model ready for forward passes.

    token_budget: tokens in one pass, None for the default of the device; `token_budget` is halved when memory runs out.
    answer_ids: the first tokens of Yes and No.
    """

    def __init__(self, model, token_budget, answer_ids):
        self.hidden_states, self.head = language_model_parts(model)
        self.spread = is_spread(model)
        self.device = model.device
        self.config, self.dtype = model.config, model.dtype
        self.token_budget = token_budget or TOKEN_BUDGET[self.device.type]
        if not token_budget and self.device.type == "cpu":  # where no error says that memory has run out
            self.token_budget = memory.tokens_in_a_pass(model, self.token_budget)
        self.answer_ids = list(answer_ids)
        self.positions_at_once = max(1, LOGITS_AT_ONCE // self.config.get_text_config().vocab_size)
        self.processes, self.process = PartialState().num_processes, PartialState().process_index

    def in_parts(self, rows, row_tokens, forward):
        """Yield (part, forward(part)) for consecutive parts of `rows` that fit the budget, at `row_tokens` a row."""
        while rows:
            part = rows[: max(1, self.token_budget // row_tokens)]
            try:
                result = forward(part)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if len(part) == 1 or self.spread:
                    raise InputError(
                        f"out of memory while scoring {len(part)} rows of {row_tokens} tokens at once; "
                        "give evaluate.py a smaller --token_budget, or --quantization 4bit"
                    ) from None
            else:
                yield part, result
                rows = rows[len(part) :]
                continue
            # outside the except block, whose traceback holds the tensors of the failed pass
            self.token_budget = row_tokens * (len(part) // 2)
            torch.cuda.empty_cache()
            tqdm.write(f"out of memory: continuing with {self.token_budget} tokens in a batch")

    def start(self, ids):
        """(cache, hidden states) of token ids (n, length), which rows then continue."""
        cache = DynamicCache(config=self.config)
        return cache, self.hidden_states(input_ids=ids, past_key_values=cache, use_cache=True)

    def go_on(self, cache, behind, ids, positions, attention_mask=None):
        """Hidden states of `ids` (n, length), whose row i continues row behind[i] of `cache`, which is not changed.

        positions: (n, length) or (1, length). attention_mask: (n, 1, length, cached + length); None for causal.
        """
        rows = torch.tensor(behind, device=self.device)
        lent = (DynamicLayer,) if attention_mask is None else (DynamicLayer, DynamicSlidingWindowLayer)
        batch = copy.copy(cache)
        batch.layers = [LentLayer(layer, rows) if type(layer) in lent else _own(layer, rows) for layer in cache.layers]
        masks = {} if attention_mask is None else {"attention_mask": attention_mask}
        return self.hidden_states(input_ids=ids, past_key_values=batch, position_ids=positions, use_cache=True, **masks)

    def answer_log_p(self, hidden, rows, places):
        """(n, 2) float64: log-probabilities of Yes and No (nats), predicted from each hidden[rows[i], places[i]]."""
        at_answer = hidden[torch.tensor(rows, device=self.device), torch.tensor(places, device=self.device)]
        chosen = [logits.log_softmax(-1)[:, self.answer_ids] for logits in self._logits(at_answer)]
        return torch.cat(chosen).double().cpu().numpy()

    def nll(self, hidden, targets):
        """Summed cross-entropy (nats) of `targets` (n,) given `hidden` (n, width).

        A scalar tensor in float64, not a number, which would have to wait for the GPU.
        """
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for logits, some in zip(self._logits(hidden), targets.split(self.positions_at_once)):
            total += torch.nn.functional.cross_entropy(logits, some, reduction="sum")
        return total

    def token_log_p(self, hidden, targets):
        """Log-probability (nats, float64) of each of `targets` (n,) given `hidden` (n, width), and whether it is the
        most probable token; (n,) both."""
        log_p, best = [], []
        for logits, some in zip(self._logits(hidden), targets.split(self.positions_at_once)):
            every = logits.log_softmax(-1)
            log_p.append(every.gather(-1, some[:, None])[:, 0].double())
            best.append(every.argmax(-1) == some)
        return torch.cat(log_p), torch.cat(best)

    def _logits(self, hidden):
        """Yield float32 logits of hidden states (n, width), of a few positions at a time."""
        for part in hidden.split(self.positions_at_once):
            yield self.head(part).float()


class LentLayer(DynamicLayer):
    """The keys and values of a prefix, for a batch whose row i continues rows[i]. It does not keep the batch's keys and
    values, so that only one layer's copies are in memory at a time."""

    def __init__(self, layer, rows):
        super().__init__()
        self.keys, self.values, self.is_initialized = layer.keys, layer.values, layer.is_initialized
        self.rows = rows

    def update(self, key_states, value_states, *args, **kwargs):
        return self._behind(self.keys, key_states), self._behind(self.values, value_states)

    def _behind(self, prefix, own):
        prefix = prefix.expand(len(own), -1, -1, -1) if len(prefix) == 1 else prefix.index_select(0, self.rows)
        return torch.cat([prefix, own], dim=-2)


def _own(layer, rows):
    """A copy of another kind of layer, for the rows; deep for recurrent states, which are changed in place."""
    layer = copy.copy(layer) if type(layer) in KEYS_AND_VALUES else copy.deepcopy(layer)
    layer.reorder_cache(rows)
    return layer
