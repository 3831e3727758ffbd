"""Chain-of-thought data: three chat prompts for each liked record, asked of a chat model and paid for once.

    python cot_data/generate_data.py --data_name netflix --dry_run
    OPENAI_API_KEY=... python cot_data/generate_data.py --data_name netflix --price_in 30 --price_out 60 --max_cost 400

Reads  <root_path>/instruction_data/<data_name>/train.json: labelled preference records.
Writes <root_path>/cot_data/<data_name>/three_stages.jsonl, a line an answer as it comes in, and at the end (and when it
       is interrupted) three_stages.json. The same command again goes on where the last one ended; README.md beside this
       file describes both. The key comes from OPENAI_API_KEY alone, the address from OPENAI_BASE_URL or --base_url.
Ends with status 0 when every sample is answered, 1 while some are missing, 2 for a mistake, 130 when interrupted.
"""

import argparse
import json
import math
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # tlrec, wherever this is called from

from tlrec.errors import InputError, one_line_errors
from tlrec.files import sha256, whole_file

PROMPTS = Path(__file__).resolve().parent / "prompts"
STAGES = ("stage1", "stage2", "stage3")
RECOMMENDATIONS = 10


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    # data; the last three paths are looked for below the first, although they begin with a slash
    add("--root_path", type=Path, default=REPOSITORY, help="the workspace (default: the repository)")
    add("--input_path", default="/instruction_data/", help="below --root_path (default: %(default)s)")
    add("--data_name", default="netflix", help="folder below --input_path and --output_path (default: %(default)s)")
    add("--output_path", default="/cot_data/", help="below --root_path (default: %(default)s)")
    add(
        "--max_samples",
        type=int,
        help="a seeded draw of so many samples; a larger one holds the smaller (default: all)",
    )
    # candidates
    add("--sequence_length", type=int, default=10, help="history items in the prompt (default: %(default)s)")
    add("--user_num", type=int, default=12, help="most similar rows to take candidates from (default: %(default)s)")
    add("--candidate_num", type=int, default=19, help="candidates (default: %(default)s)")
    add("--exclude_same_user", action="store_true", help="take no candidates from other windows of the same user")
    add("--seed", type=int, default=0, help="of the candidates' order and --max_samples (default: %(default)s)")
    # model
    add("--model", default="gpt-4", help="any chat model (default: %(default)s)")
    add("--base_url", help="address of the service (default: OPENAI_BASE_URL, else OpenAI's)")
    add("--temperature", type=float, default=0.2, help="(default: %(default)s)")
    add("--top_p", type=float, default=1.0, help="(default: %(default)s)")
    add("--max_tokens", type=int, default=512, help="of an answer (default: %(default)s)")
    add("--reasoning_model", action="store_true", help="for models that take max_completion_tokens and no temperature")
    # calls
    add("--concurrency", type=int, default=16, help="samples in flight (default: %(default)s)")
    add("--timeout", type=float, default=120.0, help="seconds for one attempt (default: %(default)s)")
    add("--attempts", type=int, default=8, help="at most so many for one call (default: %(default)s)")
    add("--batch", action="store_true", help="through the Batches interface: half the price, within a day")
    add("--poll_seconds", type=float, default=60.0, help="with --batch, between two looks (default: %(default)s)")
    # money
    add("--dry_run", action="store_true", help="print what it would cost and the prompts of one sample; asks nothing")
    add("--price_in", type=float, help="USD for a million prompt tokens")
    add("--price_out", type=float, help="USD for a million answer tokens")
    add("--max_cost", type=float, help="USD for all answers in the journal together; stops before it is exceeded")
    return parser.parse_args()


def check_arguments(args):
    counts = ("sequence_length", "user_num", "candidate_num", "max_samples", "max_tokens", "concurrency", "attempts")
    for name in counts:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: at least 1")
    for name in ("timeout", "poll_seconds", "price_in", "price_out", "max_cost"):
        value = getattr(args, name)
        if value is not None and not (0 <= value < math.inf):
            raise InputError(f"--{name} {value}: a number from 0 on")
    if args.timeout == 0:
        raise InputError("--timeout 0: above 0")
    if not 0 <= args.temperature <= 2:
        raise InputError(f"--temperature {args.temperature}: 0 to 2")
    if not 0 < args.top_p <= 1:
        raise InputError(f"--top_p {args.top_p}: above 0, at most 1")
    if (args.price_in is None) != (args.price_out is None):
        raise InputError("--price_in and --price_out go together")
    if args.max_cost is not None and args.price_in is None:
        raise InputError("--max_cost needs --price_in and --price_out")


def below(root, path):
    """`path` below `root`, also where it begins with a slash."""
    return root / path.lstrip("/")


@dataclass(frozen=True)
class Sample:
    """A liked record whose target is a candidate. Items are texts: `Title (Year)` or `Title written by Author`."""

    pid: int  # row of the record file, from 1
    kind: str
    history: list[str]
    candidates: list[str]
    target: str


@cache
def item_text(item):
    """An item in a prompt; always one line."""
    return " ".join(f"{item.title} written by {item.creator}".split() if item.creator else item.title.split())


def make_samples(rows, candidates, args):
    """Samples of the rows whose target is among the candidates, in the order of the record file."""
    samples = []
    for (pid, kind, history, target), best in zip(rows, candidates, strict=True):
        if target in best:
            best = list(best)
            random.Random(f"{args.seed} {pid}").shuffle(best)
            samples.append(Sample(pid, kind, history[::-1][-args.sequence_length :], best, target))
    return samples


def fill(template, sample, answers):
    """A prompt. All slots are filled in one pass, so braces in titles and answers stay what they are."""
    slots = {
        "kind": sample.kind,
        "kinds": f"{sample.kind}s",
        "history": "\n".join(sample.history),
        "candidates": "\n".join(sample.candidates),
        "number": str(min(RECOMMENDATIONS, len(sample.candidates))),
        **{f"answer_{stage}": answer for stage, answer in enumerate(answers, start=1)},
    }
    return re.sub(r"\{(\w+)\}", lambda slot: slots.get(slot[1], slot[0]), template)


def estimate_tokens(samples, templates, max_tokens):
    """Tokens of a sample's three stages on average: (prompt, likely answer, answer at most).

    No tokenizer of OpenAI works offline, so a token counts as four bytes of UTF-8. Answers: a hundred tokens for the
    preferences, then the titles that are asked for, at the mean length of this sample's.
    """
    prompt = answer = 0.0
    for sample in samples:
        of_history, of_candidates = (
            sum(len(item.encode()) for item in items) / len(items) / 4 for items in (sample.history, sample.candidates)
        )
        answers = [
            100,
            5 * (of_history + 3),
            min(RECOMMENDATIONS, len(sample.candidates)) * (of_history + of_candidates + 5),
        ]
        answers = [min(tokens, max_tokens) for tokens in answers]
        for stage, template in enumerate(templates):
            prompt += len(fill(template, sample, ["", ""]).encode()) / 4 + 8 + sum(answers[:stage])
        answer += sum(answers)
    return prompt / len(samples), answer / len(samples), len(templates) * max_tokens


def main():
    args = parse_arguments()

    # 1. Check flags and key before anything else
    check_arguments(args)
    from tlrec.cot import dialogues
    from tlrec.cot.client import Service, ServiceError, api_key
    from tlrec.cot.journal import Journal

    if not args.dry_run:
        api_key()
    input_file = below(args.root_path, args.input_path) / args.data_name / "train.json"
    folder = below(args.root_path, args.output_path) / args.data_name
    journal_path, result_path = folder / "three_stages.jsonl", folder / "three_stages.json"
    if result_path.exists() and not journal_path.exists():
        raise InputError(f"{result_path}: is there without its journal; move it away, or give another --output_path")

    # 2. Records answered Yes
    from tlrec.data.preferences import parse_input
    from tlrec.data.records import labels_of, read_records

    if not input_file.exists():
        raise InputError(f"{input_file}: no such file; instruction_data/README.md tells how to make it")
    records = read_records(input_file)
    preferences = []
    for number, record in enumerate(records, start=1):
        try:
            preferences.append(parse_input(record["input"]))
        except ValueError as error:
            raise InputError(f"{input_file}: row {number}: {error}") from None
    liked = labels_of(records)
    rows = [
        (pid, preference.kind, [item_text(item) for item in preference.history], item_text(preference.target))
        for pid, (preference, like) in enumerate(zip(preferences, liked), start=1)
        if like and preference.history
    ]
    if not rows:
        raise InputError(f"{input_file}: no row is answered 'Yes.' and has a history")

    # 3. Candidates by user filtering, and how much they owe to other windows of the same user
    import numpy as np

    from tlrec.cot.candidates import nearest_rows, rank_candidates
    from tlrec.data.users import infer_users

    users = infer_users(preferences, liked)[[pid - 1 for pid, *_ in rows]]
    histories = [history for _, _, history, _ in rows]
    candidates, hits = {}, {}
    for excluded in (False, True):
        nearest, shared = nearest_rows(histories, args.user_num, users if excluded else None)
        candidates[excluded] = rank_candidates(histories, nearest, shared, args.candidate_num)
        hits[excluded] = sum(target in best for (*_, target), best in zip(rows, candidates[excluded]))
        if not excluded:
            present, itself = nearest >= 0, nearest == np.arange(len(rows))[:, None]
            same_user = ((users[nearest] == users[:, None]) & present & ~itself).sum()
    print(f"{input_file}: {len(rows)} liked rows of {len(set(users.tolist()))} users (inferred), {len(records)} rows")
    print(
        f"neighbours: {present.sum()}, of them {itself.sum()} the row itself and {same_user} "
        f"({same_user / present.sum():.1%}) other windows of the same user"
    )
    print(
        f"target among the candidates: {hits[False]} of {len(rows)} ({hits[False] / len(rows):.1%}), without rows of "
        f"the same user {hits[True]} ({hits[True] / len(rows):.1%})"
    )

    # 4. Samples and prompts
    samples = make_samples(rows, candidates[args.exclude_same_user], args)
    if not samples:
        raise InputError(f"{input_file}: no target is among its candidates, so there is nothing to ask")
    if args.max_samples is not None:
        chosen = random.Random(args.seed).sample(samples, len(samples))[: args.max_samples]
        samples = sorted(chosen, key=lambda sample: sample.pid)
    templates = [(PROMPTS / f"{stage}.txt").read_text(encoding="utf-8").rstrip("\n") for stage in STAGES]
    by_pid = {sample.pid: sample for sample in samples}

    def next_prompt(pid, answers):
        return fill(templates[len(answers)], by_pid[pid], answers) if len(answers) < len(templates) else None

    request = {"model": args.model, "temperature": args.temperature, "top_p": args.top_p, "max_tokens": args.max_tokens}
    if args.reasoning_model:
        request = {"model": args.model, "max_completion_tokens": args.max_tokens}

    # 5. What it will cost
    prompt_tokens, answer_tokens, most_tokens = estimate_tokens(samples, templates, args.max_tokens)
    n = len(samples)
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
    if args.dry_run:
        for stage, _ in enumerate(templates):
            answers = [f"<answer {earlier}>" for earlier in range(1, stage + 1)]
            print(f"\n----- prompt {stage + 1} of sample {samples[0].pid}\n{next_prompt(samples[0].pid, answers)}")
        return

    # 6. Ask what the journal does not hold yet
    service = Service(args.base_url, args.timeout, args.attempts)
    journal = Journal(
        journal_path,
        parameters={
            "data": sha256(input_file)[:12],
            "prompts": [sha256(PROMPTS / f"{stage}.txt")[:12] for stage in STAGES],
            **request,
            **{
                name: getattr(args, name)
                for name in ("sequence_length", "user_num", "candidate_num", "exclude_same_user", "seed")
            },
        },
    )
    for repair in journal.repairs:
        print(f"repaired: {repair}", file=sys.stderr)
    budget = dialogues.Budget(journal, args.price_in, args.price_out, args.max_cost, args.max_tokens)
    answered = sum(len(journal.texts(sample.pid)) for sample in samples)
    if answered:
        print(f"{journal_path}: {answered} answers are there, at most {n * len(templates) - answered} calls to go")
    progress = Progress(samples, journal, budget)
    end = None
    try:
        if args.batch:
            from tlrec.cot.batches import run_batches

            run_batches(
                service,
                request,
                by_pid,
                next_prompt,
                journal,
                budget,
                folder / "batches.json",
                args.poll_seconds,
                progress.show,
            )
        else:
            dialogues.run_dialogues(
                service, request, by_pid, next_prompt, journal, budget, args.concurrency, progress.show
            )
    except (ServiceError, dialogues.Stopped) as error:
        end = error
    finally:
        progress.close()
        journal.close()

    # 7. The whole result, and what came of every sample
    complete = write_three_stages(result_path, samples, journal, next_prompt)
    flaws = Counter(flaw for sample in samples if (flaw := journal.flaw(sample.pid)))
    gaps = n - complete["samples"] - flaws.total()
    failures = Counter(kind for sample in samples if (kind := journal.failure(sample.pid)))
    print(
        f"{result_path}: {complete['samples']} samples complete, {flaws.total()} unusable{told(flaws)}, "
        f"{gaps} missing{told(failures)}"
    )
    if complete["samples"]:
        print(
            f"Hit@10: {complete['hits'] / complete['samples']:.4f} (target among the recommended candidates), "
            f"{complete['substring_hits'] / complete['samples']:.4f} (target anywhere in the text)"
        )
        print(f"answered by: {', '.join(sorted(complete['models']))}")
    print(f"tokens: {spent_tokens(journal)}{f'; cost: {budget.spent():.2f} USD' if budget.priced else ''}")
    if isinstance(end, ServiceError):
        raise InputError(f"stopped by the service: {end}")
    if end:
        print(f"stopped: {end}; the same command goes on", file=sys.stderr)
        sys.exit(130 if end.interrupted else 1)
    if gaps:
        print(f"{gaps} samples are missing; the same command asks for them again", file=sys.stderr)
        sys.exit(1)


def write_three_stages(path, samples, journal, next_prompt):
    """Write the samples whose three answers are usable, in the order of the record file, with the published fields.

    Returns counts: samples, hits, substring_hits, and the set of models that answered.
    """
    from tlrec.cot.answers import is_hit

    totals = {"samples": 0, "hits": 0, "substring_hits": 0, "models": set()}
    with whole_file(path) as file:
        file.write("[")
        for sample in samples:
            texts = journal.texts(sample.pid)
            if len(texts) < len(STAGES) or journal.flaw(sample.pid):
                continue
            hit = is_hit(texts[2], sample.history, sample.candidates, sample.target)
            substring_hit = sample.target in texts[2]
            models = sorted({answer.model for answer in journal.answers(sample.pid)})
            totals["samples"] += 1
            totals["hits"] += hit
            totals["substring_hits"] += substring_hit
            totals["models"].update(models)
            row = {
                "PID": sample.pid,
                **{f"Input_{stage + 1}": next_prompt(sample.pid, texts[:stage]) for stage in range(len(STAGES))},
                "Predictions_1": texts[0],
                "Predictions_2": texts[1],
                "Predictions": texts[2],
                "GT": sample.target,
                "Hit": int(hit),
                "Count": totals["hits"],
                "Current_total": totals["samples"],
                "Hit@10": totals["hits"] / totals["samples"],
                "Hit_substring": int(substring_hit),
                "History": sample.history,
                "Candidates": sample.candidates,
                "Models": models,
            }
            file.write(("\n" if totals["samples"] == 1 else ",\n") + json.dumps(row, indent=2))
        file.write("\n]\n")
    return totals


class Progress:
    """One line while calls are made: samples, answers, failures by kind, tokens, cost, Hit@10, time left."""

    def __init__(self, samples, journal, budget):
        from tqdm import tqdm

        self.journal, self.budget = journal, budget
        self.open = {sample.pid: sample for sample in samples}
        self.complete = self.hits = 0
        self._count(list(self.open))
        self.bar = tqdm(
            total=len(samples),
            initial=len(samples) - len(self.open),
            unit=" samples",
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            bar_format="{n_fmt}/{total_fmt} samples [{elapsed}<{remaining}]{postfix}",
        )

    def show(self, pids=(), batch=None):
        """Take in what has come into the journal for some samples; `batch` says how far a batch is."""
        before = len(self.open)
        self._count(pids)
        facts = [f"{self.journal.n_answers} answers", spent_tokens(self.journal)]
        if self.budget.priced:
            facts.append(f"{self.budget.spent():.2f} USD")
        if self.complete:
            facts.append(f"Hit@10 {self.hits / self.complete:.3f}")
        if self.journal.failures:
            facts.append(f"failures{told(self.journal.failures)}")
        if batch:
            facts.append(batch)
        self.bar.set_postfix_str(", ".join(facts), refresh=False)
        self.bar.update(before - len(self.open))

    def _count(self, pids):
        from tlrec.cot.answers import is_hit

        for pid in pids:
            texts, sample = self.journal.texts(pid), self.open.get(pid)
            if sample and (len(texts) == len(STAGES) or self.journal.flaw(pid)):
                del self.open[pid]
                if not self.journal.flaw(pid):
                    self.complete += 1
                    self.hits += is_hit(texts[-1], sample.history, sample.candidates, sample.target)

    def close(self):
        self.bar.close()


def spent_tokens(journal):
    tokens = journal.tokens
    return (
        f"{tokens['prompt'] + tokens['batch_prompt']:,} in, {tokens['completion'] + tokens['batch_completion']:,} out"
    )


def told(counts):
    """Counts by kind in brackets, or nothing."""
    return f" ({', '.join(f'{count} {kind}' for kind, count in counts.most_common())})" if counts else ""


if __name__ == "__main__":
    with one_line_errors():
        main()
