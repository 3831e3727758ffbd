"""Classical baselines on the same shots and test rows: popularity, item-kNN, SASRec, GRU4Rec, Caser.

    python -m tlrec.baselines --train_data_path rec_data/movie/train.json --val_data_path rec_data/movie/valid.json \
        --test_data_path rec_data/movie/test.json --output_dir output_model/movie/baselines --target movie

    python -m tlrec.baselines ... --rank full

Reads  labelled preference records; `--sample` and `--seed` draw the same rows as rec_tuning.py.
Writes metrics.json and predictions.jsonl, as evaluate.py does, into --output_dir/<method>/<seed>_<shots>; runs that are
       complete are skipped. With --rank also ranking.json and ranks.jsonl, on the candidates that evaluate.py ranks
       with the same flags, test and train data (docs/ranking.md).
`python -m tlrec.report` shows them beside the language models.
The neural methods are the papers' encoders, with dislikes and a binary loss. They read histories in time order where
train.csv, valid.csv and test.csv of prepare_data.py lie beside the records, and run on one CPU thread, so the same command
gives the same scores.
"""

import argparse
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from tlrec.baselines.order import HistoryOrder
from tlrec.data.preferences import parse_input, read_checked
from tlrec.data.records import RecordSet, check_draw, draw_shots, labels_of
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.candidates import ranking_of
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.ranks import Ranks, metric_text, metric_title
from tlrec.evaluation.results import record_evaluation
from tlrec.runs import RunFolder, describe_records, flags_of
from tlrec.scoring.scores import Scores

NAMES = {"popularity": "popularity", "item-knn": "item-kNN", "sasrec": "SASRec", "gru4rec": "GRU4Rec", "caser": "Caser"}
NEURAL = ("sasrec", "gru4rec", "caser")
RANKING_FLAGS = ("rank", "items", "max_rank_rows", "rank_seed")


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
    add("--num_epochs", type=int, default=200, help="epochs of the neural methods at most (default: %(default)s)")
    add("--patience", type=int, default=20, help="stop after this many epochs without gain (default: %(default)s)")
    add("--target", help="name of the target domain in metrics.json")
    add("--rank", metavar="full|N", help="also rank: all items that a user has not rated before, or N sampled ones")
    add("--items", metavar="FILE", help="catalogue, CSV or Parquet (default: item_mapping.csv beside the test data)")
    add("--max_rank_rows", type=int, metavar="N", help="liked rows to rank, drawn (default: all)")
    add("--rank_seed", type=int, default=0, help="of drawn rows and sampled items (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace other results that --output_dir holds")
    return parser.parse_args()


@dataclass
class Job:
    """A method, its shots and seed, and the folder of its results."""

    method: str
    shots: int
    seed: int
    folder: RunFolder
    arguments: dict  # of an evaluation; the flags of a ranking do not affect scores
    evaluated: bool  # whether its metrics.json exists
    ranks: Ranks | None  # of its ranking, if one is asked for


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    for flag in ("num_epochs", "patience"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)}: give 1 or more")
    if min(args.seed) < 0:
        raise InputError(f"--seed {min(args.seed)}: give 0 or more")
    train = RecordSet(args.train_data_path)
    for shots in args.sample:
        check_draw("--sample", shots, train)
    valid, test = EvaluationSet(args.val_data_path), EvaluationSet(args.test_data_path, train)
    valid.check_preferences()
    test.check_preferences()
    known = train.path, read_checked(train.path)[1], labels_of(train)
    order = HistoryOrder(known, *((one.path, one.preferences, one.labels) for one in (valid, test)))
    ranking = ranking_of(test, args.rank, args.items, args.max_rank_rows, args.rank_seed)
    jobs = list(jobs_of(args, train, valid, test, ranking, order))
    if ranking:
        print(*ranking.said(), sep="\n")
    if any(job.method in NEURAL for job in jobs):
        print(f"the sequential methods read histories: {order.said}")
    if not jobs:
        return

    for job in jobs:
        with job.folder.locked():
            # 2. Draw the shots and learn from them
            started, clock = datetime.now(UTC), time.perf_counter()
            learned = learn(job, list(draw_shots(train.rows, job.shots, job.seed)), valid, test, args, order)

            # 3. The same numbers, floors, ranks and files as for a language model
            facts = {"stage": "baseline", "method": NAMES[job.method], "shots": job.shots, "seed": job.seed}
            facts |= {"target": args.target, "started": started}
            if not job.evaluated:
                evaluate(job, learned, valid, test, clock, facts)
            if ranking:
                rank(job, learned, vars(args), facts)


def jobs_of(args, train, valid, test, ranking, order):
    """A Job for each method, number of shots and seed that is not complete; InputError if other results are there."""
    data = {name: describe_records(file) for name, file in {"train": train, "valid": valid, "test": test}.items()}
    for method, shots, seed in product(args.method, args.sample, args.seed):
        path = Path(args.output_dir) / method / f"{seed}_{shots}"
        flags = {name: value for name, value in vars(args).items() if name not in RANKING_FLAGS}
        arguments = {**flags, "method": method, "sample": shots, "seed": seed, "output_dir": path}
        identity = flags_of(arguments) | {f"{name} data": file["sha256"] for name, file in data.items()}
        if method in NEURAL:
            identity["order of histories"] = order.said.partition(" (")[0]
        folder = RunFolder(path, identity, args.overwrite, "metrics.json", "predictions.jsonl")
        if not (evaluated := folder.is_complete()):
            folder.check_free()
        ranks = Ranks(path, ranking, identity, args.overwrite) if ranking else None
        if evaluated and (not ranks or ranks.is_complete()):
            print(folder.complete_already())
        else:
            yield Job(method, shots, seed, folder, arguments, evaluated, ranks)


def learn(job, drawn, valid, test, args, order):
    """What a method has learned from the records `drawn`: `of_targets` and `of_items` are P(like)."""
    preferences, labels = [parse_input(record["input"]) for record in drawn], labels_of(drawn)
    if job.method not in NEURAL:
        from tlrec.baselines import counting

        method = {"popularity": counting.Popularity, "item-knn": counting.ItemKNN}[job.method]
        return method(counting.ratings_of(preferences, labels))
    import torch

    from tlrec.baselines import neural

    torch.set_num_threads(1)
    network = {"sasrec": neural.SASRec, "gru4rec": neural.GRU4Rec, "caser": neural.Caser}[job.method]
    longest = max(len(preference.history) for preference in test.preferences)
    shaped_by = longest, job.seed, args.num_epochs, args.patience, order.history_of
    return neural.Fitted(network, preferences, labels, valid.preferences, valid.labels, *shaped_by)


def evaluate(job, learned, valid, test, clock, facts):
    """Score the test rows, and record and print the numbers."""
    probability = learned.of_targets(test.preferences)
    seconds = time.perf_counter() - clock
    scores = Scores(probability, 1 - probability, truncated=0, seconds=seconds)
    facts, selected_on = facts | {"identity": job.folder.identity}, None
    if job.method in NEURAL:
        facts |= {"best_step": learned.best_step, "valid_log_loss": learned.valid_log_loss}
        selected_on = valid
    found = job.folder.path, "tlrec.baselines", job.arguments, test, scores
    metrics = record_evaluation(*found, valid=selected_on, **facts)
    within = "" if metrics["uauc"] is None else f"uauc {metrics['uauc']:.4f}, "
    print(f"{name_of(job)}: auc {metrics['auc']:.4f}, {within}{seconds:.1f} s: {job.folder.path}", flush=True)


def rank(job, learned, arguments, facts):
    """Rank the targets of the liked rows, and record and print the numbers."""
    ranking = job.ranks.ranking

    def score(rows):
        for row in rows:
            yield learned.of_items(ranking.test.preferences[row.row - 1], ranking.request(row)[1]), 0

    job.ranks.complete(score)
    arguments = arguments | {name: job.arguments[name] for name in ("method", "sample", "seed", "output_dir")}
    found = job.ranks.record("tlrec.baselines", arguments, **facts)
    shown = [name for name in ("hr@10", "ndcg@10", "mrr", "mean_rank") if found[name] is not None]
    numbers = ", ".join(f"{metric_title(name)} {metric_text(name, found[name])}" for name in shown)
    print(f"{name_of(job)}: {numbers} ({found['protocol']}): {job.folder.path}", flush=True)


def name_of(job):
    rows = "all rows" if job.shots == -1 else f"{job.shots} shots"
    return f"{NAMES[job.method]}, {rows}, seed {job.seed}"


if __name__ == "__main__":
    with one_line_errors():
        main()
