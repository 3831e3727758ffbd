"""P(Yes) for every row of a test set -> AUC, its interval, and the rules without training to compare it with.

    python evaluate.py --base_model base_model/llama-7b/ --test_data_path rec_data/movie/test.json \
        --lora_weights instruction_model/movie/alpaca_stage123_instrument

Reads  labelled preference records, a base model, and no, one or several adapters (the base is loaded once).
Writes metrics.json and predictions.jsonl into each adapter's folder, or into --output_dir.
       With --rank also ranking.json and ranks.jsonl, row by row; a stopped run continues (docs/ranking.md).
       With --resume an evaluation that is there already is shown and not made again.
Prints a table and the line `===== auc: <value> =====` for each adapter.
"""

import argparse
from contextlib import nullcontext
from dataclasses import dataclass

from tlrec.data.preferences import in_another_order
from tlrec.data.records import RecordSet
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.candidates import ranking_of
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.ranks import Ranks, ranking_table
from tlrec.evaluation.results import check_evaluation_dir, read_evaluation, record_evaluation, results_table
from tlrec.model.folders import adapter_folder, check_base_model, check_lora_weights
from tlrec.model.identity import base_identity
from tlrec.model.prompts import FRAME_NAMES, load_frame, prompt_parts
from tlrec.runs import HOW, SCORING, RunFolder, check_unlocked, describe_adapter, differences
from tlrec.runs.scoring import identity_of_scores, scoring_of, scoring_said


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument_group("model and data").add_argument
    add("--base_model", default="base_model/llama-7b/", help="folder or hub name of a causal LM (default: %(default)s)")
    add("--lora_weights", nargs="+", default=[], help="adapters, folders or hub names (default: none)")
    add("--test_data_path", required=True, help="labelled records to score")
    add(
        "--train_data_path",
        help="labelled records of the train split, for the baselines without training that use items",
    )
    add("--output_dir", help="folder of the results (default: the adapter's; without one of your own they are printed)")
    add = parser.add_argument_group("scoring settings, by default those of the adapter's tuning").add_argument
    add("--prompt_frame", help=f"{', '.join(FRAME_NAMES)} or a JSON file (default: the adapter's, else alpaca)")
    add("--cutoff_len", type=int, help="tokens of a record (default: the adapter's, else 512)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="(default: the adapter's, else auto)")
    add("--quantization", choices=["none", "8bit", "4bit"], help="of the base (default: the adapter's, else none)")
    add(
        "--attention",
        choices=["auto", "sdpa", "eager", "flash_attention_2"],
        help="(default: the adapter's, else auto)",
    )
    help = "add LoRA into the base's weights where the function stays the same (default); --no-merge: as published"
    add("--merge", action=argparse.BooleanOptionalAction, default=True, help=help)
    help = "mean of P over N orders of both lists of a record: the given one, then N - 1 seeded ones (default: 1, published)"
    add("--orders", type=int, default=1, metavar="N", help=help)
    add = parser.add_argument_group("ranking: the target of each liked row among a catalogue's items").add_argument
    add("--rank", metavar="full|N", help="among all items that the user has not rated before, or N sampled ones")
    add("--items", metavar="FILE", help="catalogue, CSV or Parquet (default: item_mapping.csv beside the test data)")
    add("--max_rank_rows", type=int, metavar="N", help="liked rows to rank, drawn (default: all)")
    add("--rank_seed", type=int, default=0, help="of drawn rows and sampled items (default: %(default)s)")
    add = parser.add_argument_group("machine").add_argument
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--token_budget", type=int, help="tokens in one forward pass (default: by device)")
    add("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    add = parser.add_argument_group("bookkeeping").add_argument
    add("--target", help="name of the target domain in metrics.json")
    add("--check_only", action="store_true", help="check flags, data and adapters, and stop before anything is loaded")
    add("--resume", action="store_true", help="show an evaluation that is there already instead of repeating it")
    add("--other_base", action="store_true", help="also score adapters that were tuned on another base model")
    add("--overwrite", action="store_true", help="replace an evaluation on other test data")
    return parser.parse_args()


@dataclass
class Job:
    """One adapter to score (None: the base model alone), and the folder of its results (None: they are printed)."""

    adapter: str | None
    path: str | None
    kept: dict  # settings that affect a score, from the adapter's tuning
    scoring: dict  # the settings used here
    prompt: dict  # what identifies its frame
    folder: RunFolder | None = None
    ranks: Ranks | None = None


def main():
    args = parse_arguments()

    # 1. Check everything that can be checked before torch is imported
    check_base_model(args.base_model)
    base = base_identity(args.base_model)
    if args.output_dir and len(args.lora_weights) > 1:
        raise InputError("--output_dir takes one adapter; without it each adapter's results go into its own folder")
    adapters = {adapter_folder(name, "--lora_weights"): name for name in args.lora_weights}
    args.lora_weights = list(adapters)
    for adapter in adapters:
        check_lora_weights(adapter, args.base_model, base, args.other_base)
    test = EvaluationSet(args.test_data_path, RecordSet(args.train_data_path) if args.train_data_path else None)
    ranking = ranking_of(test, args.rank, args.items, args.max_rank_rows, args.rank_seed)
    records = in_orders(test, args)
    flags = vars(args) | {"frame": args.prompt_frame}
    given = {name: flags[name] for name in SCORING if flags[name] is not None}
    jobs = [job_of(adapter, name, given, test, args) for adapter, name in (adapters or {None: None}).items()]
    said = ranking.said() if ranking else []
    if args.check_only:
        print(*said, f"checked: {len(jobs)} evaluations of {len(test)} rows", sep="\n")
        return

    # 2. Import the heavy libraries; adapters with the same dtype, quantisation and attention share one base model
    from tlrec.model.processes import leave
    from tlrec.scoring.loaded import LoadedModel, scoring_here

    together = {}
    for job in jobs:
        job.scoring = scoring_here(job.kept, given, args.device, args.base_model, args.trust_remote_code)
        job.scoring |= {"merge": args.merge, "orders": args.orders}
        identity = identity_of_scores(test, job.adapter, base, job.scoring, job.prompt)
        if job.path:
            job.folder = RunFolder(job.path, identity, args.overwrite, "metrics.json", "predictions.jsonl")
        if ranking:
            job.ranks = Ranks(job.path, ranking, identity, args.overwrite)
        how = tuple(job.scoring[name] for name in HOW)
        together.setdefault(how, []).append(job)
    setups = [LoadedModel(args.base_model, args.device, *how, args.trust_remote_code, args.merge) for how in together]
    print("".join(f"{line}\n" for line in said), end="")  # by now only the first of several processes prints

    # 3. Adapters are checked tensor by tensor before a base model is loaded
    for adapter in args.lora_weights:
        setups[0].check_adapter(adapter)

    for setup, its_jobs in zip(setups, together.values()):
        for job in its_jobs:
            with job.folder.locked(setup.first) if job.folder else nullcontext():
                if args.resume and job.folder and (metrics := finished(job.folder)):
                    print(job.folder.complete_already())
                    print_auc(metrics)
                else:
                    evaluate(job, setup, test, records, args, base)
                if ranking:
                    rank(job, setup, ranking, args, base)
        setup.forget()
    leave()


def job_of(adapter, name, given, test, args):
    """The Job of an adapter; InputError if its settings are impossible, or its folder is not free. name: the adapter's, as
    given; given: settings of flags."""
    kept = scoring_of(adapter, args.base_model)
    scoring = SCORING | kept | given
    check_base_model(args.base_model, scoring["cutoff_len"])
    path = args.output_dir or (adapter if adapter == name else None)  # the hub's cache is no place for results
    job = Job(adapter, path, kept, scoring, prompt_parts(scoring["frame"]))
    tuned = (describe_adapter(adapter) or {}).get("run") or {}
    answers = tuned.get("identity", {}).get("answers", job.prompt["answers"])
    if other := differences({"answers": answers}, {"answers": job.prompt["answers"]}):
        raise InputError(f"--lora_weights {adapter}: was tuned on other answers ({other[0]}); score it with the same")
    if job.path:
        check_unlocked(job.path)
        check_evaluation_dir(job.path, test, args.overwrite)
    return job


def finished(folder):
    """The metrics of this evaluation if they are in the RunFolder already; None if not, or if a file is damaged."""
    try:
        return read_evaluation(folder.path)[0] if folder.is_complete() else None
    except InputError:
        return None


def in_orders(test, args):
    """The records as they are, then all of them once more for each seeded order of their lists."""
    if args.orders < 1 or (args.orders > 1 and args.rank):
        raise InputError(f"--orders {args.orders}: give 1 or more, and 1 with --rank, which keeps the given order")
    if args.orders > 1:
        test.check_preferences()
    numbered = [(order, row, record) for order in range(1, args.orders) for row, record in enumerate(test.records)]
    return test.records + [in_another_order(record, order, row) for order, row, record in numbered]


def evaluate(job, setup, test, records, args, base):
    """Score one job's adapter on `test`, whose records in all orders are `records`, and record and print the numbers."""
    # 4. Records to token ids, and one forward pass over all of them
    scorer = setup.scorer(records, job.scoring["frame"], job.scoring["cutoff_len"])
    scores = scorer.score(setup.attach(job.adapter), args.token_budget, merge=args.merge, progress="scoring")
    scores = scores.mean_of(args.orders)
    facts = facts_of(job, setup, args, base)
    print(
        f"{job.adapter or 'base model alone'}: {len(test)} rows in {scores.seconds:.1f} s "
        f"({len(test) / scores.seconds:.1f} rows/s), {scores.truncated} with a cut prompt; "
        f"frame: {facts['frame']}" + (f"; mean of {args.orders} orders" if args.orders > 1 else "")
    )

    # 5. Metrics, beside those of rules without training
    print(scoring_said(facts["scoring"], job.kept))
    if setup.first:
        facts["identity"] = identity_of_scores(test, job.adapter, facts["base"], facts["scoring"], job.prompt)
        print_auc(record_evaluation(job.path, "evaluate.py", vars(args), test, scores, job.adapter, **facts))


def rank(job, setup, ranking, args, base):
    """6. Ranks of the liked rows' targets among the items of the catalogue, recorded and printed."""

    def score(rows):
        requests = map(ranking.request, rows)
        shape = job.scoring["frame"], job.scoring["cutoff_len"], args.token_budget
        for found in setup.candidate_scores(job.adapter, requests, *shape):
            yield found.log_p_yes, found.truncated

    facts = facts_of(job, setup, args, base)
    job.ranks.complete(score, setup.first)
    if setup.first:
        print(ranking_table(job.ranks.record("evaluate.py", vars(args), job.adapter, **facts)))


def facts_of(job, setup, args, base):
    """What metrics.json and ranking.json say about the model and how it scores. Loads the base model."""
    scoring = job.scoring | setup.machine_scoring | {"frame": load_frame(job.scoring["frame"], setup.tokenizer).name}
    return {
        "frame": scoring["frame"],
        "base_model": args.base_model,
        "base": base or base_identity(args.base_model),
        "scoring": scoring,
        "target": args.target,
        "hardware": setup.hardware,
    }


def print_auc(metrics):
    print(results_table(metrics))
    print(f"===== auc: {metrics['auc']} =====")


if __name__ == "__main__":
    with one_line_errors():
        main()
