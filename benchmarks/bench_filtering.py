"""User filtering: time and memory by number of rows; the candidates must equal those of a dense similarity matrix.

    python benchmarks/bench_filtering.py --rows 8000 50000 200000 --json bench_filtering.json

Rows are sliding windows of synthetic users over a catalogue of the size and skew of the Netflix source data (4,499
titles; the first is in a third of all rows). Up to 10,000 rows the result is compared with a dense similarity matrix.
Prints a line for each number of rows: seconds (wall clock, and CPU time of all cores), peak memory, and how many items
the last of the twelve neighbours shares. Claim: 8,000 rows in seconds, 200,000 within minutes and 2 GiB.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec, wherever this is called from

import numpy as np

from tlrec.cot.candidates import nearest_rows, rank_candidates

HISTORY, USER_NUM, CANDIDATE_NUM = 10, 12, 19


def synthetic_histories(n_rows, n_items, windows_of_user, seed):
    """Sliding windows of users who draw items from a skewed popularity; (histories, users)."""
    random = np.random.default_rng(seed)
    popularity = 1 / np.arange(4, n_items + 4)
    log_popularity = np.log(popularity)
    histories, users = [], []
    while len(histories) < n_rows:
        noise = random.gumbel(size=n_items)  # the largest values of log p + noise are a draw without replacement
        taken = np.argpartition(-(log_popularity + noise), HISTORY + windows_of_user)[: HISTORY + windows_of_user]
        taken = random.permutation(taken).tolist()
        for start in range(windows_of_user):
            histories.append(taken[start : start + HISTORY])
            users.append(len(users) // windows_of_user)
    return histories[:n_rows], np.array(users[:n_rows])


def dense_rows(histories, n_items):
    matrix = np.zeros((len(histories), n_items), dtype=np.float32)
    for row, history in enumerate(histories):
        matrix[row, history] = 1
    return np.argsort(-(matrix @ matrix.T), axis=1, kind="stable")[:, :USER_NUM]


def measure(n_rows, n_items, windows_of_user, exclude_same_user, seed, answer):
    histories, users = synthetic_histories(n_rows, n_items, windows_of_user, seed)
    start, start_cpu = time.perf_counter(), time.process_time()
    rows, shared = nearest_rows(histories, USER_NUM, users if exclude_same_user else None)
    neighbours = time.perf_counter() - start
    candidates = rank_candidates(histories, rows, shared, CANDIDATE_NUM)
    total, total_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    compared = n_rows <= 10_000 and not exclude_same_user
    if compared:
        assert np.array_equal(rows, dense_rows(histories, n_items)), "the rows differ from those of the dense reference"
    answer.put(
        {
            "rows": n_rows,
            "exclude_same_user": exclude_same_user,
            "seconds_neighbours": round(neighbours, 1),
            "seconds": round(total, 1),
            "cpu_seconds": round(total_cpu, 1),
            "peak_gib": round(peak, 2),
            "median_shared_of_last": float(np.median(shared[:, -1])),
            "candidates_per_row": float(np.mean([len(row) for row in candidates])),
            "equal_to_dense": compared or None,
        }
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[8000, 50_000, 200_000])
    parser.add_argument("--items", type=int, default=4499)
    parser.add_argument("--windows_of_user", type=int, default=4)
    parser.add_argument("--exclude_same_user", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()

    results = []
    for n_rows in args.rows:  # one process each, so that peak memory is measured separately
        answer = multiprocessing.Queue()
        process = multiprocessing.Process(
            target=measure, args=(n_rows, args.items, args.windows_of_user, args.exclude_same_user, args.seed, answer)
        )
        process.start()
        results.append(answer.get())
        process.join()
        print(json.dumps(results[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
