"""Classical baselines on the same shots and test rows: popularity, item-kNN, SASRec, GRU4Rec, Caser.

    python -m tlrec.baselines --train_data_path rec_data/movie/train.json --val_data_path rec_data/movie/valid.json \
        --test_data_path rec_data/movie/test.json --output_dir output_model/movie/baselines --target movie

Reads  labelled preference records; `--sample` and `--seed` draw the same rows as rec_tuning.py.
Writes metrics.json and predictions.jsonl, as evaluate.py does, into --output_dir/<method>/<seed>_<shots>; runs that are
       complete are skipped. `python -m tlrec.report` shows them beside the language models.
The neural methods run on one CPU thread, so the same command gives the same scores.
"""

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from tlrec.data.preferences import parse_input
from tlrec.data.records import RecordFile, check_draw, draw_shots, labels_of
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.results import read_metrics, record_evaluation
from tlrec.locks import check_unlocked, locked
from tlrec.model.scores import Scores
from tlrec.runs import describe_records
from tlrec.same_run import describe, differences

NAMES = {"popularity": "popularity", "item-knn": "item-kNN", "sasrec": "SASRec", "gru4rec": "GRU4Rec", "caser": "Caser"}


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="python -m tlrec.baselines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--method", nargs="+", choices=NAMES, default=list(NAMES), help="(default: all of them)")
    add("--train_data_path", required=True, help="labelled records to draw the shots from")
    add("--val_data_path", required=True, help="labelled records that tell the neural methods when to stop")
    add("--test_data_path", required=True, help="labelled records to score")
    add("--output_dir", required=True, help="folder for the <method>/<seed>_<shots> folders")
    add("--sample", type=int, nargs="+", default=[16, 64, 256, -1], help="shots; -1: all rows (default: 16 64 256 -1)")
    add("--seed", type=int, nargs="+", default=[0, 1, 2], help="seeds of the draw and the training (default: 0 1 2)")
    add("--num_epochs", type=int, default=200, help="most epochs of the neural methods (default: %(default)s)")
    add("--patience", type=int, default=20, help="stop after this many validations without gain (default: %(default)s)")
    add("--target", help="name of the target domain in metrics.json")
    add("--overwrite", action="store_true", help="replace other results that --output_dir holds")
    return parser.parse_args()


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    for flag in ("num_epochs", "patience"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: give 1 or more")
    if min(args.seed) < 0:
        raise InputError(f"--seed {min(args.seed)}: give 0 or more")
    train = RecordFile(args.train_data_path)
    for shots in args.sample:
        check_draw("--sample", shots, train)
    valid, test = EvaluationSet(args.val_data_path), EvaluationSet(args.test_data_path, train)
    valid.check_preferences()
    test.check_preferences()
    data = {name: describe_records(file) for name, file in {"train": train, "valid": valid, "test": test}.items()}
    runs = []  # (method, shots, seed, folder, arguments)
    for method in args.method:
        for shots in args.sample:
            for seed in args.seed:
                folder = Path(args.output_dir) / method / f"{seed}_{shots}"
                check_unlocked(folder)
                arguments = {**vars(args), "method": method, "sample": shots, "seed": seed, "output_dir": folder}
                if (folder / "metrics.json").exists() and not args.overwrite:
                    found = read_metrics(folder)["run"]
                    if other := differences(found, describe(arguments, data)):
                        raise InputError(
                            f"{folder}: holds the results of other {', '.join(other)}; give --overwrite or another "
                            "--output_dir"
                        )
                    print(f"complete already: {folder}")
                    continue
                runs.append((method, shots, seed, folder, arguments))
    if not runs:
        return
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {args.output_dir}: cannot be made: {error.strerror}") from None

    # 2. Import the libraries that are needed
    from tlrec.baselines import counting

    if any(method not in ("popularity", "item-knn") for method, *_ in runs):
        import torch

        from tlrec.baselines import neural

        networks = {"sasrec": neural.SASRec, "gru4rec": neural.GRU4Rec, "caser": neural.Caser}
        torch.set_num_threads(1)

    with locked(folder for *_, folder, _ in runs):
        for method, shots, seed, folder, arguments in runs:
            # 3. Draw the shots
            started, clock = datetime.now(UTC), time.perf_counter()
            drawn = list(draw_shots(train, shots, seed))
            preferences, labels = [parse_input(record["input"]) for record in drawn], labels_of(drawn)

            # 4. Learn from them and score the test rows
            found = {}
            if method == "popularity":
                probability = counting.popularity(counting.ratings_of(preferences, labels), test.preferences)
            elif method == "item-knn":
                probability = counting.item_knn(counting.ratings_of(preferences, labels), test.preferences)
            else:
                probability, best_step, log_loss = neural.fit_and_score(
                    networks[method],
                    preferences,
                    labels,
                    valid.preferences,
                    valid.labels,
                    test.preferences,
                    seed,
                    args.num_epochs,
                    args.patience,
                )
                found = {"best_step": best_step, "valid_log_loss": log_loss}

            # 5. The same numbers, floors and files as for a language model
            seconds = time.perf_counter() - clock
            scores = Scores(probability, 1 - probability, truncated=0, seconds=seconds)
            metrics = record_evaluation(
                folder,
                "tlrec.baselines",
                arguments,
                test,
                scores,
                valid=valid,
                started=started,
                stage="baseline",
                method=NAMES[method],
                shots=shots,
                seed=seed,
                target=args.target,
                **found,
            )
            rows = "all rows" if shots == -1 else f"{shots} shots"
            within = "" if metrics["uauc"] is None else f"uauc {metrics['uauc']:.4f}, "
            print(
                f"{NAMES[method]}, {rows}, seed {seed}: auc {metrics['auc']:.4f}, {within}{seconds:.1f} s: {folder}",
                flush=True,
            )


if __name__ == "__main__":
    with one_line_errors():
        main()
