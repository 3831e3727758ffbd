"""The rankings of a test set: those on the same candidates side by side, mean over seeds."""

from tlrec.evaluation.hits import compare_hits
from tlrec.evaluation.ranks import hits_of

FLOORS = {"history": "history (chance)", "item": "item (like-rate)", "likes": "likes (how often liked)"}
RULES = (
    "HR@K: share of liked rows whose target is among the first K; NDCG@K: the same, but higher places count more; MRR: "
    "mean of 1 / rank. Equal scores share their ranks. Floors need no model: history is the same for all of a user's "
    "candidates, which is chance; item is an item's like-rate in the training split; likes is how many training rows "
    "like it. "
)


class Ranked:
    """Every method that ranked the same rows among the same candidates.

    facts: their ranking.json. main: the metric of the picture. cells: [(Cell, its evaluations here, numbers)]; floors:
    {name: numbers}. title: what was ranked, in words.
    """

    def __init__(self, cells, together):
        """together: the evaluations that ranked them."""
        first = max(together, key=lambda evaluation: len(evaluation.ranking["floors"]))
        values = {evaluation.folder: hits_of(evaluation.ranks) for evaluation in together}
        values |= {("floor", name): hits_of(first.ranks, name) for name in first.ranking["floors"]}
        comparison = compare_hits(values, *([line[name] for line in first.ranks] for name in ("user", "candidates")))
        self.cells = []
        for cell in cells:
            if chosen := [evaluation for evaluation in cell.evaluations if evaluation.folder in values]:
                numbers = comparison.numbers([evaluation.folder for evaluation in chosen])
                self.cells.append((cell, chosen, numbers))
        self.facts = facts = first.ranking
        self.floors = {name: comparison.numbers([("floor", name)]) for name in facts["floors"]}
        fewest, most = facts["fewest_candidates"], facts["most_candidates"]
        self.main = "ndcg@10" if most > 10 else "mrr"
        sizes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        kind = "all items not rated before" if facts["protocol"] == "full" else f"{facts['protocol']}, not all items"
        rows = f"{facts['rows']} liked rows of {facts['users']} users"
        self.title = f"{rows}, each among {sizes} candidates ({kind})"


def rankings(cells):
    """A Ranked for each set of rows and candidates, full catalogues first."""
    groups = {}
    for evaluation in (evaluation for cell in cells for evaluation in cell.evaluations if evaluation.ranking):
        groups.setdefault(evaluation.ranking["candidates_sha256"], []).append(evaluation)
    found = [Ranked(cells, together) for together in groups.values()]
    return sorted(found, key=lambda one: (one.facts["protocol"] != "full", one.facts["protocol"], -one.facts["rows"]))
