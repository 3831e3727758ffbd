"""Chain-of-thought data: three prompts for each liked record, asked of a chat model and paid for once.

    python cot_data/generate_data.py --data_name netflix --teacher neighbours
    python cot_data/generate_data.py --data_name netflix --dry_run
    OPENAI_API_KEY=... python cot_data/generate_data.py --data_name netflix --price_in 30 --price_out 60 --max_cost 400

Reads  <root_path>/instruction_data/<data_name>/train.json: labelled preference records.
Writes <root_path>/cot_data/<data_name>/three_stages.jsonl, one line for each answer as it comes in, and at the end (and
       when it is interrupted) three_stages.json. The same command again continues where the last one ended; README.md
       beside this file describes both. The key comes only from OPENAI_API_KEY, the address from OPENAI_BASE_URL or
       --base_url; --teacher neighbours needs neither: it answers from the source's own ratings, in this process.
Ends with status 0 when every sample is answered, 1 while some are missing, 2 for a mistake, 130 when interrupted.
"""

import argparse
import math
import sys
from collections import Counter
from pathlib import Path

from tlrec.cot.samples import STAGES, estimate_tokens, fill, liked_rows, make_samples, read_source, read_templates
from tlrec.errors import InputError, one_line_errors
from tlrec.files import sha256

REPOSITORY = Path(__file__).resolve().parent.parent
PROMPTS = Path(__file__).resolve().parent / "prompts"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    # data; the other folders are below --root_path, even if they begin with a slash
    add("--root_path", type=Path, default=REPOSITORY, help="the workspace (default: the repository)")
    add("--input_path", default="/instruction_data/", help="below --root_path (default: %(default)s)")
    add("--data_name", default="netflix", help="folder below --input_path and --output_path (default: %(default)s)")
    add("--output_path", default="/cot_data/", help="below --root_path (default: %(default)s)")
    add("--max_samples", type=int, help="a seeded draw of so many; a larger one contains a smaller (default: all)")
    # candidates
    add("--sequence_length", type=int, default=10, help="history items in the prompt (default: %(default)s)")
    add("--user_num", type=int, default=12, help="most similar rows to take candidates from (default: %(default)s)")
    add("--candidate_num", type=int, default=19, help="candidates (default: %(default)s)")
    add("--exclude_same_user", action="store_true", help="take no candidates from other windows of the same user")
    add("--seed", type=int, default=0, help="of the candidates' order and --max_samples (default: %(default)s)")
    # who answers
    add("--teacher", choices=("chat", "neighbours"), default="chat", help="a chat model, or the ratings of other users")
    add("--model", default="gpt-4", help="any chat model (default: %(default)s)")
    add("--base_url", help="address of the service (default: OPENAI_BASE_URL, else OpenAI's)")
    add("--temperature", type=float, default=0.2, help="(default: %(default)s)")
    add("--top_p", type=float, default=1.0, help="(default: %(default)s)")
    add("--max_tokens", type=int, default=512, help="of an answer (default: %(default)s)")
    add("--reasoning_model", action="store_true", help="for models that take max_completion_tokens and no temperature")
    # calls
    add("--concurrency", type=int, default=16, help="samples in flight (default: %(default)s)")
    add("--timeout", type=float, default=120.0, help="seconds for one attempt (default: %(default)s)")
    add("--attempts", type=int, default=8, help="at most this many for one call (default: %(default)s)")
    add("--batch", action="store_true", help="through the Batches interface: half the price, within a day")
    add("--poll_seconds", type=float, default=60.0, help="with --batch, between two checks (default: %(default)s)")
    # money
    add("--dry_run", action="store_true", help="print the estimated cost and the prompts of one sample; sends nothing")
    add("--price_in", type=float, help="USD for a million prompt tokens")
    add("--price_out", type=float, help="USD for a million answer tokens")
    add("--max_cost", type=float, help="USD for all answers in the journal together; stops before it is exceeded")
    return parser.parse_args()


COUNTS = ("sequence_length", "user_num", "candidate_num", "max_samples", "max_tokens", "concurrency", "attempts")
BOUNDS = [  # flags, what their values must be, the same in words
    (COUNTS, lambda value: value >= 1, "1 or more"),
    (
        ("poll_seconds", "price_in", "price_out", "max_cost"),
        lambda value: 0 <= value < math.inf,
        "a number of 0 or more",
    ),
    (("timeout",), lambda value: 0 < value < math.inf, "a number above 0"),
    (("temperature",), lambda value: 0 <= value <= 2, "0 to 2"),
    (("top_p",), lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
]


def check_arguments(args):
    for names, fits, told in BOUNDS:
        for name in names:
            value = getattr(args, name)
            if value is not None and not fits(value):
                raise InputError(f"--{name} {value}: give {told}")
    if (args.price_in is None) != (args.price_out is None):
        raise InputError("--price_in and --price_out go together")
    if args.max_cost is not None and args.price_in is None:
        raise InputError("--max_cost needs --price_in and --price_out")


def main():
    args = parse_arguments()

    # 1. Check flags, prompts and key before anything else
    check_arguments(args)
    templates = read_templates(PROMPTS)
    if args.teacher == "chat" and not args.dry_run:
        from tlrec.cot.client import Service

        service = Service(args.base_url, args.timeout, args.attempts)
    input_file = args.root_path / args.input_path.lstrip("/") / args.data_name / "train.json"
    folder = args.root_path / args.output_path.lstrip("/") / args.data_name
    journal_path, result_path = folder / "three_stages.jsonl", folder / "three_stages.json"
    if result_path.exists() and not journal_path.exists():
        raise InputError(f"{result_path}: exists without its journal; move it away, or give another --output_path")

    # 2. Records, and who is behind them; asked about are those answered Yes
    preferences, liked, users = read_source(input_file)
    rows = liked_rows(preferences, liked, input_file)
    row_users = users[[pid - 1 for pid, *_ in rows]]
    print(f"{input_file}: {len(rows)} liked rows of {len(set(row_users))} users (inferred), {len(liked)} rows")

    # 3. Candidates by user filtering, and what other windows of the same user contribute to them
    candidates = find_candidates(rows, row_users, args)

    # 4. Samples and prompts
    samples = make_samples(rows, candidates, args.sequence_length, args.seed, args.max_samples)
    if not samples:
        raise InputError(f"{input_file}: no target is among its candidates, so there is nothing to ask")
    by_pid = {sample.pid: sample for sample in samples}

    def next_prompt(pid, answers):
        if len(answers) == len(templates):
            return None
        sample = by_pid[pid]
        return fill(templates[len(answers)], sample.kind, sample.history, sample.candidates, answers)

    # 5. What it will cost
    print_cost(samples, templates, args)
    if args.dry_run:
        for stage in range(len(STAGES)):
            answers = [f"<answer {earlier}>" for earlier in range(1, stage + 1)]
            print(f"\n----- prompt {stage + 1} of sample {samples[0].pid}\n{next_prompt(samples[0].pid, answers)}")
        return

    # 6. Ask what is not in the journal yet
    from tlrec.cot.results import write_three_stages
    from tlrec.runs.locks import locked

    with locked(folder):
        journal = open_journal(journal_path, input_file, samples, args)
        if args.teacher == "neighbours":
            budget = end = None
            answer_by_neighbours(samples, journal, preferences, liked, users)
        else:
            budget, end = ask(service, samples, next_prompt, journal, args)

        # 7. Write the complete samples, and say what came of each sample
        complete = write_three_stages(result_path, samples, journal, next_prompt)
    finish(result_path, complete, samples, journal, budget, end)


def find_candidates(rows, users, args):
    """The candidates of each row, best first. Prints how they change without rows of the same user."""
    import numpy as np

    from tlrec.cot.candidates import nearest_rows, rank_candidates

    histories = [history for _, _, history, _ in rows]
    candidates, hits = {}, {}
    for excluded in (False, True):
        nearest, shared = nearest_rows(histories, args.user_num, users if excluded else None)
        candidates[excluded] = rank_candidates(histories, nearest, shared, args.candidate_num)
        hits[excluded] = sum(target in best for (*_, target), best in zip(rows, candidates[excluded]))
        if not excluded:
            present, itself = nearest >= 0, nearest == np.arange(len(rows))[:, None]
            same_user = ((users[nearest] == users[:, None]) & present & ~itself).sum()
    print(
        f"neighbours: {present.sum()}, of them {itself.sum()} the row itself and {same_user} "
        f"({same_user / present.sum():.1%}) other windows of the same user"
    )
    print(
        f"target among the candidates: {hits[False]} of {len(rows)} ({hits[False] / len(rows):.1%}), without rows of "
        f"the same user {hits[True]} ({hits[True] / len(rows):.1%})"
    )
    return candidates[args.exclude_same_user]


def print_cost(samples, templates, args):
    """Print the numbers of calls and tokens and, if prices are given, the cost."""
    n = len(samples)
    if args.teacher == "neighbours":
        print(f"samples: {n}, answered from the ratings of other users; no calls")
        return
    prompt_tokens, answer_tokens, most_tokens = estimate_tokens(samples, templates, args.max_tokens)
    print(f"samples: {n}, calls: {n * len(templates)} of {args.model}{' in batches' if args.batch else ''}")
    print(
        f"tokens, estimated at 4 bytes each: prompts {n * prompt_tokens:,.0f}, answers {n * answer_tokens:,.0f} "
        f"(at most {n * most_tokens:,})"
    )
    if args.price_in is not None:
        likely, most = (
            n * (prompt_tokens * args.price_in + tokens * args.price_out) / 1e6 * (0.5 if args.batch else 1)
            for tokens in (answer_tokens, most_tokens)
        )
        print(f"cost, estimated: {likely:,.2f} USD (with the longest answers {most:,.2f})")


def open_journal(path, input_file, samples, args):
    """The journal of the answers, after what was repaired in it and what it holds have been said."""
    from tlrec.cot.journal import Journal

    shaping = ["sequence_length", "user_num", "candidate_num", "exclude_same_user", "seed", "teacher"]
    if args.teacher == "chat":
        shaping += ["model", "max_tokens"] + ([] if args.reasoning_model else ["temperature", "top_p"])
    files = {"data": input_file, **{f"prompts/{stage}.txt": PROMPTS / f"{stage}.txt" for stage in STAGES}}
    flags = {f"--{name}": getattr(args, name) for name in shaping}
    journal = Journal(path, {name: sha256(file) for name, file in files.items()} | flags)
    for repair in journal.repairs:
        print(f"repaired: {repair}", file=sys.stderr)
    answered = sum(len(journal.texts(sample.pid)) for sample in samples)
    if answered:
        to_go = len(samples) * len(STAGES) - answered
        print(f"{path}: holds {answered} answers; at most {to_go} calls to go")
    return journal


def answer_by_neighbours(samples, journal, preferences, liked, users):
    """Let the ratings of other users answer, and say what the answers are worth."""
    from tlrec.cot.neighbours import ASKED_FOR, Neighbours, chance

    neighbours = Neighbours(preferences, liked, users)
    journal.add([answer for sample in samples for answer in neighbours.answers(sample)])
    journal.close()
    leaking = [sample.target in neighbours.rank(sample, leave_out=False)[0][:ASKED_FOR] for sample in samples]
    print(
        f"Hit@10 of chance: {chance(samples):.4f}; of the same teacher with the ratings of the row's own user, which "
        f"hold the target: {sum(leaking) / len(samples):.4f}"
    )


def ask(service, samples, next_prompt, journal, args):
    """(budget, what ended the run early or None); all answers received are in the journal, which is closed."""
    from tlrec.cot import dialogues
    from tlrec.cot.results import Progress

    request = {"model": args.model, "temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens}
    if args.reasoning_model:
        request = {"model": args.model, "max_completion_tokens": args.max_tokens}
    budget = dialogues.Budget(journal, args.price_in, args.price_out, args.max_cost, args.max_tokens)
    progress = Progress(samples, journal, budget)
    pids = [sample.pid for sample in samples]
    work = dialogues.Work(service, request, pids, next_prompt, journal, budget, progress.show)
    try:
        if args.batch:
            from tlrec.cot.batches import run_batches

            run_batches(work, journal.path.with_name("batches.json"), args.poll_seconds)
        else:
            dialogues.run_dialogues(work, args.concurrency)
    except dialogues.Stopped as error:
        return budget, error
    finally:
        progress.bar.close()
        journal.close()
    return budget, None


def finish(path, complete, samples, journal, budget, end):
    """Print what came of each sample, what it cost and what to do now; the other arguments are what the steps returned.

    Ends with a status other than 0 unless every sample has been answered and some can be used.
    """
    from tlrec.cot.dialogues import MENDS, ServiceError
    from tlrec.cot.results import spent_tokens, told

    flaws = Counter(flaw for sample in samples if (flaw := journal.flaw(sample.pid)))
    failures = Counter(journal.failed[sample.pid] for sample in samples if sample.pid in journal.failed)
    n = complete["samples"]
    missing = len(samples) - n - flaws.total()
    print(f"{path}: {n} samples complete, {flaws.total()} unusable{told(flaws)}, {missing} missing{told(failures)}")
    if n:
        print(
            f"Hit@10: {complete['hits'] / n:.4f} (target among the recommended candidates), "
            f"{complete['substring_hits'] / n:.4f} (target anywhere in the text)"
        )
        print(f"answered by: {', '.join(sorted(complete['models']))}")
    if budget:
        spent = budget.spent()
        print(f"tokens: {spent_tokens(journal)}{'' if spent is None else f'; cost: {spent:.2f} USD'}")
    if isinstance(end, ServiceError):
        raise InputError(f"stopped by the service: {end}")
    if end:
        print(f"stopped: {end}; {end.mend}", file=sys.stderr)
        sys.exit(130 if end.interrupted else 1)
    for flaw in sorted(MENDS.keys() & flaws):
        mend = MENDS[flaw].format(budget.max_tokens)
        print(f"{flaw}: {mend}; only unusable answers are then asked for again", file=sys.stderr)
    if missing:
        print(f"{missing} samples are missing; the same command asks for them again", file=sys.stderr)
    if missing or not n:
        sys.exit(1)


if __name__ == "__main__":
    with one_line_errors():
        main()
