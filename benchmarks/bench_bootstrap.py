"""Bootstrap of the AUC: counts on rows sorted once, compared with scikit-learn on every resample.

    python benchmarks/bench_bootstrap.py --json bootstrap.json

Prints medians of several repeats, alternating between ours and the plain loop, on made-up scores of 2,500 rows; asserts
that both give the same AUC on the same resamples. The plain loop runs a part of the resamples; its time is scaled up.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from sklearn.metrics import roc_auc_score

from tlrec.evaluation.intervals import bootstrap_aucs
from tlrec.files import write_json


def plain(labels, scores, resamples, seed):
    """The textbook loop: draw rows, compute their AUC."""
    rng = np.random.default_rng(seed)
    aucs = []
    for _ in range(resamples):
        rows = rng.integers(len(labels), size=len(labels))
        aucs.append(roc_auc_score(labels[rows], scores[rows]))
    return np.array(aucs)


def check_same(labels, scores):
    """Assert that ours on one resample equals scikit-learn with the resample's counts as weights."""
    ours = bootstrap_aucs(labels, [scores], None, 20, seed=1)[:, 0]
    n = len(labels)
    draws = np.random.default_rng(1).integers(n, size=(20, n))
    theirs = [roc_auc_score(labels[rows], scores[rows]) for rows in draws]
    assert np.allclose(ours, theirs, atol=1e-12)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, default=2500, help="(default: %(default)s)")
    parser.add_argument("--users", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, arguments.rows)
    scores = labels + rng.normal(0, 1.5, arguments.rows)
    users = np.sort(rng.integers(0, arguments.users, arguments.rows))
    check_same(labels, scores)

    part = max(1, arguments.resamples // 20)
    runs = {
        "over rows": lambda: bootstrap_aucs(labels, [scores], None, arguments.resamples),
        "over users": lambda: bootstrap_aucs(labels, [scores], users, arguments.resamples),
        "five scores, rows": lambda: bootstrap_aucs(labels, [scores] * 5, None, arguments.resamples),
        "scikit-learn loop, rows": lambda: plain(labels, scores, part, 0),
    }
    seconds = {name: [] for name in runs}
    for _ in range(arguments.repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            scale = arguments.resamples / part if "loop" in name else 1
            seconds[name].append((time.perf_counter() - started) * scale)
    medians = {name: statistics.median(values) for name, values in seconds.items()}

    print(f"{arguments.resamples} resamples of {arguments.rows} rows, median of {arguments.repeats}")
    for name, value in medians.items():
        print(f"{name:<26}{value:8.3f} s")
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        write_json(arguments.json, {**settings, "seconds": medians, "machine": platform.platform()})


if __name__ == "__main__":
    main()
