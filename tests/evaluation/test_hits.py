"""HR@K, NDCG@K, MRR and mean rank.

1. They equal cases computed by hand, and scikit-learn's, with and without ties.
2. A tie is the mean over all orders of what is tied; a method that knows nothing has the numbers of chance.
3. A cut-off that no row has candidates for says nothing; NaN is one line.
"""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from tlrec.errors import InputError
from tlrec.evaluation.hits import CUTOFFS, NAMES, compare_hits, row_metrics, standing


def test_by_hand():
    assert standing([0.1, 0.9, 0.4, 0.7], 2) == (2, 0)
    assert standing([0.4, 0.9, 0.4, 0.4], 2) == (1, 2)
    assert standing([-np.inf, -np.inf], 0) == (0, 1)
    found = row_metrics([0, 2, 7, 60], [0, 0, 0, 0])  # ranks 1, 3, 8, 61
    assert {name: values.tolist() for name, values in found.items()} == {
        "hr@1": [1, 0, 0, 0],
        "hr@5": [1, 1, 0, 0],
        "hr@10": [1, 1, 1, 0],
        "hr@50": [1, 1, 1, 0],
        "ndcg@1": [1, 0, 0, 0],
        "ndcg@5": pytest.approx([1, 0.5, 0, 0]),
        "ndcg@10": pytest.approx([1, 0.5, 1 / np.log2(9), 0]),
        "ndcg@50": pytest.approx([1, 0.5, 1 / np.log2(9), 0]),
        "mrr": pytest.approx([1, 1 / 3, 1 / 8, 1 / 61]),
        "mean_rank": [1, 3, 8, 61],
    }
    tied = row_metrics([4], [1])  # rank 5 or 6
    assert tied["hr@5"] == 0.5 and tied["hr@10"] == 1 and tied["mean_rank"] == 5.5
    assert tied["ndcg@5"] == pytest.approx(0.5 / np.log2(6))
    assert tied["mrr"] == pytest.approx((1 / 5 + 1 / 6) / 2)


@pytest.mark.parametrize("levels", [3, 10**6])
def test_equal_to_scikit_learn(levels):
    """With few levels most scores are tied, which only its NDCG knows to count."""
    rng = np.random.default_rng(levels)
    scores, targets = rng.integers(levels, size=(40, 70)).astype(float), rng.integers(70, size=40)
    found = row_metrics(*zip(*map(standing, scores, targets), strict=True))
    relevant = np.eye(70)[targets]
    for k in CUTOFFS:
        each = [ndcg_score(relevant[[row]], scores[[row]], k=k) for row in range(40)]
        np.testing.assert_allclose(found[f"ndcg@{k}"], each, atol=1e-12)
        if levels > 100:
            hits = top_k_accuracy_score(targets, scores, k=k, labels=np.arange(70))
            assert found[f"hr@{k}"].mean() == pytest.approx(hits)
    if levels > 100:
        assert found["mrr"].mean() == pytest.approx(label_ranking_average_precision_score(relevant, scores))


def test_a_tie_is_the_mean_over_its_orders():
    scores = np.array([3, 2, 2, 1, 2, 3])
    apart = [scores + np.array(order) * 1e-6 for order in permutations(range(6))]  # told apart by a random order
    mean = row_metrics(*zip(*(standing(one, 4) for one in apart), strict=True))
    found = row_metrics(*zip(standing(scores, 4), strict=True))
    assert {name: value[0] for name, value in found.items()} == pytest.approx({n: v.mean() for n, v in mean.items()})
    chance = row_metrics([0], [99])
    assert chance["hr@10"] == 0.1 and chance["mean_rank"] == 50.5


def test_cut_offs_that_say_nothing():
    means = compare_hits({"model": row_metrics([0, 7], [0, 0])}, [0, 1], [9, 10]).numbers(["model"])
    for found in (means, {name: intervals.get("users") for name, intervals in means["intervals"].items()}):
        assert [name for name in NAMES if found[name] is None] == ["hr@10", "hr@50", "ndcg@10", "ndcg@50"]


def test_nan_is_refused():
    with pytest.raises(InputError, match="1 of 3 scores are NaN"):
        standing([1.0, np.nan, 2.0], 0)
