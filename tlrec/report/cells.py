"""Groups evaluations into cells (one method at one number of shots on one test set) and says what is within noise."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from tlrec.evaluation.comparison import compare_scores
from tlrec.evaluation.metrics import METRICS
from tlrec.report.published import RESULTS
from tlrec.report.rankings import rankings
from tlrec.runs import flags_of

# Flags that a column of the report shows already.
SHOWN = {"--lora_weights", "--sample", "--seed", "--source", "--stage", "--target"}


class Measured(NamedTuple):
    """A metric, or a difference in it: None where it is not defined. interval: [low, high]; None where there is no
    interval."""

    value: float | None
    interval: list | None


@dataclass
class Cell:
    """The seeds of one method at one number of shots.

    selected: what selected the checkpoints, in words; other_scoring: settings in which it was not scored as most
    others. By metric: numbers, of the mean over seeds, and over_floor, its difference to the floor that is best in that
    metric, are Measured; spread is the standard deviation over seeds.
    """

    method: str
    shots: int
    evaluations: list
    selected: str
    other_scoring: list
    numbers: dict
    over_floor: dict
    spread: dict

    @property
    def seeds(self):
        return [evaluation.facts["seed"] for evaluation in self.evaluations]

    @property
    def names(self):
        """Of its scores, in a Comparison."""
        return [evaluation.folder for evaluation in self.evaluations]


def shots_order(shots):
    """Sort key: zero-shot first, all rows (-1) last."""
    return float("inf") if shots == -1 else shots


def shots_name(shots):
    """0, 16 or -1 in words."""
    return {0: "zero-shot", -1: "all rows"}.get(shots, f"{shots} shots")


def test_sets(evaluations, files, problems):
    """One TestSet for each test file, identified by digest. files: the DataFiles. Evaluations whose labels differ from
    those of the others on the same file go to `problems` instead."""
    by_digest = {}
    for evaluation in evaluations:
        together = by_digest.setdefault(evaluation.facts["test_sha256"], [])
        if together and not np.array_equal(together[0].predictions["label"], evaluation.predictions["label"]):
            other = together[0].folder
            problems.append((evaluation.folder, f"its labels are not those of {other} on the same test file"))
        else:
            together.append(evaluation)
    names = Counter(together[0].facts["target"] for together in by_digest.values())
    return [TestSet(together, files, names) for together in by_digest.values()]


class TestSet:
    """Everything evaluated on the same rows, compared in one Comparison, so that every difference is paired.

    target: its name; test: the described file. floors: {name: {metric: Measured}}; best_floor: {metric: name};
    metrics: names of those that are defined here. methods: of the cells, in order; best: the cell of the best AUC, None
    if AUC is not defined. unit: what intervals leave out. published: {method: {shots: AUC}}; rankings: of
    tlrec.report.rankings.
    """

    def __init__(self, evaluations, files, names):
        """files: the DataFiles. names: how many test sets have each name."""
        first, users, scores = evaluations[0], None, {}
        self.evaluations, self.labels = evaluations, first.predictions["label"]
        self.target, self.test = first.facts["target"], first.metrics["run"]["data"]["test"]
        if names[self.target] > 1:
            self.target += f" ({self.test['path']}, {self.test['sha256'][:8]})"
        for evaluation in evaluations:
            users = evaluation.predictions["user"] if users is None else users
            floors = {("floor", name): score for name, score in evaluation.predictions["floors"].items()}
            scores = floors | scores | {evaluation.folder: evaluation.predictions["score"]}
        self.unit = "rows" if users is None else "users"
        self.comparison = compare_scores(self.labels, scores, {self.unit: users})
        self.floors = {name[1]: self.measure([name]) for name in scores if name[0] == "floor"}
        self.metrics = [metric for metric, one in self.measure([first.folder]).items() if one.value is not None]
        values = {metric: {name: one[metric].value for name, one in self.floors.items()} for metric in self.metrics}
        self.best_floor = {metric: max(of, key=of.get) for metric, of in values.items() if of}
        self.cells = [self.cell(*one, files) for one in group(evaluations)]
        self.methods = list(dict.fromkeys(cell.method for cell in self.cells))
        self.best = max(self.cells, key=lambda cell: cell.numbers["auc"].value) if "auc" in self.metrics else None
        self.published = RESULTS.get(self.test["published"], {})
        self.rankings = rankings(self.cells)

    def measure(self, of, minus=()):
        """{metric: Measured} of names of the Comparison, as its `numbers`."""
        numbers = self.comparison.numbers(of, minus)
        return {metric: Measured(numbers[metric], numbers["intervals"][metric].get(self.unit)) for metric in METRICS}

    def cell(self, method, shots, own, files):
        """The Cell of the evaluations `own`."""
        over_floor, names = {}, [evaluation.folder for evaluation in own]
        for metric, floor in self.best_floor.items():
            over_floor[metric] = self.measure(names, [("floor", floor)])[metric]
        spread = pd.DataFrame([evaluation.metrics for evaluation in own])[list(METRICS)].astype(float).std().dropna()
        selected, scoring = files.selected(own), other_scoring(own, self.evaluations)
        return Cell(method, shots, own, selected, scoring, self.measure(names), over_floor, spread.to_dict())


def group(evaluations):
    """[(method, shots, evaluations in order of seeds)] in order of base model, method and shots; a method's label names
    the settings in which its runs differ."""
    runs = pd.DataFrame([evaluation.facts for evaluation in evaluations]).assign(run=evaluations)
    bases = set(runs["base_model"]) - {"none"}
    for (base, method, _), together in runs.groupby(["base_model", "method", "shots"]):
        settings = pd.DataFrame(map(settings_of, together["run"]), index=together.index).astype(str)
        differing = [name for name in sorted(settings) if settings[name].nunique() > 1]
        for place, of_run in settings[differing].iterrows():
            notes = [base] if len(bases) > 1 and base in bases else []
            notes += [f"{name} {value}" for name, value in of_run.items()]
            runs.loc[place, "label"] = f"{method} ({', '.join(notes)})" if notes else method
    runs = runs.assign(order=runs["shots"].map(shots_order)).sort_values("seed", kind="stable")
    by_cell = runs.groupby(["base_model", "label", "order"])
    return [(label, int(own["shots"].iloc[0]), list(own["run"])) for (_, label, _), own in by_cell]


def settings_of(evaluation):
    """{name: value} of what may differ between runs of the same method, shots and seed: flags, frame, data."""
    run, chain = evaluation.metrics["run"], evaluation.chain
    scoring = run.get("scoring") or {}
    settings = {"frame": run.get("frame")}
    settings |= {f"{name} in evaluation": scoring.get(name) for name in ("quantization", "cutoff_len")}
    stages = {f"stage {position} ": stage for position, stage in enumerate(chain[:-1], start=1)}
    for prefix, stage in (stages | {"": chain[-1] if chain else run}).items():
        flags = {name: value for name, value in flags_of(stage["arguments"]).items() if name not in SHOWN}
        settings |= {prefix + name.removeprefix("--"): value for name, value in flags.items()}
        if (chain or run.get("stage") == "baseline") and (train := stage["data"].get("train")):
            settings[f"{prefix}training data"] = f"sha256 {train['sha256'][:8]}"
    return settings


def other_scoring(own, evaluations):
    """Settings that affect the scores of some evaluations, `own`, and differ from most of all `evaluations`: a list of
    words. Their differences to others do not come from the method alone."""
    known, here = ([e.metrics["run"].get("scoring") or {} for e in some] for some in (evaluations, own))
    usual = {
        name: Counter(str(one[name]) for one in known if name in one).most_common(1)[0][0]
        for name in dict.fromkeys(name for one in known for name in one)
    }
    settings = dict.fromkeys(item for one in here for item in one.items())
    return [f"{name} {value} (most: {usual[name]})" for name, value in settings if str(value) != usual[name]]
