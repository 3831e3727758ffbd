"""P(Yes) and P(No) of many items for one user: the history goes through the model once, the items follow as suffixes.

    for scores in score_candidates(model, tokenizer, [(record, items), ...], frame):
        scores.p_yes                                    # one for each item, in their order

        |<------ history, once ------>| item 1 | item 2 | item 3 |        one row of token ids
                                        ^ each sees the history and itself; positions restart behind the history

What the prompts of a user's items share is found on their token ids, so every prompt is cut into the very tokens that
scoring it alone would give. Scores are those of `score_records`, whatever the order, number and company of the items.

Models differ in what they can do, and a wrong mask does not raise errors. So the first pass, and every one with longer
prompts than any before, is checked on one prompt against the model's plain forward pass, and the best way that holds is
taken:

    PACKED   as drawn                                           attention that takes a mask and position ids
    ROWS     one row an item, all behind the cached history     ALiBi, sliding windows shorter than the prompts,
                                                                FlashAttention, most recurrent states
    WHOLE    every prompt on its own                            models whose cache cannot be continued
"""

import heapq
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from tlrec.data.preferences import with_targets
from tlrec.model.engine import Engine, for_inference, padded, shared_prefix, without_gradients
from tlrec.model.processes import add_up
from tlrec.model.tokenization import RecordTokenizer

PACKED, ROWS, WHOLE = "packed", "rows", "whole"
LOG = {
    PACKED: "ranking: candidates packed into rows behind the history",
    ROWS: "ranking: candidates as separate rows behind the cached history (this model cannot have them packed)",
    WHOLE: "ranking: every prompt computed whole (this model's cache cannot be continued)",
}
ROW_WIDTH = 128  # tokens of a packed row; attention to masked neighbours costs time, copies of the history too
ITEMS_AT_ONCE = 2048  # prompts of one user tokenised at a time, so that a catalogue of any size fits


@dataclass
class CandidateScores:
    """log_p_yes, log_p_no: (items,) float64, as in `scoring.Scores`. truncated: prompts that were cut. own_tokens: those
    behind what the prompts of these items share. way: PACKED, ROWS or WHOLE, how the last of them were computed."""

    log_p_yes: np.ndarray
    log_p_no: np.ndarray
    truncated: int
    own_tokens: int
    way: str

    @property
    def p_yes(self):
        return np.exp(self.log_p_yes)

    @property
    def p_no(self):
        return np.exp(self.log_p_no)


def score_candidates(
    model, tokenizer, requests, frame, cutoff_len=512, token_budget=None, merge=True, progress=None
):
    """Yield the CandidateScores of each request, in their order and as soon as they are there.

    requests: (record, items): the record of a user, whose own target counts as little as its output, and a sequence of
    tlrec.data.preferences.Item. The other arguments are those of `score_records`. Several users share a forward pass;
    memory depends neither on their number nor on that of the items. Raises ValueError if a record does not parse.
    """
    ranker = _Ranker(model, RecordTokenizer(tokenizer, frame, cutoff_len), token_budget)
    bar = tqdm(
        total=sum(len(items) for _, items in requests),
        desc=progress,
        unit="item",
        disable=progress is None or ranker.engine.process > 0,
        leave=False,
    )
    with for_inference(model, merge), bar:
        for group in ranker.groups(requests):
            with without_gradients(model):  # not while the caller has the scores
                ranker.score(group)
            bar.update(sum(len(history.suffixes) for history in group))
            yield from ranker.finished(group)


@dataclass
class _Request:
    """A request under way: log_p (items, 2), and how many of its items are still to be scored."""

    log_p: np.ndarray
    missing: int
    truncated: int = 0
    own_tokens: int = 0


@dataclass
class _History:
    """Token ids that some prompts of a request begin with, what follows in each, and their places among its items."""

    request: _Request
    ids: list
    suffixes: list
    places: list
    longest: int = field(init=False)  # tokens of the longest whole prompt

    def __post_init__(self):
        self.longest = len(self.ids) + max(map(len, self.suffixes))
        self.own_tokens = sum(map(len, self.suffixes))


class _Ranker:
    def __init__(self, model, encoder, token_budget):
        self.engine = Engine(model, token_budget, encoder.answer_ids)
        self.encoder = encoder
        self.waiting = []  # requests that have not been handed out, in their order
        self.way, self.said = PACKED, None
        self.checked = 0  # tokens of the longest prompt whose scores have been compared
        self.additive_mask = self.engine.config.get_text_config()._attn_implementation != "sdpa"
        self.dtype = model.dtype
        layers = DynamicCache(config=model.config).layers
        if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
            self.way = ROWS
        self.window = min((layer.sliding_window for layer in layers if layer.is_sliding), default=None)

    # ------------------------------------------------------------------------------------------- requests to histories

    def groups(self, requests):
        """Lists of histories that go through the model together: as many as fit a pass, until their items fill one."""
        group = []
        for history in chain.from_iterable(map(self._histories, requests)):
            taken = sum(len(other.ids) for other in group) + len(history.ids)
            filled = sum(other.own_tokens for other in group)
            if group and (taken > self.engine.token_budget or filled >= self.engine.token_budget):
                yield group
                group = []
            group.append(history)
        if group or self.waiting:
            yield group

    def _histories(self, request):
        record, items = request
        request = _Request(np.zeros((len(items), 2)), len(items))
        self.waiting.append(request)
        for start in range(0, len(items), ITEMS_AT_ONCE):
            prompts = self.encoder.prompts(with_targets(record, items[start : start + ITEMS_AT_ONCE]))
            request.truncated += prompts.truncated
            # Cut prompts have lost as many tokens of history as their item is long, so those of one length share most.
            kinds = {}
            for place, ids in enumerate(prompts.input_ids, start):
                kinds.setdefault(len(ids) if prompts.truncated else 0, []).append((place, ids))
            for rows in kinds.values():
                places, rows = zip(*rows)
                shared = shared_prefix(rows, min(map(len, rows)) - 1)
                history = _History(request, rows[0][:shared], [ids[shared:] for ids in rows], places)
                request.own_tokens += history.own_tokens
                yield history

    def finished(self, group):
        """CandidateScores of the requests that are complete with this group."""
        for history in group:
            history.request.missing -= len(history.suffixes)
        while self.waiting and not self.waiting[0].missing:
            done = self.waiting.pop(0)
            yield CandidateScores(*done.log_p.T, done.truncated, done.own_tokens, self.way)

    # ------------------------------------------------------------------------------------------------- forward passes

    def score(self, group):
        """Fill in the scores of a group's items, by the best way that holds for its prompts."""
        if not group:
            return
        longest = max(history.longest for history in group)
        if self.way == PACKED and self.window is not None and longest > self.window:
            self.way = ROWS
        if longest > self.checked:
            self._check(max(group, key=lambda history: history.longest))
            self.checked = longest
        if self.way != self.said:
            self.said = self.way
            if self.engine.process == 0:
                tqdm.write(LOG[self.way])
        for part in [group] if self.way == PACKED else [[history] for history in group]:
            self._score(part)

    def _score(self, group):
        ...
