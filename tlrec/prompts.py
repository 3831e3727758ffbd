"""The prompt frames, kept as JSON in `tlrec/frames/`, and the two answers the model chooses between.

`alpaca` is the public frame of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca), so that general
Alpaca adapters fit. `tallrec` is what TALLRec and TLRec adapters were really trained with: the same, with a stray
linter comment at the end of the first line of its with-input form.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

ANSWERS = ("Yes.", "No.")  # as they stand in `output`; the first one is the positive class

_FOLDER = Path(__file__).parent / "frames"
FRAME_NAMES = sorted(path.stem for path in _FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Frame:
    """Two templates with the slots {instruction} and {input}; the answer follows right behind the last character."""

    name: str
    with_input: str
    without_input: str

    def prompt(self, record):
        """The prompt of a record: everything the model reads before its answer.

        Slots are filled in one pass, so braces in titles or in earlier answers stay what they are.
        """
        return self._fill(self._template(record), record)

    def head(self, record):
        """The part of the prompt before the record's own material: the same text for all records of a task."""
        before, _, _ = self._template(record).partition("{input}" if record["input"] else "{instruction}")
        return self._fill(before, record)

    def _template(self, record):
        return self.with_input if record["input"] else self.without_input

    def _fill(self, template, record):
        return re.sub(r"\{(instruction|input)\}", lambda slot: record[slot[1]], template)


def load_frame(name):
    """The frame of that name, one of FRAME_NAMES."""
    return Frame(name, **json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
