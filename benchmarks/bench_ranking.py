"""Ranking many films for one user: packed after a history that is computed once, compared with whole prompts.

    python benchmarks/bench_ranking.py --shape smollm2 --dtype bfloat16 --output ranking.json
    python benchmarks/bench_ranking.py --shape 7b --rows 1600 --output ranking_7b.json          # on a GPU
    bash benchmarks/peers.sh vllm                # vLLM beside it, with an empty prefix cache each time: --vllm FOLDER

plain batch     whole prompts of some of the films, no shared prefix: the model's best rate of tokens
rows            tlrec.scoring.records: the prefix is computed once, each film is a separate row after it
ranking         tlrec.scoring.candidates: the films are packed into rows after the history
vLLM            the same prompts as token ids, which are made beforehand; the others' time holds the tokenisation
Own tokens are those after the part that the prompts of one user share. Asserts that all give the same
log-probabilities. With --users the films are divided among that many users, who are scored together. On a busy machine,
use --threads 1 and compare CPU seconds.
"""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure, models
from benchmarks.peers import Worker
from tlrec.data.preferences import parse_input, with_targets
from tlrec.data.records import read_records
from tlrec.errors import InputError, one_line_errors
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring.candidates import score_candidates
from tlrec.scoring.records import Scorer, score_records

CPU = torch.device("cpu")
FRAME = load_frame("alpaca")
PLAIN, ROWS, RANKING, VLLM = "plain batch", "rows", "ranking", "vLLM"


def requests_of(args, films):
    """(record, items) of each user, `films` items in all."""
    records = read_records(args.data)
    preferences = [parse_input(record["input"]) for record in records]
    items = list(dict.fromkeys(item for preference in preferences for item in (*preference.history, preference.target)))
    while len(items) < films:  # the films of the file, and further editions of them until there are enough
        items += [replace(item, title=f"{item.title} {len(items)}") for item in items[: films - len(items)]]
    if args.users > len(records):
        raise InputError(f"--users {args.users}: {args.data} has {len(records)} rows, and so many users at most")
    each = -(-films // args.users)
    users = records[:: len(records) // args.users][: args.users]
    return [(user, items[start : min(start + each, films)]) for user, start in zip(users, range(0, films, each))]


def prepare(args):
    device = base_models.resolve_device(args.device)
    tokenizer, model = (
        models.load_tokenizer(args.shape),
        models.make_model(args.shape, device, getattr(torch, args.dtype)),
    )
    requests = requests_of(args, args.rows)
    plain = [record for row, items in requests for record in with_targets(row, items)][: args.plain_rows]

    def rows():
        return log_p(*(score_records(model, tokenizer, with_targets(*each), FRAME) for each in requests))

    procedures = {
        PLAIN: lambda: log_p(score_records(model, tokenizer, plain, FRAME, share_prefix=False)),
        ROWS: rows,
        RANKING: lambda: log_p(*score_candidates(model, tokenizer, requests, FRAME)),
    }
    if args.vllm:
        encoder = RecordTokenizer(tokenizer, FRAME, 512)
        prompts = [ids for each in requests for ids in encoder.prompts(with_targets(*each)).input_ids]

        def vllm():
            worker = start_vllm(args.vllm, args.shape, args.dtype, args.threads)
            return np.array(worker.ask(prompts=prompts, answer_ids=encoder.answer_ids)["log_p"])

        procedures[VLLM] = vllm
    return procedures


@cache
def start_vllm(environment, shape, dtype, threads):
    """vLLM with the same model, started once."""
    with tempfile.TemporaryDirectory() as folder:
        models.make_model(shape, CPU, getattr(torch, dtype)).merge_and_unload().save_pretrained(folder)
        return Worker("vllm", environment, threads, model=folder, dtype=dtype, prompt_tokens=512)


def log_p(*scores):
    return np.concatenate([np.stack([one.log_p_yes, one.log_p_no], axis=1) for one in scores])


def count_tokens(args):
    """Tokens that each procedure must compute: whole prompts, or own tokens and each history once."""
    tokenizer = models.load_tokenizer(args.shape)
    whole, own = [], 0
    for request in requests_of(args, args.rows):
        scorer = Scorer(tokenizer, with_targets(*request), FRAME, cutoff_len=512)
        whole += map(len, scorer.rows)
        own += sum(len(row) - scorer.prefix_len for row in scorer.rows)
    return sum(whole[: args.plain_rows]), sum(whole), own


def main(arguments=None):
    parser = measure.parser(__doc__, rows=600)
    add = parser.add_argument
    add("--users", type=int, default=1, help="users to divide the films among (default: %(default)s)")
    add("--plain_rows", type=int, default=64, help="films of the plain batch (default: %(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="(default: torch's)")
    add("--vllm", type=Path, help="also vLLM: the folder that benchmarks/peers.sh made, such as ../tlrec-peers/vllm")
    add("--dtype", choices=measure.DTYPES, default="float32", help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    device = base_models.resolve_device(args.device)

    # 1. Measure
    plain, whole, own = count_tokens(args)
    figures, results = measure.measure(prepare, args)

    # 2. Compare
    clock = "cpu_median" if device.type == "cpu" else "median"
    rates = {name: (plain if name == PLAIN else own) / figure[clock] for name, figure in figures.items()}
    differences = {name: float(abs(each - results[ROWS][: len(each)]).max()) for name, each in results.items()}
    table = {
        name: {
            "seconds": figure["median"],
            "CPU s": figure["cpu_median"],
            "own tokens/s": rates[name],
            "of the plain rate": rates[name] / rates[PLAIN],
            "over no sharing": None if name == PLAIN else whole / rates[PLAIN] / figure[clock],
            "difference": differences[name],
        }
        for name, figure in figures.items()
    }
    facts = {"own_tokens": own, "whole_tokens": whole, "largest_difference": differences, "table": table}
    if args.vllm:
        vllm = start_vllm(args.vllm, args.shape, args.dtype, args.threads)
        facts["vllm"] = vllm.facts | {"cached_tokens": vllm.answer["cached_tokens"]}
    report = measure.report(args, device, procedures=figures, **facts)

    # 3. Print
    print(
        f"ranking {args.rows} films for {args.users} users, {args.shape}, {args.dtype}, {own / args.rows:.1f} own tokens "
        f"of {whole / args.rows:.0f} a film; {report['hardware']}; rates by {clock}; the plain batch's count all its tokens"
    )
    measure.print_table(table)
    assert max(report["largest_difference"].values()) < measure.TOLERANCE[getattr(torch, args.dtype)], report[
        "largest_difference"
    ]
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
