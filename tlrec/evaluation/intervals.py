"""Bootstrap intervals over rows and over users, and DeLong's test."""

import numpy as np

from tlrec.errors import InputError
from tlrec.evaluation.metrics import user_aucs

LEVEL = 0.95
CELLS = 4_000_000  # resamples x rows held at a time


def bootstrap_aucs(labels, scores, groups=None, resamples=2000, seed=0):
    """AUC of k scores on the same bootstrap resamples, so that their differences are paired.

    labels: (n,) of 0 and 1. scores: k arrays of shape (n,). groups: (n,) ids; whole groups (users) are drawn with
    replacement instead of rows. Returns (resamples, k); NaN where a resample holds one class only.

    A resample is a count for every row, so nothing is sorted again: the rows' positions in the sorted scores are known,
    and the AUC is the share of (positive, negative) pairs in the right order, each pair weighted by its counts.
    """
    labels = np.asarray(labels)
    members = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(members.max()) + 1
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    places = []
    for score in scores:
        score = np.asarray(score, np.float64)
        order = negative[np.argsort(score[negative], kind="stable")]
        below = np.searchsorted(score[order], score[positive], side="left")
        not_above = np.searchsorted(score[order], score[positive], side="right")
        places.append((order, below, not_above))

    result = np.full((resamples, len(scores)), np.nan)
    for drawn, counts in _drawn_counts(len(labels), units, resamples, seed):
        counts = counts[members].astype(np.float64)  # row x resample
        positive_counts = counts[positive]
        pairs = positive_counts.sum(axis=0) * counts[negative].sum(axis=0)
        for column, (order, below, not_above) in enumerate(places):
            cumulated = np.zeros((len(order) + 1, counts.shape[1]))
            np.cumsum(counts[order], axis=0, out=cumulated[1:])
            right = np.einsum("ij,ij->j", positive_counts, cumulated[below])
            right += np.einsum("ij,ij->j", positive_counts, cumulated[not_above])  # ties count half
            np.divide(right / 2, pairs, out=result[drawn, column], where=pairs > 0)
    return result


def bootstrap_uaucs(labels, scores, users, resamples=2000, seed=0, weighted=False):
    """uAUC of k scores (`tlrec.evaluation.metrics.uauc`) on the resamples of users that `bootstrap_aucs` draws.

    Shapes are the same; users are its groups. weighted: users are weighted by their rows. Returns (resamples, k); NaN
    where no user of a resample has both labels. Whole users are drawn, so a user's own AUC does not change, and a
    resample is a mean of them. Rows are not resampled: within a user they overlap, and a user could lose one label.
    """
    members = np.unique(users, return_inverse=True)[1]
    result = np.full((resamples, len(scores)), np.nan)
    by_user = [user_aucs(labels, score, members) for score in scores]
    weight = np.bincount(members) if weighted else np.ones(members.max() + 1)
    weight = np.where(np.isnan(by_user[0]), 0.0, weight)  # NaN depends on the labels, not on the score
    for drawn, counts in _drawn_counts(len(labels), len(weight), resamples, seed):
        total = counts.T @ weight
        for column, aucs in enumerate(by_user):
            summed = counts.T @ (weight * np.nan_to_num(aucs))
            np.divide(summed, total, out=result[drawn, column], where=total > 0)
    return result


def bootstrap_means(values, groups=None, resamples=2000, seed=0):
    """Means over rows of the columns of `values` (n, k), on the same resamples of the rows, or of whole groups (users),
    for all columns, drawn as `bootstrap_aucs` draws them. Returns (resamples, k)."""
    values = np.asarray(values, np.float64)
    members = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rows = np.bincount(members)
    sums = np.stack([np.bincount(members, weights=column) for column in values.T], axis=1)
    result = np.empty((resamples, sums.shape[1]))
    for drawn, counts in _drawn_counts(len(members), len(rows), resamples, seed):
        result[drawn] = (counts.T @ sums) / (counts.T @ rows)[:, None]
    return result


def _drawn_counts(rows, units, resamples, seed):
    """Draw `units` units from as many, with replacement, `resamples` times. Yields (slice of resamples, how often each
    unit was drawn, an int array (units, resamples in the slice)), as many at a time as CELLS allows for `rows` rows."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CELLS // rows)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        draws = generator.integers(units, size=(size, units)) * size + np.arange(size)[:, None]
        yield slice(start, start + size), np.bincount(draws.ravel(), minlength=units * size).reshape(units, size)


def interval(samples, units):
    """[low, high] that holds LEVEL of the bootstrap `samples`, None with fewer than two units or defined samples.

    units: how many rows or users were resampled. The percentiles are the "expanded" ones of Hesterberg (2015, What
    Teachers Should Know About the Bootstrap, section 5.3.3): with few units plain percentiles are too narrow, as is a
    normal interval with its 1/n variance, so they are widened as the t interval is. No change for a thousand rows.
    """
    from scipy.stats import norm, t

    samples = samples[~np.isnan(samples)]
    if units < 2 or len(samples) < 2:
        return None
    tail = norm.cdf(np.sqrt(units / (units - 1)) * t.ppf((1 - LEVEL) / 2, units - 1))
    return np.quantile(samples, [tail, 1 - tail]).tolist()


def delong(labels, scores):
    """AUCs of k scores on the same rows and their covariance matrix, without resampling: (k,), (k, k).

    Fast algorithm by midranks of Sun and Xu (2014, IEEE Signal Processing Letters 21(11), 1389-1393) for the estimator
    of DeLong, DeLong and Clarke-Pearson (1988). Takes rows as independent. Raises InputError with less than two rows of
    a class.
    """
    from scipy.stats import rankdata

    labels, scores = np.asarray(labels), np.atleast_2d(scores)
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise InputError(f"DeLong needs two rows of each class, there are {m} liked and {n} disliked")
    ranks = rankdata(np.hstack([positive, negative]), axis=1)
    # Share of negatives below each positive, and of positives above each negative.
    below = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    above = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n
    return below.mean(axis=1), covariance


def delong_test(labels, first, second):
    """Paired DeLong test of equal AUC: {"difference" (first - second), "standard_error", "z", "p" (two-sided)}.

    z and p are None where the two scores order the rows alike (no variance to divide by).
    """
    from scipy.stats import norm

    aucs, covariance = delong(labels, [first, second])
    error = np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
    difference = aucs[0] - aucs[1]
    z = float(difference / error) if error > 1e-12 else None
    p = None if z is None else float(2 * norm.sf(abs(z)))
    return {"difference": float(difference), "standard_error": float(error), "z": z, "p": p}
