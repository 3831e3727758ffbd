"""The preference record: what a user liked and disliked, a target item, and whether they like it.

A record is a dict with the string fields `instruction`, `input` and `output`; a record file is a JSON array of
them. This room reads, validates, writes and draws records, and turns the text of `input` into titles and back.
"""

import copy
import json
import os
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlrec.errors import InputError
from tlrec.files import whole_file
from tlrec.record_stream import RecordStream

FIELDS = ("instruction", "input", "output")
LABELS = {"Yes.": 1, "No.": 0}


@dataclass(frozen=True)
class Item:
    """A film, book or other thing. `creator` is the author of a book and empty for a film."""

    title: str
    creator: str = ""

    def __str__(self):
        return f'"{self.title}" written by {self.creator}' if self.creator else f'"{self.title}"'


@dataclass(frozen=True)
class Preference:
    """The content of a record's `input`: liked and disliked history, each in time order, and the target."""

    likes: tuple[Item, ...]
    dislikes: tuple[Item, ...]
    target: Item
    kind: str  # "movie", "book", ...

    @property
    def history(self):
        """All history items, liked ones first (their mutual time order is not in the record)."""
        return self.likes + self.dislikes


# ---------------------------------------------------------------------------------------------- reading and writing


def read_records(path, labelled=True):
    """Read and validate a record file.

    Returns a list of dicts with exactly the three string fields. With `labelled`, every `output` must be "Yes." or
    "No.". Raises InputError, naming file and row (counted from 1), for anything else.
    """
    stream = RecordStream(path)
    with stream.file:
        return [_only_fields(row) for row, _, _ in _checked(stream, labelled)]


class RecordFile(Sequence):
    """The records of a file as `read_records` gives them, validated at once but each read only when it is asked for.

    Memory holds the two offsets of each row, so that there may be millions. The file stays open and must not change.
    `sha256` is the digest of the file.
    """

    def __init__(self, path, labelled=True):
        stream = RecordStream(path)
        starts, ends = array("q"), array("q")
        for _, start, end in _checked(stream, labelled):
            starts.append(start)
            ends.append(end)
        self.sha256 = stream.sha256
        self.starts, self.ends = np.array(starts), np.array(ends)
        self._file = stream.file

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, place):
        start, end = self.starts[place], self.ends[place]
        return _only_fields(json.loads(os.pread(self._file.fileno(), end - start, start)))

    def select(self, places):
        """The records at `places` (int array), in that order, as a RecordFile."""
        selected = copy.copy(self)
        selected.starts, selected.ends = self.starts[places], self.ends[places]
        return selected


def _checked(stream, labelled):
    """What the stream gives, each row checked."""
    number = 0
    for number, (row, start, end) in enumerate(stream, start=1):
        check_record(row, f"{stream.path}: row {number}", labelled)
        yield row, start, end
    if not number:
        raise InputError(f"{stream.path}: holds no records")


def _only_fields(row):
    return {field: row[field] for field in FIELDS}


def check_record(row, where, labelled):
    """Raise InputError, beginning with `where`, unless `row` is a record (and carries a label, if `labelled`)."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: a record is a JSON object, this is a {type(row).__name__}")
    for field in FIELDS:
        if field not in row:
            raise InputError(f"{where}: the field {field!r} is missing")
        if not isinstance(row[field], str):
            raise InputError(f"{where}: the field {field!r} must be a string, not {type(row[field]).__name__}")
    if labelled and row["output"] not in LABELS:
        shown = row["output"] if len(row["output"]) < 60 else row["output"][:57] + "..."
        raise InputError(f"{where}: 'output' must be 'Yes.' or 'No.', not {shown!r}")


def write_records(path, records):
    """Write a record file in the published format: JSON with an indent of 4 and ASCII escapes."""
    with whole_file(path) as file:
        json.dump(records, file, indent=4)


def labels_of(records):
    """Labels as an int array of shape (n,): 1 for "Yes.", 0 for "No."."""
    return np.array([LABELS[record["output"]] for record in records], dtype=np.int64)


def check_two_classes(records, path):
    """Raise InputError unless both labels occur: AUC is not defined on one class."""
    labels = labels_of(records)
    if labels.min() == labels.max():
        raise InputError(
            f"{path}: all {len(records)} rows are labelled {records[0]['output']!r}; AUC needs both 'Yes.' and 'No.'"
        )


def draw_shots(records, shots, seed):
    """The few-shot draw: the first `shots` records of a seeded shuffle (all of them, shuffled, for -1).

    The permutation is the one of `datasets.Dataset.shuffle(seed)`, so a (seed, shots) pair names the same rows as
    in the published code, and fewer shots are a prefix of more.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    drawn = order if shots == -1 else order[:shots]
    return records.select(drawn) if isinstance(records, RecordFile) else [records[i] for i in drawn]


# ------------------------------------------------------------------------------------------------- titles in `input`

_INPUT = re.compile(
    r"User Preference: ?(?P<likes>.*)\n"
    r"User Unpreference: ?(?P<dislikes>.*)\n"
    r"Whether the user will like the target (?P<kind>\w+) ?(?P<target>.*)\?\s*",
    re.DOTALL,
)
_WRITTEN_BY = re.compile(r'"\s*written by ?')


def parse_input(text):
    """Parse the `input` of a record into a Preference; raise ValueError if it has another form.

    Titles may hold quotes, commas and the words of the frame. An item ends where `, "` begins the next one; in a
    list of books an item is complete only once it has its `written by`, and what has none at all goes on with the
    author before it.
    """
    match = _INPUT.fullmatch(text)
    if match is None:
        raise ValueError(
            "expected 'User Preference: ...', 'User Unpreference: ...' and "
            "'Whether the user will like the target ...?' on three lines"
        )
    target = match["target"].strip()
    if target.startswith('""') and target.endswith('"') and _WRITTEN_BY.search(target):
        target = target[1:-1]  # published book files quote the whole target once more
    return Preference(
        likes=_parse_items(match["likes"]),
        dislikes=_parse_items(match["dislikes"]),
        target=_parse_item(target),
        kind=match["kind"],
    )


def build_input(preference, quoted_target=False):
    """The inverse of `parse_input`. `quoted_target` adds the second pair of quotes of published book targets."""
    target = f'"{preference.target}"' if quoted_target else str(preference.target)
    return (
        f"User Preference: {', '.join(map(str, preference.likes))}\n"
        f"User Unpreference: {', '.join(map(str, preference.dislikes))}\n"
        f"Whether the user will like the target {preference.kind} {target}?"
    )


def build_record(preference, liked, quoted_target=False):
    """A labelled record in the published wording."""
    return {
        "instruction": (
            "Given the user's preference and unpreference, identify whether the user will like the target "
            f'{preference.kind} by answering "Yes." or "No.".'
        ),
        "input": build_input(preference, quoted_target),
        "output": "Yes." if liked else "No.",
    }


def ambiguous_names(preference):
    """Titles and creators that hold what also separates items, so that another reading of the record is possible.

    These have an odd number of quotes, or hold `, "` or `" written by`: the cut may have gone through them.
    """
    names = [name for item in (*preference.history, preference.target) for name in (item.title, item.creator)]
    return [name for name in names if name.count('"') % 2 or ', "' in name or _WRITTEN_BY.search(name)]


def _parse_items(text):
    text = text.strip()
    if not text:
        return ()
    books = bool(_WRITTEN_BY.search(text))
    items, pending = [], ""
    for piece in re.split(r', (?=")', text):
        if books and items and not pending and items[-1][-1] in "'\"" and not _WRITTEN_BY.search(piece):
            items[-1] += f", {piece}"  # authors as Amazon's lists have them: Ann Author', "Tim O'Writer
            continue
        pending = f"{pending}, {piece}" if pending else piece
        if _WRITTEN_BY.search(pending) if books else len(pending) > 1 and pending.endswith('"'):
            items.append(pending)
            pending = ""
    if pending and books and items:
        items[-1] += f", {pending}"
    elif pending:
        raise ValueError(f"an item without its closing quote or 'written by': {pending[:80]}")
    return tuple(map(_parse_item, items))


def _parse_item(text):
    if len(text) < 2 or not text.startswith('"'):
        raise ValueError(f"an item must begin with a quote: {text[:80]}")
    by = _WRITTEN_BY.search(text, 1)
    if by:
        return Item(text[1 : by.start()], text[by.end() :])
    if not text.endswith('"'):
        raise ValueError(f"an item without its closing quote: {text[:80]}")
    return Item(text[1:-1])
