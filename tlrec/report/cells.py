"""Groups evaluations into cells (one method at one number of shots on one test set) and says what is within noise."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tlrec.evaluation.comparison import compare_scores, units_of
from tlrec.evaluation.metrics import METRICS
from tlrec.report.published import RESULTS


@dataclass
class Cell:
    """The seeds of one method at one number of shots.

    numbers: of the mean over seeds, see tlrec.evaluation.comparison; spread: {metric: standard deviation over seeds};
    to_floor: {metric: numbers of the difference to the floor that is best in it}; to_best: of that to the best cell.
    selected: what selected the checkpoints, in words.
    """

    method: str
    shots: int
    evaluations: list
    selected: str = ""
    numbers: dict = field(default_factory=dict)
    spread: dict = field(default_factory=dict)
    to_floor: dict = field(default_factory=dict)
    to_best: dict = field(default_factory=dict)
    missing_seeds: list = field(default_factory=list)
    repeated_seeds: list = field(default_factory=list)

    @property
    def seeds(self):
        return [evaluation.seed for evaluation in self.evaluations]

    @property
    def folders(self):
        return [evaluation.folder for evaluation in self.evaluations]

    def sign(self, metric, unit):
        """▲ above the best floor, ▼ below it, ≈ within noise of it; "" where no floor or no interval is."""
        bounds = self.to_floor.get(metric, {"intervals": {metric: {}}})["intervals"][metric].get(unit)
        return "" if bounds is None else "▲" if bounds[0] > 0 else "▼" if bounds[1] < 0 else "≈"


@dataclass
class TestSet:
    """Everything evaluated on the same rows.

    floors: {name: numbers}; best_floor: {metric: name}; best: the cell of the best AUC, None if AUC is not defined;
    unit: what intervals leave out; published: {method: {shots: AUC}}.
    """

    target: str
    test: dict
    evaluations: list
    cells: list
    floors: dict
    best_floor: dict
    best: Cell | None
    unit: str
    published: dict
    rankings: list = field(default_factory=list)  # of tlrec.report.rankings

    @property
    def labels(self):
        return self.evaluations[0].predictions["label"]

    @property
    def metrics(self):
        """Names of the metrics that are defined on these rows."""
        return [metric for metric in METRICS if self.cells[0].numbers[metric] is not None]

    @property
    def methods(self):
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def shots(self):
        """Of cells and published numbers, zero-shot first, all rows (-1) last."""
        found = {cell.shots for cell in self.cells} | {s for aucs in self.published.values() for s in aucs}
        return sorted(found, key=shots_order)


def shots_order(shots):
    """Sort key: zero-shot first, all rows (-1) last."""
    return float("inf") if shots == -1 else shots


def shots_name(shots):
    """0, 16 or -1 in words."""
    return {0: "zero-shot", -1: "all rows"}.get(shots, f"{shots} shots")


def test_sets(evaluations, problems):
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
    names = [together[0].target for together in by_digest.values()]
    found = []
    for together in by_digest.values():
        test, name = together[0].test, together[0].target
        full = name if names.count(name) == 1 else f"{name} ({test['path']}, {test['sha256'][:8]})"
        found.append(test_set(together, full))
    return found


def test_set(evaluations, target):
    """The TestSet of evaluations on the same rows, compared in one Comparison, so that every difference is paired."""
    test, cells = evaluations[0].test, group(evaluations)
    floor_scores = {}
    for evaluation in evaluations:
        floor_scores = evaluation.predictions["floors"] | floor_scores
    known = [e.predictions["user"] for e in evaluations if e.predictions["user"] is not None]
    units = {"users": known[0]} if known else units_of(None)
    scores = {("floor", name): score for name, score in floor_scores.items()}
    scores |= {evaluation.folder: evaluation.predictions["score"] for evaluation in evaluations}
    comparison = compare_scores(evaluations[0].predictions["label"], scores, units)
    floors = {name: comparison.numbers([("floor", name)]) for name in floor_scores}
    best_floor = {}
    for metric in METRICS:
        if defined := [name for name in floors if floors[name][metric] is not None]:
            best_floor[metric] = max(defined, key=lambda name: floors[name][metric])
    for cell in cells:
        cell.numbers = comparison.numbers(cell.folders)
        of_seeds = [comparison.numbers([folder]) for folder in cell.folders]
        for metric, name in best_floor.items():
            cell.to_floor[metric] = comparison.numbers(cell.folders, [("floor", name)])
        if len(of_seeds) > 1 and cell.numbers["auc"] is not None:
            values = {
                metric: [one[metric] for one in of_seeds] for metric in METRICS if of_seeds[0][metric] is not None
            }
            cell.spread = {metric: float(np.std(of_metric, ddof=1)) for metric, of_metric in values.items()}
    defined = [cell for cell in cells if cell.numbers["auc"] is not None]
    best = max(defined, key=lambda cell: cell.numbers["auc"], default=None)
    for cell in defined:
        cell.to_best = comparison.numbers(cell.folders, best.folders)
    published, (unit,) = RESULTS.get(test["published"], {}), units
    return TestSet(target, test, evaluations, cells, floors, best_floor, best, unit, published)


def group(evaluations):
    """Cells in order of base model, method and shots; a method's label names the settings in which its runs differ."""
    bases = {evaluation.base_model for evaluation in evaluations} - {"none"}
    runs = pd.DataFrame([{"run": e, "base": e.base_model, "method": e.method, "shots": e.shots} for e in evaluations])
    cells = {}
    for (base, method, shots), together in runs.groupby(["base", "method", "shots"]):
        settings = pd.DataFrame([evaluation.settings for evaluation in together["run"]]).astype(str)
        differing = [name for name in sorted(settings) if settings[name].nunique() > 1]
        for evaluation, of_run in zip(together["run"], settings.to_dict("records"), strict=True):
            notes = [base] if len(bases) > 1 and base != "none" else []
            notes += [f"{name} {of_run[name]}" for name in differing]
            label = f"{method} ({', '.join(notes)})" if notes else method
            cells.setdefault((base, label, shots), []).append(evaluation)
    result = []
    for key in sorted(cells, key=lambda key: (*key[:2], shots_order(key[2]))):
        together = sorted(cells[key], key=lambda evaluation: (evaluation.seed is None, evaluation.seed or 0))
        result.append(Cell(method=key[1], shots=key[2], evaluations=together))
    for cell in result:
        of_method = {seed for other in result if other.method == cell.method and other.shots for seed in other.seeds}
        cell.missing_seeds = sorted(of_method - set(cell.seeds) - {None}) if cell.shots else []
        cell.repeated_seeds = sorted({seed for seed in cell.seeds if seed is not None and cell.seeds.count(seed) > 1})
    return result
