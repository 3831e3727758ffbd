"""The rank of a liked item among candidates: HR@K, NDCG@K, MRR and mean rank, with ties counted fairly.

A row has one relevant item, its target. With the target at rank r (from 1):

    HR@K     1 if r <= K, else 0            also called hit rate or Recall@K
    NDCG@K   1 / log2(1 + r) if r <= K      Järvelin and Kekäläinen (2002, ACM TOIS 20(4)); the ideal is 1
    MRR      1 / r

Scores may be equal, and a method that gives two items the same score must not gain or lose by their order in a file. So
a target with `better` candidates above it and `tied` others with the same score has each of the ranks better + 1 ...
better + tied + 1 with the same probability, and every metric is its mean over these (McSherry and Najork 2008,
Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores, ECIR). scikit-learn's
`ndcg_score` does the same.
"""

import numpy as np

from tlrec.errors import InputError
from tlrec.evaluation.intervals import jackknife_means

CUTOFFS = (1, 5, 10, 50)
NAMES = (*(f"hr@{k}" for k in CUTOFFS), *(f"ndcg@{k}" for k in CUTOFFS), "mrr", "mean_rank")


def standing(scores, target):
    """(better, tied): how many of the scores (n,) are above scores[target], and how many others equal it.

    Raises InputError for scores of NaN.
    """
    scores = np.asarray(scores)
    if bad := int(np.isnan(scores).sum()):
        raise InputError(f"{bad} of {len(scores)} scores are NaN: the model has diverged or its --dtype overflows")
    return int((scores > scores[target]).sum()), int((scores == scores[target]).sum()) - 1


def row_metrics(better, tied):
    """{name: (n,) float array} of NAMES from what `standing` returned for n rows."""
    better, tied = np.asarray(better, np.int64), np.asarray(tied, np.int64)
    last, equal = better + tied + 1, tied + 1
    ranks = np.arange(1, int(last.max(initial=0)) + 1)
    gains, reciprocals = (np.concatenate([[0], np.cumsum(values)]) for values in (1 / np.log2(1 + ranks), 1 / ranks))
    found = {f"hr@{k}": np.clip((k - better) / equal, 0, 1) for k in CUTOFFS}
    for k in CUTOFFS:
        found[f"ndcg@{k}"] = (gains[np.minimum(last, k)] - gains[np.minimum(better, k)]) / equal
    return found | {"mrr": (reciprocals[last] - reciprocals[better]) / equal, "mean_rank": better + 1 + tied / 2}


class HitRates:
    """Means over rows of several methods on the same rows, with intervals over users.

    values: {method: what `row_metrics` returned}. users: (n,) ids. candidates: (n,) numbers of them; a metric whose K is
    not below the largest would say nothing, and is None.
    """

    def __init__(self, values, users, candidates):
        most, chance = max(candidates), row_metrics(np.zeros(len(candidates)), np.array(candidates) - 1)
        self.places = {method: place for place, method in enumerate(values)}
        self.estimates = {
            name: jackknife_means(np.column_stack([one[name] for one in values.values()]), users, chance[name])
            for name in NAMES
            if "@" not in name or int(name.partition("@")[2]) < most
        }

    def means(self, of, minus=()):
        """{name: number or None} of the mean over the methods `of` (as seeds of one method), or of its difference to the
        mean over the methods `minus`."""
        of, minus = ([self.places[method] for method in methods] for methods in (of, minus))
        found = {name: one.values[of].mean() for name, one in self.estimates.items()}
        if minus:
            found = {name: value - self.estimates[name].values[minus].mean() for name, value in found.items()}
        return {name: found.get(name) for name in NAMES}

    def intervals(self, of, minus=()):
        """{name: [low, high] or None} of the same."""
        of, minus = ([self.places[method] for method in methods] for methods in (of, minus))
        found = {name: one.interval(of, minus) for name, one in self.estimates.items()}
        if not minus:  # no metric is below 0
            found = {name: bounds and [max(0.0, bounds[0]), bounds[1]] for name, bounds in found.items()}
        return {name: found.get(name) for name in NAMES}
