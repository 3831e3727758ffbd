"""Intervals by the jackknife over users: a metric again without each user, and Student's t.

Rows of one user overlap and are not independent, so users are left out whole; over rows, the interval is given beside it
because papers print that one. The standard error is the jackknife's, and the degrees of freedom are those of users of
unequal weight, Satterthwaite's (sum w^2)^2 / sum w^4 - 1, which is n - 1 for n equal ones: on the published Movie test,
where 3 of 16 users have half of the rows, 4.4. Simulated with 16 users, 95 % intervals cover 0.93 to 0.97; those of a
percentile bootstrap covered 0.87 to 0.93 (tests/evaluation/test_intervals.py, which chose this). No randomness.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
GROUPS = 100  # more users, or rows, than these are left out in groups


@dataclass(frozen=True)
class Jackknife:
    """A metric of k scores of the same rows.

    values: (k,). without: (groups, k), the same without each group of users. chance: (groups,), the same of a score that
    is equal for all rows. weights: (groups,), of a user in the metric. least: what the metric cannot be below. NaN where
    not defined.
    """

    values: np.ndarray
    without: np.ndarray
    chance: np.ndarray
    weights: np.ndarray
    least: float = -np.inf  # no value is below it

    def interval(self, of, minus=()):
        """[low, high] that holds LEVEL, of the mean over the scores `of` (places), or of its difference to the mean over
        the scores `minus`.

        None where users do not tell how certain it is: there are fewer than two, leaving one out makes it undefined, or
        nothing varies between them. So a method without a single hit has no interval, and no difference to it has one:
        that its rows agree in 0 does not mean that 0 is exact. What is chance by construction, equal scores, is exact.
        """
        from scipy.stats import t

        left, centre = np.zeros(len(self.without)), 0.0
        for sign, places in ((1, of), (-1, minus)):
            if len(places):
                part = self.without[:, list(places)].mean(axis=1)
                if stands_still(part) and not np.allclose(part, self.chance, rtol=0, atol=1e-12):
                    return None
                left, centre = left + sign * part, centre + sign * self.values[list(places)].mean()
        matters = self.weights > 0
        left, weights = left[matters], self.weights[matters]
        if len(left) < 2 or not np.isfinite(left).all() or stands_still(left):
            return None
        error = np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())
        freedom = (weights**2).sum() ** 2 / (weights**4).sum() - 1
        reach = t.ppf((1 + LEVEL) / 2, max(freedom, 1)) * error
        low = centre - reach if len(minus) else max(centre - reach, self.least)
        return [float(low), float(centre + reach)]


def stands_still(values):
    """Whether they are equal but for rounding."""
    return np.ptp(values) < 1e-12 * max(1, np.abs(values).max())


def jackknife(metric, labels, scores, users=None):
    """The Jackknife of a metric (tlrec/evaluation/metrics.py) of `scores`, a sequence of (n,) arrays, over users, or
    over rows where they are None."""
    labels, columns = np.asarray(labels), [np.asarray(score) for score in (*scores, np.zeros(len(labels)))]
    groups = _groups(np.arange(len(labels)) if users is None else users)

    def measure(rows):
        own = users if users is None else np.asarray(users)[rows]
        return [metric(labels[rows], column[rows], own) if len(rows) else None for column in columns]

    everything = np.arange(len(labels))
    values = np.array(measure(everything), float)
    without = np.array([measure(np.flatnonzero(groups != group)) for group in range(groups.max() + 1)], float)
    twice = np.array(measure(np.concatenate([everything, np.flatnonzero(groups % 2 == 0)])), float)
    equal = np.allclose(twice, values, rtol=0, atol=1e-12)  # rows given twice change nothing: users weigh the same
    weights = np.where((without == values).all(axis=1), 0.0, 1.0 if equal else np.bincount(groups))
    return Jackknife(values[:-1], without[:, :-1], without[:, -1], weights)


def jackknife_means(values, users=None, chance=None, least=-np.inf):
    """The Jackknife of means over rows of the columns of `values` (n, k). chance: (n,), what each row has
    by chance. least: of the values."""
    values = np.asarray(values, np.float64)
    groups = _groups(np.arange(len(values)) if users is None else users)
    columns = np.column_stack([values, np.full(len(values), np.nan) if chance is None else chance])
    rows = np.bincount(groups)
    sums = np.stack([np.bincount(groups, weights=column) for column in columns.T], axis=1)
    with np.errstate(invalid="ignore"):
        without = (sums.sum(axis=0) - sums) / (len(values) - rows)[:, None]
    return Jackknife(values.mean(axis=0), without[:, :-1], without[:, -1], rows.astype(float), least)


def _groups(ids):
    """(n,) group numbers from 0, at most GROUPS: that of a user, or of several."""
    return np.unique(ids, return_inverse=True)[1] % GROUPS
