"""Groups evaluations into cells (one method at one number of shots on one test set) and says what is within noise."""

from dataclasses import dataclass, field

import numpy as np

from tlrec.evaluation.intervals import bootstrap_aucs, bootstrap_uaucs, interval
from tlrec.evaluation.metrics import auc, uauc
from tlrec.report.published import published_for


@dataclass
class Cell:
    """The seeds of one method at one number of shots. mean is None if AUC is not defined; sd is None with one seed."""

    method: str
    shots: int
    evaluations: list
    mean: float | None = None
    sd: float | None = None
    interval: list | None = None  # of the mean, over the test set's users (or rows)
    over_floor: float | None = None
    over_floor_interval: list | None = None
    below_best: list | None = None  # interval of (this - best cell)
    uaucs: list = field(default_factory=list)  # (uAUC, weighted by rows, users with both labels) of each evaluation
    uauc: float | None = None  # mean of the first; None if users are not known, or none has both labels
    uauc_interval: list | None = None
    uauc_over_floor: float | None = None
    uauc_over_floor_interval: list | None = None
    missing_seeds: list = field(default_factory=list)
    repeated_seeds: list = field(default_factory=list)

    @property
    def seeds(self):
        return [evaluation.seed for evaluation in self.evaluations]

    @property
    def near_floor(self):
        """Whether the difference to the best floor is within noise; None if there is no floor."""
        return contains_zero(self.over_floor_interval)

    @property
    def uauc_near_floor(self):
        """Whether the difference of uAUC to that of the best floor is within noise; None if there is no floor."""
        return contains_zero(self.uauc_over_floor_interval)

    @property
    def near_best(self):
        """Whether the difference to the best cell of the test set is within noise."""
        return contains_zero(self.below_best)


@dataclass
class TestSet:
    """Everything evaluated on the same rows. floors: {name: AUC}; best_floor: name or None; unit: what is resampled.
    uauc_floors and best_uauc_floor: the same for uAUC; uauc_users: how many users have both labels."""

    target: str
    test: dict
    evaluations: list
    cells: list
    floors: dict
    floor_scores: dict
    best_floor: str | None
    best: Cell | None
    unit: str
    published: list
    uauc_floors: dict = field(default_factory=dict)
    best_uauc_floor: str | None = None
    uauc_users: int = 0
    rankings: list = field(default_factory=list)  # of tlrec.report.rankings

    @property
    def labels(self):
        return self.evaluations[0].predictions["label"]

    @property
    def shots(self):
        return sorted({cell.shots for cell in self.cells}, key=shots_order)

    @property
    def methods(self):
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def cell(self, method, shots):
        return next((cell for cell in self.cells if (cell.method, cell.shots) == (method, shots)), None)


def contains_zero(bounds):
    return None if bounds is None else bounds[0] <= 0 <= bounds[1]


def shots_order(shots):
    """Sort key: zero-shot first, all rows (-1) last."""
    return float("inf") if shots == -1 else shots


def test_sets(evaluations, problems, resamples=2000):
    """One TestSet for each test file, identified by digest. Evaluations whose labels differ from those of the others on
    the same file go to `problems` instead."""
    by_digest = {}
    for evaluation in evaluations:
        together = by_digest.setdefault(evaluation.test["sha256"], [])
        if together and not np.array_equal(together[0].predictions["label"], evaluation.predictions["label"]):
            other = together[0].folder
            problems.append((evaluation.folder, f"its labels are not those of {other} on the same test file"))
        else:
            together.append(evaluation)
    targets = [together[0].target for together in by_digest.values()]
    return [
        test_set(together, together[0].target if targets.count(together[0].target) == 1 else None, resamples)
        for together in by_digest.values()
    ]


def test_set(evaluations, target, resamples):
    """The TestSet of evaluations on the same rows. target None: another one has the same name, so show the path."""
    test = evaluations[0].test
    labels = evaluations[0].predictions["label"]
    floor_scores = {}
    for evaluation in evaluations:
        floor_scores = evaluation.predictions["floors"] | floor_scores
    floors = {name: auc(labels, score) for name, score in floor_scores.items()}
    defined = [name for name in floors if floors[name] is not None]
    best_floor = max(defined, key=floors.get, default=None)
    known = [e.predictions["user"] for e in evaluations if e.predictions["user"] is not None]
    result = TestSet(
        target=target or f"{evaluations[0].target} ({test['path']}, {test['sha256'][:8]})",
        test=test,
        evaluations=evaluations,
        cells=group(evaluations),
        floors=floors,
        floor_scores=floor_scores,
        best_floor=best_floor,
        best=None,
        unit="users" if known else "rows",
        published=published_for(evaluations[0].target, test["sha256"]),
    )
    if evaluations[0].metrics["auc"] is not None:
        judge(result, known[0] if known else None, resamples)
        if known:
            judge_within_users(result, known[0], resamples)
    return result


def group(evaluations):
    """Cells in order of base model, method and shots; a method's label names the settings in which its runs differ."""
    several_bases = len({evaluation.base_model for evaluation in evaluations if evaluation.base_model != "none"}) > 1
    alike = {}
    for evaluation in evaluations:
        alike.setdefault((evaluation.base_model, evaluation.method, evaluation.shots), []).append(evaluation)
    cells = {}
    for (base, method, shots), together in alike.items():
        names = sorted({name for evaluation in together for name in evaluation.settings})
        differing = [name for name in names if len({str(evaluation.settings.get(name)) for evaluation in together}) > 1]
        for evaluation in together:
            notes = [base] if several_bases and base != "none" else []
            notes += [f"{name} {evaluation.settings.get(name)}" for name in differing]
            label = f"{method} ({', '.join(notes)})" if notes else method
            cells.setdefault((base, label, shots), []).append(evaluation)
    order = sorted(cells, key=lambda key: (*key[:2], shots_order(key[2])))
    result = []
    for key in order:
        together = sorted(cells[key], key=lambda evaluation: (evaluation.seed is None, evaluation.seed or 0))
        result.append(Cell(method=key[1], shots=key[2], evaluations=together))
    for cell in result:
        of_method = {seed for other in result if other.method == cell.method and other.shots for seed in other.seeds}
        cell.missing_seeds = sorted(of_method - set(cell.seeds) - {None}) if cell.shots else []
        cell.repeated_seeds = sorted({seed for seed in cell.seeds if seed is not None and cell.seeds.count(seed) > 1})
    return result


def judge(test_set, users, resamples):
    """Fill in the numbers of all cells. One set of resamples serves all scores, so every difference is paired."""
    labels = test_set.labels
    scores, columns = all_scores(test_set)
    samples = bootstrap_aucs(labels, scores, users, resamples)
    units = len(labels) if users is None else len(np.unique(users))
    means = [samples[:, places].mean(axis=1) for places in columns]
    floor = samples[:, list(test_set.floors).index(test_set.best_floor)] if test_set.best_floor else None
    for cell, sample in zip(test_set.cells, means, strict=True):
        aucs = [evaluation.metrics["auc"] for evaluation in cell.evaluations]
        cell.mean = float(np.mean(aucs))
        cell.sd = float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None
        cell.interval = interval(sample, units)
        if floor is not None:
            cell.over_floor = cell.mean - test_set.floors[test_set.best_floor]
            cell.over_floor_interval = interval(sample - floor, units)
    best = max(range(len(means)), key=lambda number: test_set.cells[number].mean)
    test_set.best = test_set.cells[best]
    for cell, sample in zip(test_set.cells, means, strict=True):
        cell.below_best = interval(sample - means[best], units)


def judge_within_users(test_set, users, resamples):
    """Fill in uAUC of floors and cells, on the resamples of users that `judge` draws. It is computed from predictions,
    so it also covers evaluations whose metrics.json is from before it had uAUC."""
    labels = test_set.labels
    scores, columns = all_scores(test_set)
    values = [uauc(labels, score, users) for score in scores]
    test_set.uauc_users = values[-1][2]
    if not test_set.uauc_users:
        return
    samples = bootstrap_uaucs(labels, scores, users, resamples)
    test_set.uauc_floors = {name: value[0] for name, value in zip(test_set.floor_scores, values, strict=False)}
    test_set.best_uauc_floor = best = max(test_set.uauc_floors, key=test_set.uauc_floors.get, default=None)
    floor = None if best is None else samples[:, list(test_set.uauc_floors).index(best)]
    for cell, places in zip(test_set.cells, columns, strict=True):
        cell.uaucs = [values[place] for place in places]
        cell.uauc = float(np.mean([value[0] for value in cell.uaucs]))
        sample = samples[:, places].mean(axis=1)
        cell.uauc_interval = interval(sample, test_set.uauc_users)
        if floor is not None:
            cell.uauc_over_floor = cell.uauc - test_set.uauc_floors[best]
            cell.uauc_over_floor_interval = interval(sample - floor, test_set.uauc_users)


def all_scores(test_set):
    """The (n,) scores of the floors, then of all evaluations, and for each cell the range of their places."""
    scores, columns = list(test_set.floor_scores.values()), []
    for cell in test_set.cells:
        columns.append(range(len(scores), len(scores) + len(cell.evaluations)))
        scores += [evaluation.predictions["score"] for evaluation in cell.evaluations]
    return scores, columns
