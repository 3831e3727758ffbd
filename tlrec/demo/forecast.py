"""How long a demo will take on this machine, from a short trial run of a tuner.

    python -m tlrec.demo.forecast TRIAL --tuned_rows 1269 --scored_rows 1520 --loads 8

In: the `run.json` of a tuning of a few steps in the folder TRIAL. Out: one line with the machine's rows per second and the
minutes that so many rows to tune on, rows to score, and starts of a process with this model will take.
"""

import argparse
from pathlib import Path

from tlrec.errors import InputError, one_line_errors
from tlrec.runs import read_run


def rates(run):
    """(rows tuned per second, rows scored per second, seconds to start) of a tuner's run.json."""
    results, flags = run["results"], run["arguments"]
    tuned = flags["max_train_samples"] * flags["num_epochs"]
    scored = flags["max_val_samples"] * len(results["history"])
    if min(tuned, scored) < 1:
        raise InputError("the trial run needs --max_train_samples and --max_val_samples")
    tuning = results["seconds"] - results["seconds_validation"]
    return tuned / tuning, scored / results["seconds_validation"], run["seconds"] - results["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("trial", type=Path, help="folder of a short tuning")
    parser.add_argument("--tuned_rows", type=int, required=True, help="rows to tune on, each counted in each epoch")
    parser.add_argument("--scored_rows", type=int, required=True, help="rows to score, in tests and validations")
    parser.add_argument("--loads", type=int, required=True, help="how often the model is loaded")
    args = parser.parse_args()
    run = read_run(args.trial)
    tuning, scoring, start = rates(run)
    minutes = (args.tuned_rows / tuning + args.scored_rows / scoring + args.loads * start) / 60
    print(
        f"this machine tunes {tuning:.1f} rows/s and scores {scoring:.1f} ({run['scoring']['dtype']}): "
        f"the whole takes about {minutes:.0f} min, from here on"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
