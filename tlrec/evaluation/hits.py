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
from tlrec.evaluation.comparison import Comparison
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


def compare_hits(values, users, candidates):
    """The Comparison of several methods on the same rows, over users.

    values: {method: what `row_metrics` returned}. users: (n,) ids. candidates: (n,) numbers of them; a metric whose K is
    not below the largest would say nothing, and is not defined.
    """
    most, chance = max(candidates), row_metrics(np.zeros(len(candidates)), np.array(candidates) - 1)
    estimates = {name: {} for name in NAMES}
    for name in NAMES:
        if "@" not in name or int(name.partition("@")[2]) < most:
            columns = np.column_stack([one[name] for one in values.values()])
            estimates[name]["users"] = jackknife_means(columns, users, chance[name], least=0)
    return Comparison(values, estimates)
