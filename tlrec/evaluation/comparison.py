"""Every metric of several scores of the same rows, and of their differences, with intervals: what metrics.json,
ranking.json, the report and `tlrec.compare` say."""

import numpy as np

from tlrec.evaluation.intervals import jackknife
from tlrec.evaluation.metrics import METRICS


class Comparison:
    """names: of the scores. estimates: {metric: {unit that is left out: the Jackknife of these scores}}; without a unit,
    the metric is not defined."""

    def __init__(self, names, estimates):
        self.places = {name: place for place, name in enumerate(names)}
        self.estimates = estimates

    def numbers(self, of, minus=()):
        """{metric: number or None, "intervals": {metric: {unit: [low, high] or None}}} of the mean over the scores `of`
        (names, as the seeds of one method), or of its difference to the mean over the scores `minus`."""
        of, minus = ([self.places[name] for name in names] for names in (of, minus))
        result, intervals = dict.fromkeys(self.estimates), {}
        for metric, units in self.estimates.items():
            for one in units.values():
                value = one.values[of].mean() - (one.values[minus].mean() if minus else 0)
                result[metric] = None if np.isnan(value) else float(value)
            intervals[metric] = {unit: one.interval(of, minus) for unit, one in units.items()}
        return result | {"intervals": intervals}

    def beside(self, name, others):
        """{name of another: its `numbers`, and under "difference" those of `name` minus it}."""
        return {other: self.numbers([other]) | {"difference": self.numbers([name], [other])} for other in others}


def units_of(users):
    """{unit: ids or None} of what an interval may leave out: rows, and users where they are known."""
    return {"rows": None} | ({} if users is None else {"users": users})


def compare_scores(labels, scores, units):
    """The Comparison of METRICS. labels: (n,) of 0 and 1. scores: {name: (n,)}. units: see `units_of`."""
    estimates = {}
    for metric, function in METRICS.items():
        found = {unit: jackknife(function, labels, list(scores.values()), ids) for unit, ids in units.items()}
        # without users a metric of them is not defined, and has no interval over rows
        estimates[metric] = {unit: one for unit, one in found.items() if not np.isnan(one.values).all()}
    return Comparison(scores, estimates)
