"""Samples: what a chat model is asked about a liked record, the three prompts, and how many tokens they may take."""

import re
from dataclasses import dataclass
from functools import cache

from tlrec.cot.answers import ASKED_FOR

STAGES = ("stage1", "stage2", "stage3")


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


def fill(template, sample, answers):
    """A prompt. All slots are filled in one pass, so braces in titles and answers stay as they are."""
    slots = {
        "kind": sample.kind,
        "kinds": f"{sample.kind}s",
        "history": "\n".join(sample.history),
        "candidates": "\n".join(sample.candidates),
        "number": str(min(ASKED_FOR, len(sample.candidates))),
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
            min(ASKED_FOR, len(sample.candidates)) * (of_history + of_candidates + 5),
        ]
        answers = [min(tokens, max_tokens) for tokens in answers]
        for stage, template in enumerate(templates):
            prompt += len(fill(template, sample, ["", ""]).encode()) / 4 + 8 + sum(answers[:stage])
        answer += sum(answers)
    return prompt / len(samples), answer / len(samples), len(templates) * max_tokens
