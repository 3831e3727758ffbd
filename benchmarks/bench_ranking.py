"""Ranking many films for one user: packed after a history that is computed once, compared with whole prompts.

    python benchmarks/bench_ranking.py --dtype bfloat16 --output ranking.json          # base_model/smollm2-135m, or 20m
    python benchmarks/bench_ranking.py --shape 7b --rows 1600 --output ranking_7b.json # on a GPU

plain batch     whole prompts of some of the films, no shared prefix: the model's best rate of tokens
rows            tlrec.model.scoring: the prefix is computed once, each film is a separate row after it
ranking         tlrec.model.ranking: the films are packed into rows after the history
Own tokens are those after the part that the prompts of one user share. Asserts that all give the same
log-probabilities. With --users the films are divided among that many users, who are scored together. On a busy machine,
use --threads 1 and compare CPU seconds.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import numpy as np
import torch

from benchmarks import measure, models
from tlrec.data.preferences import parse_input, with_targets
from tlrec.data.records import read_records
from tlrec.errors import one_line_errors
from tlrec.files import write_json
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.ranking import score_candidates
from tlrec.model.scoring import Scorer, score_records

FRAME = load_frame("alpaca")
SMOLLM2 = models.REPOSITORY / "base_model" / "smollm2-135m"
PLAIN, ROWS, RANKING, QUARTER = "plain batch", "rows", "ranking", "ranking, a quarter of the films"


def requests_of(args, films):
    """(record, items) of each user, `films` items in all."""
    records = read_records(args.data) if args.data.exists() else models.load_records(args.data, 600)[0]
    preferences = [parse_input(record["input"]) for record in records]
    items = list(dict.fromkeys(item for preference in preferences for item in (*preference.history, preference.target)))
    while len(items) < films:  # the films of the test file, and further editions of them until there are enough
        items += [replace(item, title=f"{item.title} {len(items)}") for item in items[: films - len(items)]]
    each = -(-films // args.users)
    users = records[:: len(records) // args.users][: args.users]
    return [(user, items[start : min(start + each, films)]) for user, start in zip(users, range(0, films, each))]


def load(args):
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = base_models.resolve_device(args.device)
    dtype = base_models.resolve_dtype(args.dtype, device)
    if args.shape is None:
        return base_models.load_tokenizer(SMOLLM2), base_models.load_base_model(SMOLLM2, device, dtype)
    return models.load_tokenizer(), models.make_model(args.shape, device, dtype)


def log_p(*scores):
    return np.concatenate([np.stack([one.log_p_yes, one.log_p_no], axis=1) for one in scores])


def prepare(args):
    tokenizer, model = load(args)
    requests, few = requests_of(args, args.rows), requests_of(args, -(-args.rows // 4))
    plain = [record for row, items in requests for record in with_targets(row, items)][: args.plain_rows]

    def rows(**options):
        return log_p(*(score_records(model, tokenizer, with_targets(*each), FRAME, **options) for each in requests))

    return {
        PLAIN: lambda: log_p(score_records(model, tokenizer, plain, FRAME, share_prefix=False)),
        ROWS: rows,
        RANKING: lambda: log_p(*score_candidates(model, tokenizer, requests, FRAME)),
        QUARTER: lambda: log_p(*score_candidates(model, tokenizer, few, FRAME)),
    }


def count_tokens(args):
    """Tokens that each procedure must compute: whole prompts, or own tokens and each history once."""
    tokenizer = base_models.load_tokenizer(SMOLLM2) if args.shape is None else models.load_tokenizer()
    whole, own = [], 0
    for request in requests_of(args, args.rows):
        scorer = Scorer(tokenizer, with_targets(*request), FRAME, cutoff_len=512)
        whole += map(len, scorer.rows)
        own += sum(len(row) - scorer.prefix_len for row in scorer.rows)
    return sum(whole[: args.plain_rows]), sum(whole), own


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--shape", choices=models.SHAPES, help="random weights (default: base_model/smollm2-135m, or else 20m)")
    add("--data", type=Path, default=models.MOVIE_TEST, help="records (default: the Movie test file, or demo records)")
    add("--rows", type=int, default=600, help="films to rank (default: %(default)s)")
    add("--users", type=int, default=1, help="users to divide the films among (default: %(default)s)")
    add("--plain_rows", type=int, default=64, help="films of the plain batch (default: %(default)s)")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--threads", type=int, help="(default: torch's)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)
    if args.shape is None and not SMOLLM2.exists():
        args.shape = "20m"

    # 1. Measure
    torch.set_num_threads(args.threads or torch.get_num_threads())
    device = base_models.resolve_device(args.device)
    environment = measure.environment(device)
    plain, whole, own = count_tokens(args)
    figures, results = measure.measure(prepare, args, device)

    # 2. Compare
    clock = "cpu_median" if device.type == "cpu" else "median"
    rates = {PLAIN: plain / figures[PLAIN][clock]} | {name: own / figures[name][clock] for name in (ROWS, RANKING)}
    unshared = whole / rates[PLAIN]
    report = environment | {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "procedures": figures,
        "own_tokens": own,
        "whole_tokens": whole,
        "tokens_per_second": rates,
        "share_of_the_plain_rate": {name: rates[name] / rates[PLAIN] for name in (ROWS, RANKING)},
        "times_over_no_sharing": {name: unshared / figures[name][clock] for name in (ROWS, RANKING)},
        "largest_difference": {
            RANKING: float(abs(results[RANKING] - results[ROWS]).max()),
            PLAIN: float(abs(results[PLAIN] - results[ROWS][: args.plain_rows]).max()),
        },
        "peak_over_a_quarter": measure.ratio_of_peaks(figures, RANKING, QUARTER),
    }

    # 3. Print
    print(
        f"ranking {args.rows} films for {args.users} users, {args.shape or SMOLLM2.name}, {args.dtype}, "
        f"{own / args.rows:.1f} own tokens of {whole / args.rows:.0f} a film; {environment['hardware']}"
    )
    measure.print_table(
        ["", "seconds", "CPU s", "own tokens/s", "of the plain rate", "over no sharing", "peak GB"],
        [
            [
                name,
                figure["median"],
                figure["cpu_median"],
                rates.get(name),
                rates[name] / rates[PLAIN] if name in rates else None,
                report["times_over_no_sharing"].get(name),
                figure["peak_memory_gb"],
            ]
            for name, figure in figures.items()
        ],
    )
    print(
        f"rates by {'CPU' if clock == 'cpu_median' else 'wall clock'} seconds; the plain batch's count all its tokens"
    )
    if args.output:
        write_json(args.output, report)
    tolerance = measure.TOLERANCE[base_models.resolve_dtype(args.dtype, device)]
    assert max(report["largest_difference"].values()) < tolerance, report["largest_difference"]
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
