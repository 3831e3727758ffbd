"""Every metric of several scores of the same rows, and of their differences, with intervals: what metrics.json, the
report and `tlrec.compare` say."""

import numpy as np

from tlrec.evaluation.intervals import jackknife
from tlrec.evaluation.metrics import METRICS


def units_of(users):
    """{unit: ids or None} of what an interval may leave out: rows, and users where they are known."""
    return {"rows": None} | ({} if users is None else {"users": users})


class Comparison:
    """labels: (n,) of 0 and 1. scores: {name: (n,)}. units: see `units_of`."""

    def __init__(self, labels, scores, units):
        self.places = {name: place for place, name in enumerate(scores)}
        self.values = {}
        self.estimates = {}
        users = units.get("users")
        for metric, function in METRICS.items():
            self.values[metric] = np.array([function(labels, score, users) for score in scores.values()], float)
            found = {unit: jackknife(function, labels, list(scores.values()), ids) for unit, ids in units.items()}
            # without users a metric of them is not defined, and has no interval over rows
            self.estimates[metric] = {unit: one for unit, one in found.items() if not np.isnan(one.values).all()}

    def numbers(self, of, minus=()):
        """{metric: number or None, "intervals": {metric: {unit: [low, high] or None}}} of the mean over the scores `of`
        (names, as the seeds of one method), or of its difference to the mean over the scores `minus`."""
        of, minus = ([self.places[name] for name in names] for names in (of, minus))
        result, intervals = {}, {}
        for metric, values in self.values.items():
            value = values[of].mean() - (values[minus].mean() if minus else 0)
            result[metric] = None if np.isnan(value) else float(value)
            intervals[metric] = {unit: one.interval(of, minus) for unit, one in self.estimates[metric].items()}
        return result | {"intervals": intervals}
