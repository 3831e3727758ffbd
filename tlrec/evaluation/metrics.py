"""The numbers of an evaluation, and the floors that need no training, to compare them with.

Two scores are made of the probabilities of the two answers, p_yes and p_no:
    published    softmax over the two *probabilities*, as the published code does; it orders rows by p_yes - p_no
    log-odds     log p_yes - log p_no, the model's own order between the two answers
Everything that needs a probability (accuracy, log-loss, Brier, calibration) uses P(Yes) = p_yes / (p_yes + p_no).

AUC ranks all rows of all users together, and so rewards knowing which users are generous; uAUC ranks the rows of each
user and averages over users, and so rewards only knowing what a user likes.

Intervals (tlrec/evaluation/intervals.py) are bootstrap intervals, over rows and over users. Rows of one user overlap
and are not independent, so the interval over users is the right one; the one over rows is given too, because papers
that print an interval print that one.
"""

import numpy as np

from tlrec.data.preferences import parse_input
from tlrec.data.records import LABELS
from tlrec.errors import InputError

RELIABILITY_BINS = 10
ITEM_PRIOR = 5  # made-up ratings, half of them likes, that are added to an item's own for its like-rate


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


def history_floor(preferences):
    """Share of liked items in the history, (likes + 0.5) / (items + 1), as an (n,) score. Needs no training."""
    return np.array([(len(p.likes) + 0.5) / (len(p.history) + 1) for p in preferences])


def item_floor(preferences, train_records):
    """Like-rate of each target among the targets of `train_records`, as an (n,) score.

    (liked + 2.5) / (times + 5): `ITEM_PRIOR` made-up ratings, half of them likes, keep the rates of items that were
    seen once or twice near 0.5; an item never seen gets 0.5. Only targets count, not histories: with overlapping
    windows a history repeats the same rating up to ten times. Raises InputError for a train record in another form.
    """
    times, liked = {}, {}
    for row, record in enumerate(train_records, start=1):
        try:
            target = parse_input(record["input"]).target
        except ValueError as error:
            raise InputError(f"training data: row {row}: {error}") from None
        times[target] = times.get(target, 0) + 1
        liked[target] = liked.get(target, 0) + LABELS[record["output"]]
    targets = [p.target for p in preferences]
    return np.array([(liked.get(t, 0) + ITEM_PRIOR / 2) / (times.get(t, 0) + ITEM_PRIOR) for t in targets])


def floor_scores(preferences, train_records=None):
    """{name: (n,) score} of the rules that need no language model: "history", and with train records "item" and
    "history + item", the sum of the two rates. {} without preferences."""
    if preferences is None:
        return {}
    floors = {"history": history_floor(preferences)}
    if train_records is not None:
        floors["item"] = item_floor(preferences, train_records)
        floors["history + item"] = floors["history"] + floors["item"]
    return floors


def auc(labels, scores):
    """Area under the ROC curve (scikit-learn's), None if only one class occurs. Raises InputError for scores of NaN."""
    from sklearn.metrics import roc_auc_score

    ranks = _ranks(scores)
    return None if np.min(labels) == np.max(labels) else float(roc_auc_score(labels, ranks))


def uauc(labels, scores, users):
    """AUC within users: (mean over the users with both labels, the same weighted by rows, how many such users).

    labels: (n,) of 0 and 1. scores: (n,). users: (n,) ids. The means are None without such a user. Each user's AUC
    ranks that user's rows only. A score that only knows which users like much gets 0.5, as by chance; AUC rewards it.
    UAUC as in Zhang et al. (2023, CoLLM, arXiv 2310.19488): the AUC of each user, averaged over users. Raises
    InputError for scores of NaN.
    """
    members = np.unique(users, return_inverse=True)[1]
    aucs, rows = user_aucs(labels, scores, members), np.bincount(members)
    known = ~np.isnan(aucs)
    if not known.any():
        return None, None, 0
    return float(aucs[known].mean()), float(np.average(aucs[known], weights=rows[known])), int(known.sum())


def user_aucs(labels, scores, members):
    """AUC of each user's rows, (users,), NaN for a user with one label only. members: (n,) user numbers from 0."""
    labels, ranks = np.asarray(labels), _ranks(scores)
    # Rows of one user with the same score form a tie. Ties in order of user and score, with their dislikes below:
    _, tie = np.unique(members * (ranks.max() + 1) + ranks, return_inverse=True)
    disliked_in_tie = np.bincount(tie, weights=1 - labels)
    disliked, liked = np.bincount(members, weights=1 - labels), np.bincount(members, weights=labels)
    below = np.cumsum(disliked_in_tie)[tie] - disliked_in_tie[tie] - (np.cumsum(disliked) - disliked)[members]
    right = np.bincount(members, weights=labels * (below + disliked_in_tie[tie] / 2))  # ties count half
    pairs = liked * disliked
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _ranks(scores):
    """Rank of each score among the distinct ones, from 0; log-odds may be infinite, ranks are always finite."""
    if bad := int(np.isnan(scores).sum()):
        raise InputError(f"{bad} of {len(scores)} scores are NaN: the model has diverged or its --dtype overflows")
    return np.unique(scores, return_inverse=True)[1]


def reliability_bins(labels, probability, bins=RELIABILITY_BINS):
    """Rows by predicted P(Yes), in `bins` bins of equal width: a list of {"low", "high", "n", "mean_probability",
    "share_positive"}, the last two None where n is 0. A probability on an edge belongs to the bin above; 1 to the last.
    """
    labels, probability = np.asarray(labels), np.asarray(probability)
    members = np.minimum((probability * bins).astype(int), bins - 1)
    table = []
    for number in range(bins):
        inside = members == number
        some = inside.any()
        table.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "n": int(inside.sum()),
                "mean_probability": float(probability[inside].mean()) if some else None,
                "share_positive": float(labels[inside].mean()) if some else None,
            }
        )
    return table


def expected_calibration_error(bins):
    """ECE of `reliability_bins`: mean over rows of |share of Yes - mean P(Yes)| in their bin.

    Naeini, Cooper and Hauskrecht (2015, AAAI), for the probability of the positive class.
    """
    n = sum(bin["n"] for bin in bins)
    return sum(bin["n"] * abs(bin["share_positive"] - bin["mean_probability"]) for bin in bins if bin["n"]) / n


def by_history_size(labels, scores, preferences):
    """AUC by number of history items, those of ten and more together; None without preferences."""
    if preferences is None:
        return None
    sizes = np.array([min(len(p.history), 10) for p in preferences])
    return _slices(labels, scores, [(str(size) if size < 10 else "10+", sizes == size) for size in np.unique(sizes)])


def by_share_of_likes(labels, scores, preferences):
    """AUC by share of liked items in the history, in fifths; rows without history apart. None without preferences."""
    if preferences is None:
        return None
    fifths = np.array([min(5 * len(p.likes) // len(p.history), 4) if p.history else -1 for p in preferences])
    names = {-1: "no history", **{k: f"{20 * k}-{20 * (k + 1)} %" for k in range(5)}}
    return _slices(labels, scores, [(names[fifth], fifths == fifth) for fifth in np.unique(fifths)])


def _slices(labels, scores, parts):
    labels, scores = np.asarray(labels), np.asarray(scores)
    return [
        {"slice": name, "n": part.sum(), "n_positive": labels[part].sum(), "auc": auc(labels[part], scores[part])}
        for name, part in parts
    ]
