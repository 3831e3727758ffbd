"""P(Yes) and P(No) for many records: one forward pass a record, and the output head at one position only.

    scores = score_records(model, tokenizer, records, frame)

        |<-- shared prefix -->|<------- own tokens ------->|
        |  computed once, its |                          ^ |
        |  keys and values    |                          answer position: head -> softmax -> p_yes, p_no
        |  reused by all rows |   right padding, which causal attention never looks at

Rows are sorted by length and packed into batches by token budget, longest first, so that running out of memory shows
at once; then the budget is halved and the run goes on. A row's scores depend on nothing but the row.

With several processes each takes its share of every batch, and all get the scores of all rows.
"""

import copy
import time
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from tlrec.errors import InputError
from tlrec.model.adapters import merged
from tlrec.model.parts import language_model_parts, prefix_states
from tlrec.model.processes import add_up, is_spread
from tlrec.model.scores import Scores
from tlrec.model.tokenization import RecordTokenizer

TOKEN_BUDGET = {"cpu": 4096, "cuda": 32768}  # tokens in one batch, padding included
LOGITS_AT_ONCE = 1 << 23  # elements of [positions, vocabulary] held in float32 while the loss is computed; fit caches


def score_records(model, tokenizer, records, frame, cutoff_len=512, **options):
    """Scores of labelled or unlabelled records, in their order; see `Scorer.score` for the options."""
    return Scorer(tokenizer, records, frame, cutoff_len).score(model, **options)


class Scorer:
    """Records tokenised once, to be scored again and again, as validation does during tuning."""

    def __init__(self, tokenizer, records, frame, cutoff_len, with_loss=False, train_on_inputs=True):
        """with_loss: also compute the loss, for which every record needs its `output`: over prompt and answer, or
        without `train_on_inputs` over the answer alone."""
        encoder = RecordTokenizer(tokenizer, frame, cutoff_len)
        prompts = encoder.prompts(records, with_answers=with_loss)
        self.answer_ids = encoder.answer_ids
        self.truncated = prompts.truncated
        self.rows = prompts.input_ids
        self.answer_positions = prompts.answer_positions
        self.token_budget = None  # that has proved to fit, once memory has run out
        self.with_loss = with_loss
        if with_loss:
            # the first token of each row that the loss counts; nothing predicts the very first
            self.first_targets = [1 if train_on_inputs else position + 1 for position in self.answer_positions]
            self.n_targets = sum(map(len, self.rows)) - sum(self.first_targets)
            self.train_on_inputs = train_on_inputs
        self.prefix_len = _shared_prefix(self.rows, min(self.answer_positions))

    def score(self, model, token_budget=None, share_prefix=True, merge=True, progress=None):
        """One pass over all rows; returns Scores.

        model: a causal LM or a PeftModel on it. token_budget: tokens in one batch, by default by device. share_prefix:
        reuse the keys and values of the prefix that all rows share. merge: add LoRA into the weights for the pass.
        progress: text for a progress bar; None shows none.
        """
        started = time.perf_counter()
        was_training = model.training
        model.eval()
        try:
            # FSDP gathers weights into buffers that training uses again, which inference mode would forbid
            without_gradients = torch.no_grad() if is_spread(model) else torch.inference_mode()
            with merged(model) if merge else nullcontext(), without_gradients:
                result = self._score(model, token_budget, self.prefix_len if share_prefix else 0, progress)
        finally:
            model.train(was_training)
        log_p, loss, tokens = result
        p_yes, p_no = np.exp(log_p[:, 0]), np.exp(log_p[:, 1])
        return Scores(p_yes, p_no, self.truncated, time.perf_counter() - started, loss, tokens)

    def _score(self, model, token_budget, prefix_len, progress):
        hidden_states, head = language_model_parts(model)
        spread = is_spread(model)
        device = model.device
        budget = self.token_budget or token_budget or TOKEN_BUDGET["cuda" if device.type == "cuda" else "cpu"]

        positions_at_once = max(1, LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)

        prefix = torch.tensor([self.rows[0][:prefix_len]], device=device)
        cache, nll, tokens = None, 0.0, 0
        if prefix_len:
            cache, hidden = prefix_states(model, hidden_states, prefix)
            prefix_len = tokens = 0 if cache is None else prefix_len
        if prefix_len:
            if self.with_loss and self.train_on_inputs and PartialState().is_main_process:
                nll += len(self.rows) * _nll(hidden[0, :-1], prefix[0, 1:], head, positions_at_once)
            last_of_prefix = hidden[:, -1:]  # its output predicts the first own token of every row

        processes, mine = PartialState().num_processes, PartialState().process_index
        log_p = np.zeros((len(self.rows), 2))
        batches = self._batches(budget, processes, prefix_len)
        silent = progress is None or mine > 0
        bar = tqdm(total=len(self.rows), desc=progress, unit="row", disable=silent, leave=False)
        for batch in batches:
            own = batch[mine::processes]
            idle = spread and not own  # the others need this process for every forward pass of a model they share
            if idle:
                own = batch[:1]
            while own:
                longest = len(self.rows[own[0]]) - prefix_len
                part = own[: max(1, budget // longest)]
                try:
                    ids = torch.zeros((len(part), longest), dtype=torch.long)
                    for place, row in enumerate(part):
                        ids[place, : len(self.rows[row]) - prefix_len] = torch.tensor(self.rows[row][prefix_len:])
                    ids = ids.to(device)
                    hidden = self._hidden(hidden_states, ids, cache, prefix_len)
                    places = torch.tensor([self.answer_positions[row] - prefix_len for row in part], device=device)
                    at_answer = head(hidden[torch.arange(len(part), device=device), places]).float()
                    chosen = at_answer.log_softmax(-1)[:, list(self.answer_ids)].double().cpu().numpy()
                    if self.with_loss and not idle:
                        columns = torch.arange(prefix_len, prefix_len + longest, device=device)
                        ends = torch.tensor([len(self.rows[row]) for row in part], device=device)
                        firsts = torch.tensor([self.first_targets[row] for row in part], device=device)
                        real = (columns >= firsts[:, None]) & (columns < ends[:, None])
                        if prefix_len:
                            hidden = torch.cat([last_of_prefix.expand(len(part), -1, -1), hidden], dim=1)
                        else:  # nothing predicts the first token
                            ids, real = ids[:, 1:], real[:, 1:]
                        nll += _nll(hidden[:, :-1][real], ids[real], head, positions_at_once)
                except torch.OutOfMemoryError:
                    if len(part) == 1 or spread:
                        raise InputError(
                            f"out of memory while scoring {len(part)} rows of {longest} tokens at once; "
                            "give evaluate.py a smaller --token_budget, or --quantization 4bit"
                        ) from None
                    budget = self.token_budget = longest * (len(part) // 2)
                    torch.cuda.empty_cache()
                    tqdm.write(f"out of memory: going on with {budget} tokens in a batch")
                    continue
                own = own[len(part) :]
                if not idle:
                    log_p[part] = chosen
                    tokens += len(part) * longest
            bar.update(len(batch))
        bar.close()
        nll, tokens = add_up(np.array([float(nll), float(tokens)]))
        return add_up(log_p), nll / self.n_targets if self.with_loss else None, int(tokens)

    def _batches(self, budget, processes, prefix_len):
        """Row numbers, longest rows first: for each process at most `budget` tokens, padding included, or one row."""
        order = sorted(range(len(self.rows)), key=lambda i: -len(self.rows[i]))
        while order:
            rows = processes * max(1, budget // (len(self.rows[order[0]]) - prefix_len))
            yield order[:rows]
            order = order[rows:]

    def _hidden(self, hidden_states, ids, cache, prefix_len):
        if cache is None:
            return hidden_states(input_ids=ids, use_cache=False)
        batch_cache = copy.deepcopy(cache)
        batch_cache.batch_repeat_interleave(len(ids))
        positions = torch.arange(prefix_len, prefix_len + ids.shape[1], device=ids.device)[None]
        return hidden_states(input_ids=ids, past_key_values=batch_cache, position_ids=positions, use_cache=True)


def _shared_prefix(rows, longest):
    """How many tokens all rows begin with, at most `longest`, so that every row keeps its answer position."""
    low, high = min(rows), max(rows)  # in lexicographic order these two differ first
    shared = 0
    while shared < longest and low[shared] == high[shared]:
        shared += 1
    return shared


def _nll(hidden, targets, head, at_once):
    """Summed cross-entropy of `targets` (n,) given `hidden` (n, width), with the logits of `at_once` positions held.

    A scalar tensor in float64, so that a GPU is not waited for.
    """
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for start in range(0, len(targets), at_once):
        logits = head(hidden[start : start + at_once]).float()
        total += torch.nn.functional.cross_entropy(logits, targets[start : start + at_once], reduction="sum")
    return total
