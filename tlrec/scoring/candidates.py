"""P(Yes) and P(No) of many items for one user: the history goes through the model once, the items follow as suffixes.

    for scores in score_candidates(model, tokenizer, [(record, items), ...], frame):
        scores.p_yes                                    # one for each item, in their order

        |<------ history, once ------>| item 1 | item 2 | item 3 |        one row of token ids
                                        ^ each sees the history and itself; positions restart after the history

The part that the prompts of a user's items share is found on their token ids, so every prompt has exactly the tokens
that it has when it is scored alone. Up to rounding, scores equal those of `score_records`, whatever the order and
number of items and whatever the other items are (but see tlrec/scoring/records.py on 8-bit quantisation).

Models differ in what they can do, and a wrong mask raises no error. So the first pass, and every later one with prompts
longer than before, is checked on one prompt against the model's plain forward pass. The first of these ways that gives
the same is used:

    PACKED   as drawn                                           attention that takes a mask and position ids
    ROWS     one row per item, all after the cached history     ALiBi, sliding windows shorter than the prompts,
                                                                FlashAttention, most recurrent states
    WHOLE    every prompt on its own                            models whose cache cannot be continued
"""

import heapq
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from tlrec.errors import InputError
from tlrec.model.base_models import is_quantized
from tlrec.model.parts import shortest_window
from tlrec.model.processes import add_up, out_of_memory
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring.engine import Engine, for_inference, padded, without_gradients
from tlrec.scoring.histories import Histories

PACKED, ROWS, WHOLE = "packed", "rows", "whole"
LOG = {
    PACKED: "ranking: candidates packed into rows after the history",
    ROWS: "ranking: candidates as separate rows after the cached history (this model cannot have them packed)",
    WHOLE: "ranking: every prompt computed whole (this model's cache cannot be continued)",
}
ROW_WIDTH = 128  # tokens of a packed row; wider: more attention to masked items, narrower: more copies of the history


@dataclass
class CandidateScores:
    """log_p_yes, log_p_no: (items,) float64, logarithms of the probabilities in `tlrec.scoring.scores.Scores`. truncated:
    prompts that were cut. way: PACKED, ROWS or WHOLE, how the last of them were computed."""

    log_p_yes: np.ndarray
    log_p_no: np.ndarray
    truncated: int
    way: str

    @property
    def p_yes(self):
        return np.exp(self.log_p_yes)

    @property
    def p_no(self):
        return np.exp(self.log_p_no)


def score_candidates(
    model, tokenizer, requests, frame, cutoff_len=512, token_budget=None, merge=True, progress=None, said=None
):
    """Yield the CandidateScores of each request, in their order and as soon as they are computed.

    requests: (record, items): a user's record, whose own target and output are ignored, and a sequence of
    tlrec.data.preferences.Item; without `progress` requests may be a generator. said: a set of the ways that have been
    printed, so that several calls print each once. The other arguments are those of `score_records`. Several users
    share a forward pass; memory depends neither on their number nor on that of the items. Raises ValueError if a record
    does not parse.
    """
    encoder = RecordTokenizer(tokenizer, frame, cutoff_len)
    histories = Histories(encoder)
    ranker = _Ranker(model, encoder.answer_ids, token_budget, set() if said is None else said)
    bar = tqdm(
        total=progress and sum(len(items) for _, items in requests),
        desc=progress,
        unit="item",
        disable=progress is None or ranker.engine.process > 0,
        leave=False,
    )
    with bar:
        for group in histories.groups(requests, ranker.engine):
            # merged again for each group, so that the model is unmerged whenever the caller has control
            with for_inference(model, merge), without_gradients(model):
                ranker.score(group)
            bar.update(sum(len(history.suffixes) for history in group))
            for done in histories.finished(group):
                yield CandidateScores(*done.log_p.T, done.truncated, ranker.way)


class _Ranker:
    def __init__(self, model, answer_ids, token_budget, said):
        self.engine = Engine(model, token_budget, answer_ids)
        self.way, self.said = PACKED, said
        self.checked = 0  # tokens of the longest prompt whose scores have been compared
        # how much rounding alone may change a hidden state, relative to its length; usually it is a fifth of that
        exact = model.dtype == torch.float32 and not is_quantized(model)
        self.rounding = 1e-4 if exact else 0.1
        layers = DynamicCache(config=model.config).layers
        if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
            self.way = ROWS
        if model.config.get_text_config()._attn_implementation not in ("sdpa", "eager"):  # take no mask of four axes
            self.way = ROWS
        self.window = shortest_window(model)

    # ------------------------------------------------------------------------------------------------- forward passes

    def score(self, group):
        """Fill in the log-probabilities of a group's items, by the best way that holds for its prompts."""
        if not group:
            return
        longest, cache = max(group, key=lambda history: history.longest), None
        try:
            if longest.longest > self.checked:
                cache = self._choose_way(longest)
                self.checked = longest.longest
            for together in [group] if self.way == PACKED else [[history] for history in group]:
                self._score(together, cache if together == [longest] else None)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(group) == 1:
                raise InputError("out of memory with one user's prompts; give --quantization 4bit") from None
        else:
            return
        # memory ran out for the histories (`in_parts` handles their items); the except block would hold its tensors
        self.engine.token_budget //= 2
        torch.cuda.empty_cache()
        self.score(group[: len(group) // 2])
        self.score(group[len(group) // 2 :])

    def _score(self, group, cache):
        engine = self.engine
        if self.way != WHOLE and cache is None:
            cache = self._start(group)
        rows = [
            (number, pack)
            for number, history in enumerate(group)
            for pack in _packs(history.suffixes, ROW_WIDTH if self.way == PACKED else 0)
        ]
        rows.sort(key=lambda row: -self._width(group, row))
        row_tokens = self._width(group, rows[0])
        if self.way != PACKED:  # short rows after a long history still take the history's memory
            row_tokens = max(history.longest for history in group)
        forward = partial(self._hidden, self.way, group, cache)
        mine = rows if engine.spread else rows[engine.process :: engine.processes]
        log_p = np.zeros((sum(len(history.suffixes) for history in group), 2))
        first = np.cumsum([0] + [len(history.suffixes) for history in group])
        for part, chosen in engine.in_parts(mine, row_tokens, lambda part: engine.answer_log_p(*forward(part))):
            log_p[[first[number] + suffix for number, pack in part for suffix in pack]] = chosen
        log_p = log_p if engine.spread else add_up(log_p)
        for number, history in enumerate(group):
            history.request.log_p[list(history.places)] = log_p[first[number] : first[number + 1]]

    def _start(self, group):
        return self.engine.start(padded([history.ids for history in group], self.engine.device))[0]

    @staticmethod
    def _width(group, row):
        number, pack = row
        return sum(len(group[number].suffixes[suffix]) for suffix in pack)

    def _hidden(self, way, group, cache, rows):
        """Hidden states of rows (number of a history in `group` and `cache`, numbers of its suffixes), and the places
        in them from which the suffixes' answers are read: (hidden, rows, places)."""
        suffixes = [[group[number].suffixes[suffix] for suffix in pack] for number, pack in rows]
        lengths = [list(map(len, pack)) for pack in suffixes]
        behind = [number for number, _ in rows]
        starts = [len(group[number].ids) for number in behind]
        ids = [list(chain.from_iterable(pack)) for pack in suffixes]
        answers = [(row, place - 1) for row, pack in enumerate(lengths) for place in accumulate(pack)]
        if way == WHOLE:
            ids = padded([[*group[number].ids, *own] for number, own in zip(behind, ids)], self.engine.device)
            answers = [(row, starts[row] + place) for row, place in answers]
            hidden = self.engine.hidden_states(input_ids=ids, use_cache=False)
        elif way == ROWS:
            ids = padded(ids, self.engine.device)
            positions = torch.arange(starts[0], starts[0] + ids.shape[1], device=self.engine.device)[None]
            hidden = self.engine.go_on(cache, behind, ids, positions)
        else:
            ids = padded(ids, self.engine.device)
            positions = [[start + n for length in pack for n in range(length)] for start, pack in zip(starts, lengths)]
            owners = [[n for n, length in enumerate(pack, 1) for _ in range(length)] for pack in lengths]
            mask = self._mask(padded(owners, self.engine.device), starts, max(map(len, (h.ids for h in group))))
            hidden = self.engine.go_on(cache, behind, ids, padded(positions, self.engine.device), mask)
        return hidden, *zip(*answers)

    def _mask(self, owners, starts, longest_history):
        """(n, 1, width, longest_history + width): which tokens of the history and, after them, of the row each token of
        the row sees. owners (n, width): the number of the suffix each token belongs to; starts: n history lengths.

        Padding (owner 0) is never read, so it may see anything; a token that saw nothing would be NaN.
        """
        device, width = owners.device, owners.shape[1]
        history = torch.arange(longest_history, device=device) < torch.tensor(starts, device=device)[:, None]
        own = (owners[:, :, None] == owners[:, None, :]).tril()
        seen = torch.cat([history[:, None].expand(-1, width, -1), own], dim=-1)[:, None]
        if self.engine.config.get_text_config()._attn_implementation == "sdpa":
            return seen
        dtype = self.engine.dtype  # eager attention adds its mask
        return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)

    # ---------------------------------------------------------------------------------------------- which way is right

    def _choose_way(self, history):
        """Drop the ways that do not give the hidden state of a plain forward pass for an item of `history`; return the
        cache of the history.

        The item is the last of a full row, where an ignored mask, a window that is too short or ignored position ids
        make a difference. If the difference is larger than rounding usually makes it, the same item in its own row
        shows how much rounding alone changes this model.
        """
        if self.way == PACKED and self.window is not None and history.longest > self.window:
            self.way = ROWS
        pack = max(_packs(history.suffixes, ROW_WIDTH), key=len)
        if len(pack) == 1:
            pack = pack * 3
        plain, cache = self._at_answer(WHOLE, history, None, pack[-1:]), None
        if self.way != WHOLE:
            cache = _attempt(self._start, [history])
        if self.way == PACKED:
            packed = _distance(_attempt(self._at_answer, PACKED, history, cache, pack), plain)
        if self.way == ROWS or self.way == PACKED and not packed <= self.rounding / 5:
            apart = _distance(_attempt(self._at_answer, ROWS, history, cache, pack[-1:]), plain)
            if not apart <= self.rounding:
                self.way = WHOLE
            elif self.way == PACKED and not packed <= 4 * apart:
                self.way = ROWS
        if self.way not in self.said:
            self.said.add(self.way)
            if self.engine.process == 0:
                tqdm.write(LOG[self.way])
        return cache

    def _at_answer(self, way, history, cache, pack):
        """The hidden state that the answer to the last item of a row is read from."""
        hidden, rows, places = self._hidden(way, [history], cache, [(0, pack)])
        return hidden[rows[-1], places[-1]].float()


def _attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:  # whatever an architecture raises for a cache or a mask that it does not support
        if out_of_memory(error):
            raise
        return None


def _distance(hidden, plain):
    """Length of the difference, as a share of the length of `plain`."""
    return float("inf") if hidden is None else ((hidden - plain).norm() / plain.norm()).item()


def _packs(suffixes, width):
    """Numbers of the suffixes, in as few lists as `width` tokens a list allow, about equally long; one each for 0."""
    lengths = list(map(len, suffixes))
    packs = [(0, number, []) for number in range(-(-sum(lengths) // max(width, *lengths)))] if width else []
    if not packs:
        return [[number] for number in range(len(suffixes))]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        tokens, place, pack = heapq.heappop(packs)
        pack.append(number)
        heapq.heappush(packs, (tokens + lengths[number], place, pack))
    return [pack for _, _, pack in sorted(packs, key=lambda pack: pack[1]) if pack]
