"""Compare two evaluations row by row: is the difference in AUC more than noise?

    python -m tlrec.compare output_model/movie/full/0_64 output_model/movie/source/0_64

A, B: folders with the `metrics.json` and `predictions.jsonl` of evaluate.py, made on the same test file. Prints both
AUCs and their difference (A - B) with paired 95 % intervals by bootstrap over rows and over users, DeLong's test, and
the same for uAUC, the AUC within users; `--json FILE` also writes them. Different test data is refused.
"""

import argparse
from pathlib import Path

from tlrec.errors import InputError, one_line_errors


def compare(a, b, resamples=2000, seed=0):
    """Paired comparison of the evaluations in folders `a` and `b` as a dict: "n", "users", "a" and "b" ({"folder",
    "auc", "uauc"}), "difference" (a - b), "interval" ({"rows", "users"}), "uauc" ({"users" with both labels,
    "difference", "interval"}, None if users are not known) and "delong" (of `tlrec.evaluation.intervals.delong_test`).

    Raises InputError for damaged files, different test data, and test data where AUC is not defined.
    """
    import numpy as np

    from tlrec.evaluation.intervals import bootstrap_aucs, bootstrap_uaucs, delong_test, interval
    from tlrec.evaluation.metrics import uauc
    from tlrec.evaluation.results import read_evaluation

    (metrics_a, predictions_a), (metrics_b, predictions_b) = read_evaluation(a), read_evaluation(b)
    tests = [metrics["run"]["data"]["test"] for metrics in (metrics_a, metrics_b)]
    labels = predictions_a["label"]
    if tests[0]["sha256"] != tests[1]["sha256"] or not np.array_equal(labels, predictions_b["label"]):
        raise InputError(
            f"different test data: {a} was evaluated on {tests[0]['path']} ({tests[0]['rows']} rows, sha256 "
            f"{tests[0]['sha256'][:12]}), {b} on {tests[1]['path']} ({tests[1]['rows']} rows, sha256 "
            f"{tests[1]['sha256'][:12]}); evaluate both on one file"
        )
    if metrics_a["auc"] is None:
        raise InputError(f"{tests[0]['path']}: all {len(labels)} rows have the same label, so AUC is not defined")
    scores = [predictions_a["score"], predictions_b["score"]]
    users = predictions_a["user"] if predictions_a["user"] is not None else predictions_b["user"]
    units = {"rows": None} | ({} if users is None else {"users": users})
    intervals = {}
    for unit, groups in units.items():
        samples = bootstrap_aucs(labels, scores, groups, resamples, seed)
        n = len(labels) if groups is None else len(np.unique(groups))
        intervals[unit] = interval(samples[:, 0] - samples[:, 1], n)
    uaucs, within = [None, None], None
    if users is not None:
        (uaucs[0], _, n), (uaucs[1], _, n) = (uauc(labels, score, users) for score in scores)
        samples = bootstrap_uaucs(labels, scores, users, resamples, seed)
        bounds = interval(samples[:, 0] - samples[:, 1], n)
        within = {"users": n, "difference": uaucs[0] - uaucs[1] if n else None, "interval": bounds}
    return {
        "test": tests[0],
        "n": len(labels),
        "users": None if users is None else len(np.unique(users)),
        "a": {"folder": str(a), "auc": metrics_a["auc"], "uauc": uaucs[0]},
        "b": {"folder": str(b), "auc": metrics_b["auc"], "uauc": uaucs[1]},
        "difference": metrics_a["auc"] - metrics_b["auc"],
        "interval": intervals,
        "uauc": within,
        "delong": delong_test(labels, *scores),
        "resamples": resamples,
        "seed": seed,
    }


def comparison_table(result):
    """`compare`'s dict as plain text."""
    users = f", {result['users']} users" if result["users"] else ""
    lines = [f"{result['test']['path']}: {result['n']} rows{users}"]
    lines += [f"{name.upper():<12}{result[name]['auc']:.4f}   {result[name]['folder']}" for name in "ab"]
    lines.append(f"{'A - B':<12}{result['difference']:+.4f}")
    for unit, bounds in result["interval"].items():
        shown = "not defined" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
        lines.append(f"  95% interval over {unit + ':':<7} {shown}")
    delong = result["delong"]
    shown = "the same order of rows" if delong["z"] is None else f"z {delong['z']:+.2f}, p {delong['p']:.3g}"
    lines.append(f"  DeLong (independent rows): {shown}")
    if (within := result["uauc"]) and within["users"]:
        a, b, bounds = result["a"]["uauc"], result["b"]["uauc"], within["interval"]
        shown = "not defined" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
        lines.append(f"uAUC of {within['users']} users with both labels: A {a:.4f}, B {b:.4f}")
        lines.append(f"{'A - B':<12}{within['difference']:+.4f}")
        lines.append(f"  95% interval over users:  {shown}")
    unit = "users" if result["interval"].get("users") else "rows"
    bounds = result["interval"][unit]
    noise = bounds is None or bounds[0] <= 0 <= bounds[1]
    verdict = "within noise" if noise else "A is better" if bounds[0] > 0 else "B is better"
    lines.append(f"=> {verdict}, judged over {unit}")
    return "\n".join(lines)


def main():
    """Parse the flags, compare, print."""
    purpose, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m tlrec.compare",
        description=purpose,
        epilog=details,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="folder of an evaluation")
    parser.add_argument("b", metavar="B", help="folder of another one on the same test file")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    arguments = parser.parse_args()
    if arguments.resamples < 100:
        raise InputError(f"--resamples {arguments.resamples}: an interval needs at least 100")
    if arguments.json and Path(arguments.json).exists() and not arguments.overwrite:
        raise InputError(f"{arguments.json}: exists; choose another name or add --overwrite")
    result = compare(arguments.a, arguments.b, arguments.resamples, arguments.seed)
    print(comparison_table(result))
    if arguments.json:
        from tlrec.files import plain_json, write_json

        write_json(arguments.json, plain_json(result))


if __name__ == "__main__":
    with one_line_errors():
        main()
