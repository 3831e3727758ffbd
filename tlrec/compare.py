"""Compare two evaluations row by row: is the difference more than noise?

    python -m tlrec.compare output_model/movie/full/0_64 output_model/movie/source/0_64

A, B: folders with the `metrics.json` and `predictions.jsonl` of evaluate.py, or files of docs/results/predictions/,
made on the same test file. Prints every metric of both and their difference (A - B), with paired 95 % intervals over
rows and over users; `--json FILE` also writes them. Different test data is refused.
"""

import argparse
import gzip
import zlib
from pathlib import Path

from tlrec.errors import InputError, one_line_errors


def read_scores(path):
    """(test file as {"path", "sha256", "rows"}, labels, scores, users or None) of a folder, or of a file of
    docs/results/predictions."""
    import numpy as np
    import pandas as pd

    from tlrec.evaluation.results import read_evaluation

    if not Path(path).is_file():
        metrics, found = read_evaluation(path)
        return metrics["run"]["data"]["test"], found["label"], found["score"], found["user"]
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            digest = file.readline().strip().removeprefix("# sha256 ")
            table = pd.read_csv(file)
        labels, scores = table["label"].to_numpy(np.int64), table["score"].to_numpy(float)
        users = None if table["user"].isna().all() else table["user"].to_numpy()
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged, or not a file of docs/results/predictions: {error}") from None
    return {"path": str(path), "sha256": digest, "rows": len(labels)}, labels, scores, users


def compare(a, b):
    """Paired comparison of the evaluations in `a` and `b` as a dict: "test", "n", "users" (their number, or
    None), "folders" and, in the form of `tlrec.evaluation.comparison`, "a", "b" and "difference" (a - b).

    Raises InputError for damaged files, different test data, and test data where AUC is not defined.
    """
    import numpy as np

    from tlrec.evaluation.comparison import compare_scores, units_of

    (*first, users), (*second, other_users) = read_scores(a), read_scores(b)
    tests, labels, users = (first[0], second[0]), first[1], other_users if users is None else users
    if tests[0]["sha256"] != tests[1]["sha256"] or not np.array_equal(labels, second[1]):
        shown = [f"{test['path']} ({test['rows']} rows, sha256 {test['sha256'][:12]})" for test in tests]
        on = f"{a} was evaluated on {shown[0]}, {b} on {shown[1]}"
        raise InputError(f"different test data: {on}; evaluate both on one file")
    if np.ptp(labels) == 0:
        raise InputError(f"{tests[0]['path']}: all {len(labels)} rows have the same label, so AUC is not defined")
    comparison = compare_scores(labels, {"a": first[2], "b": second[2]}, units_of(users))
    return {
        "test": tests[0],
        "n": len(labels),
        "users": None if users is None else len(np.unique(users)),
        "folders": {"a": str(a), "b": str(b)},
        "a": comparison.numbers(["a"]),
        "b": comparison.numbers(["b"]),
        "difference": comparison.numbers(["a"], ["b"]),
    }


def comparison_table(result):
    """`compare`'s dict as plain text."""
    a, b, difference = result["a"], result["b"], result["difference"]
    users = f", {result['users']} users" if result["users"] else ""
    lines = [f"{result['test']['path']}: {result['n']} rows{users}"]
    lines += [f"{name.upper()}: {result['folders'][name]}" for name in "ab"]
    lines.append(f"{'':<14}{'A':>8}{'B':>9}{'A - B':>10}   95 % interval of A - B")
    for metric, intervals in difference["intervals"].items():
        if difference[metric] is None:
            continue
        bounds = "; ".join(f"over {unit} {between(intervals[unit])}" for unit in reversed(intervals))
        lines.append(f"{metric:<14}{a[metric]:>8.4f}{b[metric]:>9.4f}{difference[metric]:>+10.4f}   {bounds}")
    unit = "users" if result["users"] else "rows"
    bounds = difference["intervals"]["auc"][unit]
    if bounds is None:
        verdict = f"no verdict, since {unit} do not tell how certain the difference is"
    else:
        verdict = "A is better" if bounds[0] > 0 else "B is better" if bounds[1] < 0 else "within noise"
    return "\n".join([*lines, f"=> {verdict}, judged by AUC over {unit}"])


def between(bounds):
    """ "-0.0123 to +0.0456"; "none" where there is no interval."""
    return "none" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


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
    parser.add_argument("a", metavar="A", help="folder of an evaluation, or a file of docs/results/predictions")
    parser.add_argument("b", metavar="B", help="folder of another one on the same test file")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    arguments = parser.parse_args()
    if arguments.json and Path(arguments.json).exists() and not arguments.overwrite:
        raise InputError(f"{arguments.json}: exists; choose another name or add --overwrite")
    result = compare(arguments.a, arguments.b)
    print(comparison_table(result))
    if arguments.json:
        from tlrec.files import plain_json, write_json

        write_json(arguments.json, plain_json(result))


if __name__ == "__main__":
    with one_line_errors():
        main()
