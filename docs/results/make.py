"""Every table and picture of the docs is made from runs.csv beside this file; the runs come from a workspace.

    python docs/results/make.py collect WORKSPACE --recipe small --base "SmolLM2-135M-Instruct, from Q4_1"
    python docs/results/make.py

The first adds a row to runs.csv for each metrics.json below WORKSPACE (a row of the same run is replaced), measured
anew from its predictions.jsonl, and keeps the predictions of those named by --keep in predictions/ (row, user, label
and score only; `python -m tlrec.compare` takes such a file in place of a folder). The second computes differences.csv,
of which the first four columns are written by hand: two runs whose predictions are kept, and what is asked of them.
Then it fills what stands between `<!-- results: TEST METRIC -->` or `<!-- differences: TEST -->` and `<!-- end -->` in
README.md and docs/*.md, and draws TEST.png and differences.png. It changes nothing that is up to date.
"""

import argparse
import gzip
import hashlib
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from tlrec.compare import compare
from tlrec.data.published import published_name
from tlrec.evaluation.comparison import compare_scores
from tlrec.evaluation.metrics import two_probabilities_to_score
from tlrec.files import whole_file
from tlrec.report import figures
from tlrec.report.cells import shots_name
from tlrec.report.collect import chain_of, facts_of
from tlrec.report.published import RESULTS
from tlrec.report.tables import between, bounds, number

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
KEY = ["test_sha256", "run"]
MARK = re.compile(r"(<!-- (results|differences): ([^>]+) -->\n).*?(<!-- end -->)", re.DOTALL)
HISTORY = "history baseline (no training)"
SHOTS = [0, 16, 64, 256]  # columns of a table; pictures and runs.csv have all rows too


# ------------------------------------------------------------------------------------------------- workspace -> CSV


def collect(root, recipe, base, keep):
    """The rows of runs.csv for the evaluations below `root`; the predictions of runs in `keep` are written."""
    rows = []
    for path in sorted(root.rglob("metrics.json")):
        run, name = json.loads(path.read_text())["run"], str(path.parent.relative_to(root))
        found = pd.DataFrame(map(json.loads, (path.parent / "predictions.jsonl").read_text().splitlines()))
        found["score"] = two_probabilities_to_score(found["p_yes"], found["p_no"])
        row = describe(run, name, found, root) | {"recipe": recipe, "base": base if run.get("base_model") else ""}
        if name in keep:  # what a comparison needs, compressed; the same bytes again
            row["predictions"] = f"predictions/{re.sub('[^a-z0-9]+', '_', name.lower())}.csv.gz"
            text = found[["row", "user", "label", "score"]].to_csv(index=False, lineterminator="\n")
            with whole_file(HERE / row["predictions"], "wb") as file:
                file.write(gzip.compress(f"# sha256 {row['test_sha256']}\n{text}".encode(), mtime=0))
        rows.append(row)
    return rows


def describe(run, name, rows, root):
    """A row of runs.csv but for recipe and base, which the run does not know. rows: of predictions.jsonl, and score."""
    facts, chain, scoring = facts_of(run), chain_of(run.get("adapter")), run.get("scoring") or {}
    users = None if rows["user"].isna().any() else rows["user"].to_numpy()
    unit = "rows" if users is None else "users"
    scores = {"model": rows["score"].to_numpy(), "history": np.array([floors["history"] for floors in rows["floors"]])}
    comparison = compare_scores(rows["label"].to_numpy(), scores, {unit: users})
    numbers, history = comparison.numbers(["model"]), comparison.numbers(["history"])
    measured = {}
    for metric in ("auc", "uauc"):
        interval = bounds(metric, numbers["intervals"][metric].get(unit))
        measured |= {metric: numbers[metric]} | interval | {f"history_{metric}": history[metric]}
    test = run["data"]["test"]
    return {
        "run": name,
        "target": run.get("target"),
        "test": published_name(test["path"]) if Path(test["path"]).exists() else None,
        "test_sha256": facts["test_sha256"],
        "rows": test["rows"],
        "users": None if users is None else len(np.unique(users)),
        "method": facts["method"] + settings(run, chain),
        "source": " + ".join(stage["source"] for stage in chain if stage.get("source")),
        "stages": " + ".join(stage["stage"] for stage in chain),
        "shots": facts["shots"],
        "seed": facts["seed"],
        **measured,
        "minutes": round(sum(stage["seconds"] for stage in (*chain, run)) / 60, 1),
        "hardware": facts["hardware"],
        "quantization": scoring.get("quantization"),
        "dtype": scoring.get("dtype"),
        "revision": facts["revision"],
        "command": command(chain[-1] if chain else run, root),
    }


def settings(run, chain):
    """What tells apart runs of one method: ", 256 + 1024 rows" where stages learnt from a draw, ", selected by loss" of
    few shots, ", mean of 4 orders"."""
    stages = [stage for stage in chain if not stage.get("shots")]
    drawn = [stage["arguments"].get("max_train_samples") or -1 for stage in stages]
    words = f", {' + '.join('all' if n < 0 else str(n) for n in drawn)} rows" if max(drawn, default=-1) > 0 else ""
    if chain and chain[-1].get("shots") and chain[-1].get("metric_for_best_model") == "loss":
        words += ", selected by loss"
    orders = (run.get("scoring") or {}).get("orders") or 1
    return words + (f", mean of {orders} orders" if orders > 1 else "")


def command(run, root):
    """The run's command line, with $ROOT_PATH for the workspace and without any other path of the machine."""

    def shown(value):
        text = str(value).replace(f"{root}/", "$ROOT_PATH/").replace(f"{REPOSITORY}/", "./")
        return "/".join(Path(text).parts[-2:]) if text.startswith("/") else text

    words = ["python -m" if run["script"].startswith("tlrec.") else "python", run["script"]]
    for name, value in run["arguments"].items():
        if value not in (None, False, []):
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(shown, values)]
    return " ".join(words)


def add(rows):
    """Put rows into runs.csv, in order; a row of the same run on the same test file is replaced."""
    path = HERE / "runs.csv"
    table = pd.DataFrame(rows).astype({"seed": "Int64", "users": "Int64"})
    if path.exists():
        table = pd.concat([read_runs(), table]).drop_duplicates(KEY, keep="last")
    with whole_file(path) as file:
        table.sort_values(["target", "test_sha256", "method", "run"]).to_csv(file, index=False, lineterminator="\n")


def read_runs():
    numbers = {"seed": "Int64", "users": "Int64"}
    return pd.read_csv(HERE / "runs.csv", dtype=numbers, keep_default_na=False, na_values=[""])


# ---------------------------------------------------------------------------------------------------- CSV -> docs


def runs_on(runs, test):
    """The rows of a test, which is named by its target. SystemExit unless they are all on one file."""
    found = runs[runs["target"] == test]
    if (files := found["test_sha256"].nunique()) != 1:
        raise SystemExit(
            f"error: runs.csv: {files} test files are called {test}; give --target another name, and collect again"
        )
    return found


def table(found, metric):
    """Markdown: method x shots, mean over seeds with their standard deviation. The intervals are in runs.csv."""

    def cell(values):
        return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")

    cells = found.groupby(["method", "shots"])[metric].agg(cell).unstack().reindex(columns=SHOTS).astype(object)
    cells.loc[HISTORY] = number(found[f"history_{metric}"].iloc[0])
    for name, aucs in published(found).items() if metric == "auc" else ():
        cells.loc[f"{name}, LLaMA-7B"] = {shots: number(auc) for shots, auc in aucs.items()}
    lines = [f"| | {' | '.join(map(shots_name, SHOTS))} |", "|---|" + "---:|" * len(SHOTS)]
    lines += [f"| {method} | {' | '.join(own)} |" for method, own in cells.fillna("").iterrows()]
    return "\n".join(lines) + "\n"


def published(found):
    name = found["test"].iloc[0]
    return RESULTS.get(name, {}) if isinstance(name, str) else {}


def draw(path, shown, figure_of):
    """Draw figure_of(shown), which knows the rows that it shows, and is only drawn anew if they have changed."""
    digest = hashlib.sha256(shown.to_csv(index=False).encode()).hexdigest()
    if path.exists() and digest.encode() in path.read_bytes():
        return
    with rc_context(figures.STYLE), whole_file(path, "wb") as file:
        figure_of(shown).savefig(file, format="png", metadata={"Software": None, "Comment": digest})


def shown_runs(found):
    """What the picture of a test shows: every method of a language model that has shots, and the best baseline."""
    baselines = found[found["base"].isna()].groupby(["method", "shots"])["auc"].mean()
    found = found[found["base"].notna() | (found["method"] == (baselines.idxmax()[0] if len(baselines) else ""))]
    found = found[found.groupby("method")["shots"].transform(lambda shots: shots.ne(0).any())]
    return found[["method", "shots", "seed", "auc", "auc_low", "auc_high", "history_auc", "test"]]


def auc_against_shots(shown, target):
    """The figure of `shown_runs`."""
    points = []
    for (method, shots), own in shown.groupby(["method", "shots"]):
        interval = own[["auc_low", "auc_high"]].mean().dropna().tolist()
        points.append((method, shots, own["auc"].mean(), interval, own["auc"].tolist()))
    looks, floors = (
        figures.looks_of(dict.fromkeys(point[0] for point in points)),
        {HISTORY: shown["history_auc"].iloc[0]},
    )
    title = f"{target}: AUC against shots\nbars: 95 % over users, of a seed on average; small dots: seeds"
    return figures.against_shots(points, floors, published(shown), title, "AUC", looks)


def differences(runs):
    """Write differences.csv anew, from the kept predictions by tlrec.compare; returns its table."""
    path = HERE / "differences.csv"
    kept = runs.dropna(subset=["predictions"]).set_index("run")["predictions"]
    rows = []
    for row in pd.read_csv(path)[["test", "question", "with", "without"]].to_dict("records"):
        files = [kept[row[name]] for name in ("with", "without")]
        found = compare(*(HERE / file for file in files))["difference"]
        for metric in ("auc", "uauc"):
            row |= {metric: found[metric]} | bounds(metric, found["intervals"][metric].get("users"))
        rows.append(row | {"command": f"python -m tlrec.compare {' '.join(f'docs/results/{file}' for file in files)}"})
    table = pd.DataFrame(rows)
    with whole_file(path) as file:
        table.to_csv(file, index=False, lineterminator="\n")
    return table


def difference_table(found):
    """Markdown: a line for each difference on one test set, with its interval over users."""

    def cell(row, metric):
        if np.isnan(row[metric]):
            return ""
        interval = [row[f"{metric}_low"], row[f"{metric}_high"]]
        return f"{number(row[metric], '+')} ({between(interval, '+')})"

    lines = ["| | AUC | uAUC |", "|---|---:|---:|"]
    lines += [f"| {row['question']} | {cell(row, 'auc')} | {cell(row, 'uauc')} |" for _, row in found.iterrows()]
    return "\n".join(lines) + "\n"


def differences_in_auc(shown):
    """The figure of the differences in AUC with their intervals, one below the other."""
    figure = Figure(figsize=(8, 1.2 + 0.34 * len(shown)), layout="constrained")
    axes, places = figure.subplots(), range(len(shown), 0, -1)
    bars = [shown["auc"] - shown["auc_low"], shown["auc_high"] - shown["auc"]]
    axes.errorbar(shown["auc"], places, xerr=bars, fmt="o", capsize=3, color=figures.COLOURS[0])
    axes.axvline(0, color="grey", linestyle="--")
    axes.set_yticks(places, shown["test"] + ": " + shown["question"])
    axes.set_xlabel("difference in AUC, 95 % over users")
    return figure


def make():
    """Compute differences.csv, fill the marked places of README.md and docs/*.md, and draw the pictures; returns what
    was changed."""
    runs = read_runs()
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    before = {path: path.read_bytes() for path in (*pages, *HERE.glob("*.csv"), *HERE.glob("*.png"))}
    pairs = differences(runs) if (HERE / "differences.csv").exists() else None

    def filled(place):
        if place[2] == "differences":
            return place[1] + difference_table(pairs[pairs["test"] == place[3]]) + place[4]
        test, metric = place[3].split()
        return place[1] + table(runs_on(runs, test), metric) + place[4]

    for page in pages:
        old = page.read_text()
        if (new := MARK.sub(filled, old)) != old:
            page.write_text(new)
        for picture in dict.fromkeys(re.findall(r"\((?:docs/)?results/([\w-]+)\.png\)", new)):
            path = HERE / f"{picture}.png"
            if picture == "differences":
                draw(path, pairs[["test", "question", "auc", "auc_low", "auc_high"]], differences_in_auc)
            else:
                draw(path, shown_runs(runs_on(runs, picture)), partial(auc_against_shots, target=picture))
    after = (*pages, *HERE.glob("*.csv"), *HERE.glob("*.png"))
    return [path for path in after if path.read_bytes() != before.get(path)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["collect"])
    parser.add_argument("workspace", nargs="?", type=lambda text: Path(text).resolve())
    parser.add_argument("--recipe", default="", help="name of the recipe of these runs")
    parser.add_argument("--base", default="", help="true name of their base model, and how it was quantised")
    parser.add_argument(
        "--keep", nargs="*", default=[], metavar="RUN", help="folders below WORKSPACE to keep the scores of"
    )
    args = parser.parse_args()
    if args.what == "collect":
        rows = collect(args.workspace, args.recipe, args.base, args.keep)
        add(rows)
        print(f"{len(rows)} runs: {HERE / 'runs.csv'}")
    for path in make():
        print(f"changed: {path}")


if __name__ == "__main__":
    main()
