"""The numbers of an evaluation. A metric is a function `(labels, scores, users) -> number` in a dict; a new one is one
entry, and stands in metrics.json, in the table of evaluate.py, in the report and in `tlrec.compare` by itself.

labels: (n,) of 0 and 1. scores: (n,) floats. users: (n,) ids, or None where they are not known. The number is None
where it is not defined, never 0.5. Two scores are made of the probabilities of the two answers, p_yes and p_no:
    published    softmax over the two *probabilities*, as the published code does; it orders rows by p_yes - p_no
    log-odds     log p_yes - log p_no, the model's own order between the two answers
"""

import numpy as np

from tlrec.errors import InputError


def two_probabilities_to_score(p_yes, p_no):
    """The published score: softmax over (p_yes, p_no) once more, first component; orders rows by p_yes - p_no."""
    return 1 / (1 + np.exp(np.subtract(p_no, p_yes, dtype=np.float64)))


def log_odds(p_yes, p_no):
    """log p_yes - log p_no, infinite where one of them is 0 and 0 where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.log(p_yes) - np.log(p_no), nan=0.0, posinf=np.inf, neginf=-np.inf)


def probability_of_yes(p_yes, p_no):
    """P(Yes) given that the answer is one of the two; 0.5 where both are 0."""
    p_yes, p_no = np.asarray(p_yes, np.float64), np.asarray(p_no, np.float64)
    mass = p_yes + p_no
    return np.divide(p_yes, mass, out=np.full(len(mass), 0.5), where=mass > 0)


def auc(labels, scores, users=None):
    """Area under the ROC curve of all rows together; rewards knowing which users are generous."""
    found = aucs_within(labels, scores, np.zeros(len(labels), int))[0]
    return None if np.isnan(found) else float(found)


def uauc(labels, scores, users):
    """AUC within users, the mean over the users with both labels: each user's rows are ranked by themselves, so only
    knowing what a user likes is rewarded. UAUC of Zhang et al. (2023, CoLLM, arXiv 2310.19488)."""
    if users is None:
        return None
    aucs = aucs_within(labels, scores, users)
    return None if np.isnan(aucs).all() else float(np.nanmean(aucs))


def uauc_weighted(labels, scores, users):
    """`uauc` with each user weighted by the number of its rows."""
    if users is None:
        return None
    aucs, rows = aucs_within(labels, scores, users), np.unique(users, return_counts=True)[1]
    known = ~np.isnan(aucs)
    return float(np.average(aucs[known], weights=rows[known])) if known.any() else None


def aucs_within(labels, scores, users):
    """AUC of each user's rows, (users,) in the order of np.unique; NaN for a user with one label only. Raises
    InputError for scores of NaN."""
    if bad := int(np.isnan(scores).sum()):
        raise InputError(f"{bad} of {len(scores)} scores are NaN: the model has diverged or its --dtype overflows")
    labels, members = np.asarray(labels), np.unique(users, return_inverse=True)[1]
    ranks = np.unique(scores, return_inverse=True)[1]  # finite where log-odds are not
    # Rows of one user with the same score form a tie. Ties in order of user and score, with their dislikes below:
    _, tie = np.unique(members * (ranks.max() + 1) + ranks, return_inverse=True)
    disliked_in_tie = np.bincount(tie, weights=1 - labels)
    disliked, liked = np.bincount(members, weights=1 - labels), np.bincount(members, weights=labels)
    below = np.cumsum(disliked_in_tie)[tie] - disliked_in_tie[tie] - (np.cumsum(disliked) - disliked)[members]
    right = np.bincount(members, weights=labels * (below + disliked_in_tie[tie] / 2))  # ties count half
    pairs = liked * disliked
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def accuracy(labels, probability, users=None):
    """Share of rows whose answer is the more probable one."""
    return float(((probability > 0.5) == labels).mean())


def log_loss(labels, probability, users=None):
    """Mean of -log P(the right answer), in nats (scikit-learn's)."""
    from sklearn.metrics import log_loss

    return float(log_loss(labels, probability, labels=[0, 1]))


def brier(labels, probability, users=None):
    """Mean squared distance of P(Yes) to the label."""
    return float(np.mean((probability - labels) ** 2))


def ece(labels, probability, users=None):
    """Mean over rows of |share of Yes - mean P(Yes)| in ten bins of equal width; an edge belongs to the bin above.

    Naeini, Cooper and Hauskrecht (2015, AAAI), for the probability of the positive class.
    """
    bins = np.minimum((probability * 10).astype(int), 9)
    return float(np.abs(np.bincount(bins, weights=labels - probability)).sum() / len(labels))


# Of any score, that of a history baseline too; with intervals and differences.
METRICS = {"auc": auc, "uauc": uauc, "uauc_weighted": uauc_weighted}
# Of P(Yes), given that the answer is Yes or No; `scores` are these probabilities.
CALIBRATION = {"accuracy": accuracy, "log_loss": log_loss, "brier": brier, "ece": ece}
