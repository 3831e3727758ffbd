"""Finds the runs of a workspace by their files, never by the names of folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tlrec.errors import InputError
from tlrec.evaluation.ranks import RANKING, RANKS, read_ranking
from tlrec.evaluation.results import read_evaluation
from tlrec.files import printable
from tlrec.probe import knowledge
from tlrec.runs import read_run


@dataclass
class Evaluation:
    """An evaluation as its files have it, and what they say about the method."""

    folder: str  # below ROOT
    metrics: dict
    predictions: dict  # of tlrec.evaluation.results.read_evaluation
    chain: list  # run.json of every stage, first to last; [] for the base model alone
    facts: dict  # of `facts_of`
    ranking: dict | None = None  # of ranking.json
    ranks: list = field(default_factory=list)  # of ranks.jsonl

    @property
    def runs(self):
        """Every stage, then the evaluation."""
        return [*self.chain, self.metrics["run"]]


@dataclass
class Workspace:
    """evaluations; tunings: run.json of the tuners' runs; probes: (folder, probe.json); problems: (folder, what is
    wrong)."""

    evaluations: list = field(default_factory=list)
    tunings: list = field(default_factory=list)
    probes: list = field(default_factory=list)
    problems: list = field(default_factory=list)


def collect(root):
    """Everything under `root`, in the order of folder names. Links are followed, hidden folders left out."""
    workspace, seen = Workspace(), set()

    def problem(folder, text):
        workspace.problems.append((printable(Path(folder).relative_to(root)), printable(text)))

    def unreadable(error):
        problem(error.filename, f"cannot be read: {error.strerror}")

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=unreadable):
        if (real := os.path.realpath(folder)) in seen:  # a link into a folder that was visited, or back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if "trainer_state.json" in files:
            problem(folder, "a trainer's checkpoint: its run has not finished")
            subfolders.clear()
            continue
        if "adapter_config.json" in files and "run.json" not in files:
            problem(folder, "an adapter without run.json: unfinished, or not made by TLRec")
        try:
            read_folder(workspace, Path(folder), printable(Path(folder).relative_to(root)), files)
        except InputError as error:
            problem(folder, str(error))
    return workspace


def read_folder(workspace, folder, name, files):
    """Add what `folder`, called `name` in the report, holds to the Workspace. Raises InputError for what is damaged, or
    does not belong to the rest; what was read until then stays."""
    run = read_run(folder) if "run.json" in files else None
    if run and run.get("stage"):  # an exported model has a run.json too
        workspace.tunings.append(run)
    if "metrics.json" in files:
        evaluation = read_result(folder, name, run)
        workspace.evaluations.append(evaluation)  # with or without the ranking beside it
        if RANKING in files:
            evaluation.ranking, evaluation.ranks = read_its_ranking(evaluation, folder)
        elif RANKS in files:
            raise InputError(f"{RANKS} without {RANKING}: a ranking that was stopped; give the same command again")
    if knowledge.FILE in files:
        workspace.probes.append((name, knowledge.read_probe(folder)))


def read_result(folder, name, run):
    """The Evaluation in `folder`, called `name` in the report. run: the folder's run.json, None if it has none.

    Raises InputError for damaged files and for a metrics.json made for an older adapter of the same folder.
    """
    (metrics, predictions), where = read_evaluation(folder), folder / "metrics.json"
    chain, rows = chain_of(metrics["run"].get("adapter")), metrics["run"]["data"]["test"]["rows"]
    if (found := len(predictions["label"])) != rows:
        raise InputError(f"{where}: {found} predictions for {rows} test rows")
    if not all(stage.get("stage") for stage in chain):
        raise InputError(f"{where}: the run.json of its adapter, or of an earlier one, does not name its stage")
    if run and chain and any(run.get(key) != chain[-1].get(key) for key in ("started", "ended")):
        raise InputError(f"{where}: was made for an earlier adapter of this folder; evaluate again")
    return Evaluation(name, metrics, predictions, chain, facts_of(metrics["run"]))


def read_its_ranking(evaluation, folder):
    """(ranking.json, lines of ranks.jsonl) beside an Evaluation. Raises InputError for damaged files and for a ranking
    of another adapter or other test data."""
    ranking, ranks = read_ranking(folder)
    made_of = [
        (run["data"]["test"]["sha256"], (run.get("adapter") or {}).get("sha256"))
        for run in (ranking["run"], evaluation.metrics["run"])
    ]
    if made_of[0] != made_of[1]:
        raise InputError(f"{folder / RANKING}: was made for another adapter or other test data; rank again")
    return ranking, ranks


def chain_of(adapter):
    """The run.json of every stage behind an adapter (`describe_adapter`), first to last."""
    chain = []
    while adapter and adapter["run"]:
        chain.insert(0, adapter["run"])
        adapter = adapter["run"].get("start_adapter")
    return chain


def method_of(run):
    """What the report calls the method: the stages before few-shot tuning, such as "cot + source netflix". run: of
    metrics.json; {"adapter": {"run": run.json}} asks for a tuner's."""
    if run.get("stage") == "baseline":
        return run.get("method") or "baseline"
    adapter = run.get("adapter")
    chain = chain_of(adapter)
    if adapter and not chain:
        return f"adapter {adapter['path']}"
    stages = [f"{stage['stage']} {stage['source']}" if stage.get("source") else stage["stage"] for stage in chain]
    if chain and chain[0].get("start_adapter"):  # the first of our stages started from someone else's adapter
        stages.insert(0, "general adapter")
    if chain and chain[-1].get("shots"):
        stages.pop()  # few-shot tuning is a column, not a method
    return " + ".join(stages) or "base model"


def facts_of(run):
    """{column: value} of what made an evaluation, in results.csv and in docs/results/runs.csv. run: of metrics.json."""
    test, chain = run["data"]["test"], chain_of(run.get("adapter"))
    last = chain[-1] if chain else run
    return {
        "target": run.get("target") or test["path"],
        "test_sha256": test["sha256"],
        "method": method_of(run),
        "shots": last.get("shots") or 0,  # 0: zero-shot, -1: all rows
        "seed": last.get("seed"),
        "base_model": (run.get("base_model") or "none").rstrip("/"),
        "hardware": run.get("hardware"),
        "revision": revision_of(run),
    }


def revision_of(run):
    """The code that made a run, such as "0123456789 + changes"; None outside a git checkout."""
    git = run["git"]
    return git and f"{git['revision'][:10]}{' + changes' * git['dirty']}"
