"""Time and memory for making data sets from raw downloads.

    python benchmarks/bench_preparation.py --movie ~/ml-100k

Movie: the given folder of MovieLens-100K (claim: under 5 s). Netflix: a synthetic `combined_data_1.txt` of the size of
the real one, 24 million ratings of 4,499 films by up to 480,000 users (claim: under 3 minutes and 6 GiB on two cores).
Prints wall time and peak memory of the whole commands, each in its own process. Needs 0.6 GB in the temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parent.parent
FILMS, USERS, DAYS = 4_499, 480_000, 2_200


def write_netflix(folder, ratings, seed=0):
    """Films with skewed popularity, each rated at most once by a user, on random days."""
    rng = np.random.default_rng(seed)
    days = pd.date_range("1999-11-11", periods=DAYS).strftime("%Y-%m-%d").to_numpy()
    share = 1 / (np.arange(FILMS) + 100)
    sizes = np.maximum(1, ratings * share / share.sum()).astype(int)
    rng.shuffle(sizes)
    with open(folder / "combined_data_1.txt", "w") as file:
        for film, size in enumerate(sizes, start=1):
            file.write(f"{film}:\n")
            table = pd.DataFrame(
                {
                    "user": rng.choice(USERS, size, replace=False) * 5 + 6,
                    "rating": rng.integers(1, 6, size),
                    "date": days[rng.integers(0, DAYS, size)],
                }
            )
            table.to_csv(file, header=False, index=False)
    lines = [f"{film},{1950 + film % 55},Film {film}, a story\n" for film in range(1, FILMS + 1)]
    (folder / "movie_titles.csv").write_text("".join(lines), encoding="latin-1")
    return int(sizes.sum())


def measure(name, script, *arguments):
    """Run one command line and print its seconds and its own peak memory."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, REPOSITORY / script, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        sys.exit(f"{name}: {script} failed")
    print(f"{name:<28} {seconds:8.1f} s {usage.ru_maxrss / 2**20:8.2f} GiB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--movie", type=Path, metavar="DIR", help="folder of u.data and u.item; without it Movie is not measured"
    )
    parser.add_argument("--netflix_ratings", type=int, default=24_053_764, metavar="N", help="synthetic (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if args.movie:
            options = ["--domain", "movie", "--raw", args.movie, "--output", folder / "movie"]
            measure("movie", "rec_data/prepare_data.py", *options)
        count = write_netflix(folder, args.netflix_ratings)
        options = ["--domain", "netflix", "--raw", folder, "--output", folder / "netflix"]
        measure(f"netflix, {count} ratings", "instruction_data/prepare_data.py", *options)
