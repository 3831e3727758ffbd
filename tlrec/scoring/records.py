"""P(Yes) and P(No) for many records: one forward pass per record, and the output head at one position only.

    scores = score_records(model, tokenizer, records, frame)

        |<-- shared prefix -->|<------- own tokens ------->|
        |  computed once, its |                          ^ |
        |  keys and values    |                          answer position: head -> softmax -> p_yes, p_no
        |  reused by all rows |   right padding, which causal attention never looks at

Rows are sorted by length and packed into batches by token budget, longest first, so that memory, if it is short, runs
out at once; then the budget is halved and scoring continues.

Up to rounding, a row's scores depend only on the row; except in 8 bits. LLM.int8 (Dettmers et al., arXiv 2208.07339)
computes a column of activations in 16 bits instead of 8 if any token of the batch has an outlier in it (6 or above). So
with --quantization 8bit a row's scores also depend on the other rows of its batch, and so on --token_budget, the
number of processes and the selection of rows.

With several processes each takes its share of every batch, and all get the scores of all rows.
"""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from tlrec.model.parts import prefix_states
from tlrec.model.processes import add_up
from tlrec.model.tokenization import RecordTokenizer, common_prefix
from tlrec.scoring.engine import Engine, for_inference, padded, without_gradients
from tlrec.scoring.scores import Scores


def score_records(model, tokenizer, records, frame, **options):
    """Scores of labelled or unlabelled records, in their order; see `Scorer.score` for the options."""
    return Scorer(tokenizer, records, frame, 512).score(model, **options)


class Scorer:
    """Records tokenised once, to be scored again and again, as validation does during tuning."""

    def __init__(self, tokenizer, records, frame, cutoff_len, with_loss=False, prompt_loss_weight=1.0):
        """with_loss: also compute the loss, for which every record needs its `output`: the mean over the tokens of
        prompt and answer, those of the prompt weighted by `prompt_loss_weight`."""
        encoder = RecordTokenizer(tokenizer, frame, cutoff_len)
        prompts = encoder.prompts(records, with_answers=with_loss)
        self.answer_ids = encoder.answer_ids
        self.truncated = prompts.truncated
        self.rows = prompts.input_ids
        self.answer_positions = prompts.answer_positions
        self.token_budget = None  # one that fits, found when memory ran out
        self.with_loss = with_loss
        if with_loss:
            # tokens whose loss counts; nothing predicts a row's first one
            self.prompt_loss_weight = prompt_loss_weight
            answers = sum(len(row) - 1 - position for row, position in zip(self.rows, self.answer_positions))
            self.n_targets = answers + prompt_loss_weight * sum(self.answer_positions)
        self.prefix_len = min(common_prefix(self.rows), *self.answer_positions)

    def score(self, model, token_budget=None, share_prefix=True, merge=True, progress=None):
        """One pass over all rows; returns Scores.

        model: a causal LM or a PeftModel on it. token_budget: tokens in one batch, by default by device. share_prefix:
        reuse the keys and values of the prefix that all rows share. merge: add LoRA into the weights for the pass.
        progress: text for a progress bar; None shows none.
        """
        started = time.perf_counter()
        with for_inference(model, merge), without_gradients(model):
            log_p, loss, tokens = self._score(model, token_budget, self.prefix_len if share_prefix else 0, progress)
        p_yes, p_no = np.exp(log_p.T)
        return Scores(p_yes, p_no, self.truncated, time.perf_counter() - started, loss, tokens)

    def _score(self, model, token_budget, prefix_len, progress):
        engine = Engine(model, self.token_budget or token_budget, self.answer_ids)
        budget = engine.token_budget
        prefix = self._prefix(model, engine, prefix_len)
        log_p = np.zeros((len(self.rows), 2))
        nll, tokens = prefix.nll if engine.process == 0 else 0.0, 0
        silent = progress is None or engine.process > 0
        with tqdm(total=len(self.rows), desc=progress, unit="row", disable=silent, leave=False) as bar:
            for batch in self._batches(budget, engine.processes, prefix.length):
                own = batch[engine.process :: engine.processes]
                idle = engine.spread and not own  # the others cannot run a spread model without this process
                own = batch[:1] if idle else own
                longest = max((len(self.rows[row]) - prefix.length for row in own), default=0)
                for part, (chosen, part_nll) in engine.in_parts(own, longest, partial(self._forward, engine, prefix)):
                    if not idle:
                        log_p[part] = chosen
                        nll += part_nll
                        tokens += len(part) * longest
                bar.update(len(batch))
        if engine.token_budget != budget:
            self.token_budget = engine.token_budget
        nll, tokens = add_up(np.array([float(nll), float(tokens)]))
        return add_up(log_p), nll / self.n_targets if self.with_loss else None, int(tokens)

    def _prefix(self, model, engine, length):
        """The first `length` tokens of all rows, computed once if the model can continue after them."""
        ids = torch.tensor([self.rows[0][:length]], device=engine.device)
        cache, hidden = prefix_states(model, engine.hidden_states, ids) if length else (None, None)
        if cache is None:
            return _Prefix(length=0)
        nll = 0.0
        if self.with_loss and self.prompt_loss_weight:
            nll = len(self.rows) * self.prompt_loss_weight * engine.nll(hidden[0, :-1], ids[0, 1:])
        return _Prefix(length, cache, hidden[:, -1:], nll)

    def _batches(self, budget, processes, prefix_len):
        """Row numbers, longest rows first: for each process at most `budget` tokens, padding included, or one row."""
        order = sorted(range(len(self.rows)), key=lambda i: -len(self.rows[i]))
        while order:
            rows = processes * max(1, budget // (len(self.rows[order[0]]) - prefix_len))
            yield order[:rows]
            order = order[rows:]

    def _forward(self, engine, prefix, part):
        """(log-probabilities (n, 2), summed loss) of the rows numbered `part`, in one pass."""
        ids = padded([self.rows[row][prefix.length :] for row in part], engine.device)
        if prefix.length:
            positions = torch.arange(prefix.length, prefix.length + ids.shape[1], device=engine.device)[None]
            hidden = engine.go_on(prefix.cache, [0] * len(part), ids, positions)
        else:
            hidden = engine.hidden_states(input_ids=ids, use_cache=False)
        places = [self.answer_positions[row] - prefix.length for row in part]
        log_p = engine.answer_log_p(hidden, range(len(part)), places)
        return log_p, self._nll(engine, prefix, part, ids, hidden) if self.with_loss else 0.0

    def _nll(self, engine, prefix, part, ids, hidden):
        columns = torch.arange(prefix.length, prefix.length + ids.shape[1], device=engine.device)
        ends = torch.tensor([len(self.rows[row]) for row in part], device=engine.device)
        answers = torch.tensor([self.answer_positions[row] + 1 for row in part], device=engine.device)
        prompt = (columns > 0) & (columns < answers[:, None])
        answer = (columns >= answers[:, None]) & (columns < ends[:, None])
        if prefix.length:
            hidden = torch.cat([prefix.last.expand(len(part), -1, -1), hidden], dim=1)
        else:  # nothing predicts the first token
            ids, prompt, answer = ids[:, 1:], prompt[:, 1:], answer[:, 1:]
        hidden, weight = hidden[:, :-1], self.prompt_loss_weight
        if weight == 1:
            return engine.nll(hidden[prompt | answer], ids[prompt | answer])
        nll = engine.nll(hidden[answer], ids[answer])
        return nll + weight * engine.nll(hidden[prompt], ids[prompt]) if weight else nll


@dataclass
class _Prefix:
    """The beginning of all rows: its length in tokens, the model's cache of it, and nll, its loss (nats) summed over
    all rows. last: the hidden state (1, 1, width) of its last token, whose output predicts the first own token of each
    row."""

    length: int
    cache: object = None
    last: object = None
    nll: object = 0.0
