"""The rankings of a test set: those on the same candidates side by side, mean over seeds, and their table."""

from dataclasses import dataclass, field

import numpy as np

from tlrec.evaluation.ranking import standings_of
from tlrec.evaluation.ranking_metrics import CUTOFFS, RankMetrics, row_metrics
from tlrec.evaluation.ranking_results import NOT_NEXT, SAMPLED

MAIN = "ndcg@10"  # the metric of the picture, and of the interval in the table
FLOORS = {"history": "history (chance)", "item": "item (like-rate)", "likes": "likes (how often liked)"}
RULES = (
    "HR@K: share of liked rows whose target is among the first K; NDCG@K: the same, but higher places count more; MRR: "
    "mean of 1 / rank. Equal scores share their ranks. Floors need no model: history is the same for all of a user's "
    "candidates, which is chance; item is an item's like-rate in the training split; likes is how many training rows "
    "like it. "
)


@dataclass
class RankCell:
    """The seeds of one method at one number of shots. means, intervals: {metric: ...}, the latter over users."""

    method: str
    shots: int
    seeds: list
    each: list  # MAIN of each seed
    means: dict
    intervals: dict


@dataclass
class Ranked:
    """Every method that ranked the same rows among the same candidates. floors: {name: means}."""

    protocol: str
    rows: int
    users: int
    fewest: int
    most: int
    cells: list = field(default_factory=list)
    floors: dict = field(default_factory=dict)

    @property
    def main(self):
        """MAIN, or MRR if there are too few candidates."""
        return MAIN if self.most > 10 else "mrr"

    @property
    def title(self):
        sizes = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"
        kind = "all items not rated before" if self.protocol == "full" else f"{self.protocol}, not all items"
        return f"{self.rows} liked rows of {self.users} users, each among {sizes} candidates ({kind})"


def rankings(test_set, resamples=2000):
    """A Ranked for each set of rows and candidates, full catalogues first."""
    groups = {}
    for evaluation in test_set.evaluations:
        if evaluation.ranking:
            groups.setdefault(evaluation.ranking["candidates_sha256"], []).append(evaluation)
    ranked = [_ranked(test_set, together, resamples) for together in groups.values()]
    return sorted(ranked, key=lambda one: (one.protocol != "full", one.protocol, -one.rows))


def _ranked(test_set, together, resamples):
    first = max(together, key=lambda evaluation: len(evaluation.ranking["floors"]))
    facts = [first.ranking[name] for name in ("protocol", "rows", "users", "fewest_candidates", "most_candidates")]
    result = Ranked(*facts)
    cells, values = [], {}
    for number, cell in enumerate(test_set.cells):
        if chosen := [e for e in cell.evaluations if e in together]:
            seeds = [row_metrics(*standings_of(evaluation.ranks)) for evaluation in chosen]
            cells.append((number, cell, chosen))
            values[number] = {name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]}
    values |= {name: row_metrics(*standings_of(first.ranks, name)) for name in first.ranking["floors"]}
    users = [line["user"] for line in first.ranks]
    metrics = RankMetrics(values, users, result.most, resamples)
    for number, cell, chosen in cells:
        each = [evaluation.ranking[result.main] for evaluation in chosen]
        seeds = [evaluation.seed for evaluation in chosen]
        facts = metrics.means(number), metrics.intervals(number)
        result.cells.append(RankCell(cell.method, cell.shots, seeds, each, *facts))
    result.floors = {name: metrics.means(name) for name in first.ranking["floors"]}
    return result


def columns(ranked):
    """Names of the metrics that mean something for these candidates."""
    shown = [k for k in CUTOFFS if k < ranked.most]
    return [*(f"hr@{k}" for k in shown), *(f"ndcg@{k}" for k in shown if k > 1), "mrr", "mean_rank"]


def said(ranked):
    """What the reader has to know about a list of Ranked, in a paragraph."""
    notes = RULES + NOT_NEXT
    return f"{notes} {SAMPLED}" if any(one.protocol != "full" for one in ranked) else notes
