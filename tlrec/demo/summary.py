"""The quickstart's summary: AUC on a demo workspace, untuned and after every step, beside two that need no training.

    python -m tlrec.demo.summary demo_workspace movie

In: `demo.json` and the evaluations below `instruction_model/` and `output_model/`; their metrics.json tells which step
each belongs to. Out: a table, what the curriculum and the shots add, and `quickstart.png` in the workspace.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from tlrec.compare import compare
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.results import read_metrics
from tlrec.files import read_json, sha256, whole_file

STAGES = {"stage1": "after CoT step 1", "stage12": "after CoT step 2", "cot": "after CoT", "source": "after source"}


@dataclass(frozen=True)
class Result:
    """One evaluation; `order` sorts the steps of the curriculum, with 0 shots before few."""

    order: tuple
    name: str
    shots: int
    folder: Path
    metrics: dict


def collect(root, target):
    """The Results on the target's test file, in the order of the curriculum. Raises InputError if there are none."""
    test = sha256(root / "rec_data" / target / "test.json")
    found = []
    for path in sorted(root.glob(f"*_model/{target}/**/metrics.json")):
        metrics = read_metrics(path.parent)
        adapter = metrics["run"].get("adapter")
        if metrics["run"]["data"]["test"]["sha256"] == test and (not adapter or adapter["run"]):
            found.append(Result(*step_of(adapter), path.parent, metrics))
    if not any(result.order > (0,) for result in found):
        raise InputError(f"{root}: no evaluated adapter for {target}; bash shell/quickstart.sh makes them")
    found = sorted(found, key=lambda result: result.order)
    last = sum(not result.shots for result in found) - 1
    if last > 0:  # the curriculum's end, after more than the base model alone
        found[last] = replace(found[last], name=f"{found[last].name} (zero-shot)")
    return found


def step_of(adapter):
    """(sort key, name, shots) of the step that made an adapter; `adapter` is None for the base model alone."""
    if not adapter:
        return (0,), "untuned", 0
    run = adapter["run"]
    if run["shots"]:
        return (2, run["shots"], run["seed"]), f"{run['shots']} shots, seed {run['seed']}", run["shots"]
    stages, before = 1, run.get("start_adapter")
    while before and before["run"]:
        stages, before = stages + 1, before["run"].get("start_adapter")
    return (1, stages), STAGES.get(run["stage"], f"after {run['stage']}"), 0


def gains(results):
    """[(text, paired comparison)]: zero-shot against untuned, and the most shots against zero-shot."""
    without = [result for result in results if not result.shots]
    pairs = [(without[-1], without[0], "zero-shot - untuned")] if without[0].order == (0,) and len(without) > 1 else []
    if without and results[-1].shots:
        pairs.append((results[-1], without[-1], f"{results[-1].shots} shots - zero-shot"))
    return [(text, compare(a.folder, b.folder)["difference"]) for a, b, text in pairs]


def draw(path, target, results, floor, best):
    """AUC with its 95 % interval over users after every step, the history baseline and the best reachable AUC as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.8), layout="constrained")
    axes.axhline(best, color="#2a7f3f", linestyle="--", label=f"best reachable from the records, {best:.3f}")
    axes.axhline(floor, color="#b35c00", linestyle=":", label=f"history baseline (no training), {floor:.3f}")
    values = [result.metrics["auc"] for result in results]
    bounds = [result.metrics["intervals"]["auc"]["users"] or [result.metrics["auc"]] * 2 for result in results]
    errors = [[v - low for v, (low, _) in zip(values, bounds)], [high - v for v, (_, high) in zip(values, bounds)]]
    places = range(len(results))
    axes.errorbar(places, values, yerr=errors, fmt="o-", capsize=4, color="#1f4e8c", label="the model, 95 % over users")
    axes.set_xticks(places, [result.name.replace(", ", "\n").replace(" (", "\n(") for result in results])
    axes.set_xlabel("steps of the curriculum, then shots in the target domain")
    axes.set_ylabel("AUC on the test set")
    axes.set_title(f"Demo ({target}): every item here is fictional")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    with whole_file(path, "wb") as file:
        figure.savefig(file, dpi=150, format="png")


def interval(metrics, form):
    """ "0.5 to 0.6": the 95 % interval of an AUC, or of a difference, over users; form: of a number."""
    bounds = metrics["intervals"]["auc"]["users"]
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}" if bounds else "no interval"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("target", choices=["movie", "book"])
    args = parser.parse_args()

    demo = read_json(args.workspace / "demo.json", required=("files",))
    truth = demo["files"][f"rec_data/{args.target}/test.json"]
    results = collect(args.workspace, args.target)

    print(f"\n{args.target} (demo: fictional items), AUC on {truth['rows']} test rows")
    print(f"{'':<38}{'AUC':>7}   95 % over users")
    print(f"{'history baseline (no training)':<38}{truth['history_floor_auc']:>7.4f}")
    for result in results:
        print(f"{result.name:<38}{result.metrics['auc']:>7.4f}   {interval(result.metrics, '.4f')}")
    print(f"{'best reachable from the records':<38}{truth['best_reachable_auc']:>7.4f}")
    for text, difference in gains(results):
        print(f"{text:<37}{difference['auc']:>+8.4f}  {interval(difference, '+.4f')}")
    picture = args.workspace / "quickstart.png"
    draw(picture, args.target, results, truth["history_floor_auc"], truth["best_reachable_auc"])
    print(f"picture: {picture}")


if __name__ == "__main__":
    with one_line_errors():
        main()
