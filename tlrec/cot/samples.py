"""Samples: what a teacher is asked about a liked record, the three prompts, and how many tokens they may take."""

import random
import re
from dataclasses import dataclass
from functools import cache

from tlrec.cot.answers import ASKED_FOR
from tlrec.errors import InputError

STAGES = ("stage1", "stage2", "stage3")
_SLOT = re.compile(r"\{(\w+)\}")


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


def read_source(input_file):
    """(preferences, 1 or 0 for each target, inferred user of each row) of the source's records."""
    from tlrec.data.preferences import read_checked
    from tlrec.data.records import labels_of
    from tlrec.data.users import infer_users

    if not input_file.exists():
        raise InputError(f"{input_file}: no such file; instruction_data/README.md tells how to make it")
    records, preferences = read_checked(input_file)
    if preferences is None:
        raise InputError(f"{input_file}: no row is answered Yes. or No.; give labelled preference records")
    liked = labels_of(records)
    return preferences, liked, infer_users(preferences, liked)


def liked_rows(preferences, liked, input_file):
    """(pid, kind, history, target) of each liked row with a history."""
    rows = [
        (pid, preference.kind, [item_text(item) for item in preference.history], item_text(preference.target))
        for pid, (preference, like) in enumerate(zip(preferences, liked), start=1)
        if like and preference.history
    ]
    if not rows:
        raise InputError(f"{input_file}: no row is answered 'Yes.' and has a history")
    return rows


def make_samples(rows, candidates, sequence_length, seed, max_samples=None):
    """Samples of the rows whose target is among the candidates, at most so many, in the order of the records.

    sequence_length: history items, the last of the reversed history. seed: of the candidates' order and the draw.
    """
    samples = []
    for (pid, kind, history, target), best in zip(rows, candidates, strict=True):
        if target in best:
            best = list(best)
            random.Random(f"{seed} {pid}").shuffle(best)
            samples.append(Sample(pid, kind, history[::-1][-sequence_length:], best, target))
    chosen = random.Random(seed).sample(samples, len(samples))[:max_samples]
    return sorted(chosen, key=lambda sample: sample.pid)


def read_templates(folder):
    """The three prompt templates in a folder; InputError for a slot that is not filled at that stage."""
    templates = []
    for number, stage in enumerate(STAGES):
        path = folder / f"{stage}.txt"
        try:
            template = path.read_text(encoding="utf-8").rstrip("\n")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        slots = {"kind", "kinds", "number", "history", "candidates", *(f"answer_{n + 1}" for n in range(number))}
        if unknown := [slot for slot in _SLOT.findall(template) if slot not in slots]:
            raise InputError(f"{path}: {{{unknown[0]}}} is not known here; there are {', '.join(sorted(slots))}")
        templates.append(template)
    return templates


def fill(template, kind, history, candidates, answers=()):
    """A template with its slots filled, lists as quoted titles. All slots are filled in one pass, so braces in titles
    and answers stay as they are."""
    slots = {
        "kind": kind,
        "kinds": f"{kind}s",
        "history": ", ".join(f'"{item}"' for item in history),
        "candidates": ", ".join(f'"{item}"' for item in candidates),
        "number": str(min(ASKED_FOR, len(candidates))),
        **{f"answer_{stage}": answer for stage, answer in enumerate(answers, start=1)},
    }
    return _SLOT.sub(lambda slot: slots.get(slot[1], slot[0]), template)


def without_marker(prompt):
    """A prompt without the line, or the word, at its end that announces the answer, such as "Answer:"."""
    return re.sub(r"(\n[^\n]{1,30}|\s+\w+):\s*\Z", "", prompt).rstrip()


def estimate_tokens(samples, templates, max_tokens):
    """Tokens of a sample's three stages on average: (prompt, likely answer, answer at most).

    No tokenizer of OpenAI works offline, so a token counts as four bytes of UTF-8. Answers: a hundred tokens for the
    preferences, then the titles that are asked for, at the mean length of this sample's.
    """
    prompt = answer = 0.0
    for sample in samples:
        of_history, of_candidates = (
            len("".join(items).encode()) / len(items) / 4 for items in (sample.history, sample.candidates)
        )
        recommended = min(ASKED_FOR, len(sample.candidates)) * (of_history + of_candidates + 5)
        answers = [min(tokens, max_tokens) for tokens in (100, 5 * (of_history + 3), recommended)]
        for stage, template in enumerate(templates):
            text = fill(template, sample.kind, sample.history, sample.candidates, ["", ""])
            prompt += len(text.encode()) / 4 + 8 + sum(answers[:stage])
        answer += sum(answers)
    return prompt / len(samples), answer / len(samples), len(templates) * max_tokens
