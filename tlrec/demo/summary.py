"""The quickstart's last page: zero-shot and few-shot AUC on a demo workspace, between the floor and the best reachable.

    python -m tlrec.demo.summary demo_workspace movie

In: `demo.json` and the evaluated adapters below `instruction_model/` and `output_model/`, told apart by what their
metrics.json says of them. Out: a table, and `quickstart.png` in the workspace.
"""

import argparse
from pathlib import Path

from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.results import read_metrics
from tlrec.files import read_json, sha256, whole_file


def collect(root, target):
    """[(shots, seed, metrics)] of the target's evaluated adapters, 0 shots first. Raises InputError if there are none."""
    test = sha256(root / "rec_data" / target / "test.json")
    found = []
    for path in sorted(root.glob(f"*_model/{target}/**/metrics.json")):
        metrics = read_metrics(path.parent)
        run = (metrics["run"].get("adapter") or {}).get("run")
        if run and metrics["run"]["data"]["test"]["sha256"] == test:
            found.append((run.get("shots") or 0, run.get("seed") or 0, metrics))
    if not found:
        raise InputError(f"{root}: no evaluated adapter for {target}; bash shell/quickstart.sh makes them")
    return sorted(found, key=lambda run: run[:2])


def draw(path, target, results, floor, best):
    """AUC with its 95 % interval over users against shots, the floor and the best reachable AUC as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.8), layout="constrained")
    axes.axhline(best, color="#2a7f3f", linestyle="--", label=f"best reachable from the records, {best:.3f}")
    axes.axhline(floor, color="#b35c00", linestyle=":", label=f"floor: share of likes in the history, {floor:.3f}")
    values = [metrics["auc"] for _, _, metrics in results]
    bounds = [metrics["intervals"]["auc"]["users"] for _, _, metrics in results]
    errors = [[v - low for v, (low, _) in zip(values, bounds)], [high - v for v, (_, high) in zip(values, bounds)]]
    places = range(len(results))
    axes.errorbar(
        places, values, yerr=errors, fmt="o-", capsize=4, color="#1f4e8c", label="pocket-llama, 95 % over users"
    )
    axes.set_xticks(places, ["zero-shot" if not shots else str(shots) for shots, _, _ in results])
    axes.set_xlabel("shots in the target domain")
    axes.set_ylabel("AUC on the test set")
    axes.set_title(f"Demo ({target}): every item here is fictional")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    with whole_file(path, "wb") as file:
        figure.savefig(file, dpi=150, format="png")


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
    print(f"{'floor: share of likes in the history':<38}{truth['history_floor_auc']:>7.4f}")
    for shots, seed, metrics in results:
        low, high = metrics["intervals"]["auc"]["users"]
        name = f"{shots} shots, seed {seed}" if shots else "zero-shot"
        print(f"{name:<38}{metrics['auc']:>7.4f}   {low:.4f} to {high:.4f}")
    print(f"{'best reachable from the records':<38}{truth['best_reachable_auc']:>7.4f}")
    picture = args.workspace / "quickstart.png"
    draw(picture, args.target, results, truth["history_floor_auc"], truth["best_reachable_auc"])
    print(f"picture: {picture}")


if __name__ == "__main__":
    with one_line_errors():
        main()
