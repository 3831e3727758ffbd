"""A user's prompts, taken apart into the token ids that they begin with and what follows in each, in groups that go through
the model together."""

from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from tlrec.data.preferences import with_targets
from tlrec.model.tokenization import common_prefix

ITEMS_AT_ONCE = 2048  # prompts of one user tokenised at a time, so that a catalogue of any size fits into memory


@dataclass(eq=False)
class Request:
    """A request under way: log_p (items, 2), and how many of its items are still to be scored."""

    log_p: np.ndarray
    missing: int
    truncated: int = 0


@dataclass(eq=False)
class History:
    """Token ids that some prompts of a request begin with, what follows in each, and their places among its items."""

    request: Request
    ids: list
    suffixes: list
    places: list
    longest: int = field(init=False)  # tokens of the longest whole prompt

    def __post_init__(self):
        self.longest = len(self.ids) + max(map(len, self.suffixes))
        self.own_tokens = sum(map(len, self.suffixes))


class Histories:
    """Makes histories of requests, and hands the requests back in their order once all their items are scored."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.waiting = []

    def groups(self, requests, engine):
        """Lists of histories that go through the model together: as many as fit a pass, until their items fill one."""
        group = []
        for history in chain.from_iterable(map(self._histories, requests)):
            taken = (len(group) + 1) * max(len(other.ids) for other in [*group, history])
            filled = sum(other.own_tokens for other in group)
            if group and (taken > engine.token_budget or filled >= engine.token_budget):
                yield group
                group = []
            group.append(history)
        yield group

    def _histories(self, request):
        record, items = request
        request = Request(np.zeros((len(items), 2)), len(items))
        self.waiting.append(request)
        for start in range(0, len(items), ITEMS_AT_ONCE):
            records = with_targets(record, items[start : start + ITEMS_AT_ONCE])
            yield from self._cut(request, records, start)  # whole prompts are not kept beyond that call

    def _cut(self, request, records, start):
        """The histories of some of the request's prompts, those of its items from number `start` on."""
        prompts = self.encoder.prompts(records)
        request.truncated += prompts.truncated
        # A cut prompt has lost more of its history the longer its item is; those that lost equally much share the rest.
        kinds, histories = {}, []
        for place, (ids, lost) in enumerate(zip(prompts.input_ids, prompts.lost), start):
            kinds.setdefault(lost, []).append((place, ids))
        for rows in kinds.values():
            places, rows = zip(*rows)
            shared = min(common_prefix(rows), min(map(len, rows)) - 1)
            histories.append(History(request, rows[0][:shared], [ids[shared:] for ids in rows], places))
        return histories

    def finished(self, group):
        """The requests that are complete with this group, in their order."""
        for history in group:
            history.request.missing -= len(history.suffixes)
        while self.waiting and not self.waiting[0].missing:
            yield self.waiting.pop(0)
