"""Ranking many films for one user: packed after a history that is computed once, compared with whole prompts.

    python benchmarks/bench_ranking.py --dtype bfloat16 --output ranking.json          # base_model/smollm2-135m, or 20m
    python benchmarks/bench_ranking.py --shape 7b --rows 1600 --output ranking_7b.json # on a GPU
    bash benchmarks/peers.sh vllm                                                      # vLLM beside it, with
    python benchmarks/bench_ranking.py --dtype bfloat16 --vllm ../tlrec-peers/vllm     # an empty prefix cache each time

plain batch     whole prompts of some of the films, no shared prefix: the model's best rate of tokens
rows            tlrec.model.scoring: the prefix is computed once, each film is a separate row after it
ranking         tlrec.model.ranking: the films are packed into rows after the history
vLLM            the same prompts as token ids, which are made beforehand; the others' time holds the tokenisation
Own tokens are those after the part that the prompts of one user share. Asserts that all give the same
log-probabilities and, with --memory, that many films, or films and users, take hardly more memory than few. With
--users the films are divided among that many users, who are scored together. On a busy machine, use --threads 1 and
compare CPU seconds.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import numpy as np
import torch

from benchmarks import measure, models
from benchmarks.models import SMOLLM2
from benchmarks.peers import Worker
from tlrec.data.preferences import parse_input, with_targets
from tlrec.data.records import read_records
from tlrec.errors import InputError, one_line_errors
from tlrec.files import write_json
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.ranking import ITEMS_AT_ONCE, score_candidates
from tlrec.model.scoring import Scorer, score_records
from tlrec.model.tokenization import RecordTokenizer

CPU = torch.device("cpu")
FRAME = load_frame("alpaca")
PLAIN, ROWS, RANKING, VLLM = "plain batch", "rows", "ranking", "vLLM"
MORE = 3, 10  # times the films of one user, and times the films and users of several, for their peak memory
SAME_MEMORY = 1.25, 0.02  # at most so many times the peak of a tenth, and so many GB: allocators are not exact


def requests_of(args, films):
    """(record, items) of each user, `films` items in all."""
    records = read_records(args.data) if args.data.exists() else models.load_records(args.data, 600)[0]
    preferences = [parse_input(record["input"]) for record in records]
    items = list(dict.fromkeys(item for preference in preferences for item in (*preference.history, preference.target)))
    while len(items) < films:  # the films of the test file, and further editions of them until there are enough
        items += [replace(item, title=f"{item.title} {len(items)}") for item in items[: films - len(items)]]
    if args.users > len(records):
        raise InputError(f"--users {args.users}: {args.data} has {len(records)} rows, and so many users at most")
    each = -(-films // args.users)
    users = records[:: len(records) // args.users][: args.users]
    return [(user, items[start : min(start + each, films)]) for user, start in zip(users, range(0, films, each))]


def threads_of(args):
    return args.threads or torch.get_num_threads()


def load(args):
    torch.set_num_threads(threads_of(args))
    device = base_models.resolve_device(args.device)
    dtype = base_models.resolve_dtype(args.dtype, device)
    if args.shape is None:
        return base_models.load_tokenizer(SMOLLM2), base_models.load_base_model(SMOLLM2, device, dtype)
    return models.load_tokenizer(), models.make_model(args.shape, device, dtype)


def log_p(*scores):
    return np.concatenate([np.stack([one.log_p_yes, one.log_p_no], axis=1) for one in scores])


def prepare(args):
    tokenizer, model = load(args)
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
            worker = start_vllm(args.vllm, args.shape, args.dtype, threads_of(args))
            return np.array(worker.ask(prompts=prompts, answer_ids=encoder.answer_ids)["log_p"])

        procedures[VLLM] = vllm
    return procedures


@cache
def start_vllm(environment, shape, dtype, threads):
    """vLLM with the same model, started once."""
    settings = {"dtype": dtype, "prompt_tokens": 512}
    if shape is None:
        return Worker("vllm", environment, threads, model=str(SMOLLM2), **settings)
    with tempfile.TemporaryDirectory() as folder:
        models.make_model(shape, CPU, getattr(torch, dtype)).merge_and_unload().save_pretrained(folder)
        return Worker("vllm", environment, threads, model=folder, **settings)


def peaks(args):
    """{(films, users): GB} of ranking: for one user and for several, and with MORE times the films, or of both.

    One user has as many films as are tokenised at once, because memory does grow up to there.
    """
    (films, users), several = MORE, args.rows // 4
    sizes = [(ITEMS_AT_ONCE, 1), (ITEMS_AT_ONCE * films, 1), (several, 5), (several * users, 5 * users)]
    return {
        (rows, users): measure.peak_memory_gb(
            prepare, argparse.Namespace(**{**vars(args), "rows": rows, "users": users, "vllm": None}), RANKING
        )
        for rows, users in sizes
    }


def check_flat(peaks):
    """Assert that more films and more users take no more memory; peaks: as of that function."""
    one, more_films, several, more_users = peaks.values()
    times, room = SAME_MEMORY
    for less, more in ((one, more_films), (several, more_users)):
        assert more < less * times + room, f"memory grows with films or users: {peaks}"


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
    add("--memory", action="store_true", help="also peak memory, of few and of many films and users (CPU)")
    add("--vllm", type=Path, help="also vLLM: the folder that benchmarks/peers.sh made, such as ../tlrec-peers/vllm")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)
    if args.shape is None and not SMOLLM2.exists():
        args.shape = "20m"
    torch.set_num_threads(threads_of(args))
    device = base_models.resolve_device(args.device)
    args.dtype = str(base_models.resolve_dtype(args.dtype, device)).removeprefix("torch.")
    if args.memory and (device.type != "cpu" or sys.platform != "linux"):
        raise InputError("--memory: it is measured on Linux and the CPU only")

    # 1. Measure
    environment = measure.environment(device)
    plain, whole, own = count_tokens(args)
    unmeasured = [VLLM] if args.memory or device.type == "cuda" else [PLAIN, ROWS, RANKING, VLLM]  # it takes a minute
    figures, results = measure.measure(prepare, args, device, unmeasured)
    memory = peaks(args) if args.memory else {}

    # 2. Compare
    clock = "cpu_median" if device.type == "cpu" else "median"
    names = [name for name in figures if name != PLAIN]
    rates = {PLAIN: plain / figures[PLAIN][clock]} | {name: own / figures[name][clock] for name in names}
    unshared = whole / rates[PLAIN]
    report = environment | {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "procedures": figures,
        "own_tokens": own,
        "whole_tokens": whole,
        "tokens_per_second": rates,
        "share_of_the_plain_rate": {name: rates[name] / rates[PLAIN] for name in names},
        "times_over_no_sharing": {name: unshared / figures[name][clock] for name in names},
        "largest_difference": {
            name: float(abs(results[name] - results[ROWS][: len(results[name])]).max()) for name in figures
        },
        "peaks": [{"films": films, "users": users, "gb": gb} for (films, users), gb in memory.items()],
    }
    if args.vllm:
        vllm = start_vllm(args.vllm, args.shape, args.dtype, threads_of(args))
        cached_tokens = vllm.answer["cached_tokens"]
        report["vllm"] = vllm.facts | {"cached_tokens": cached_tokens}
        report["times_as_fast_as_vllm"] = figures[VLLM][clock] / figures[RANKING][clock]

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
    if args.vllm:
        print(
            f"ranking takes 1/{report['times_as_fast_as_vllm']:.2f} of vLLM, whose cache gave "
            f"{cached_tokens / args.rows:.0f} tokens a film; largest differences {report['largest_difference']}"
        )
    for (films, users), gb in memory.items():
        print(f"peak memory of {films} films for {users} users: {gb:.3f} GB")
    if args.output:
        write_json(args.output, report)
    assert max(report["largest_difference"].values()) < measure.TOLERANCE[getattr(torch, args.dtype)], report[
        "largest_difference"
    ]
    if memory:
        check_flat(memory)
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
