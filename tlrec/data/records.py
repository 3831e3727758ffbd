"""The preference record: what a user liked and disliked, a target item, and whether they like it.

A record is a dict with the string fields `instruction`, `input` and `output`; a record file is a JSON array of
them. This module reads, validates, writes and draws records.
"""

import copy
import json
import os
from array import array
from collections.abc import Sequence

import numpy as np

from tlrec.data.json_stream import RecordStream
from tlrec.errors import InputError
from tlrec.files import whole_file

FIELDS = ("instruction", "input", "output")
LABELS = {"Yes.": 1, "No.": 0}


def read_records(path, labelled=True):
    """Read and validate a record file.

    Returns a list of dicts with exactly the three string fields. With `labelled`, every `output` must be "Yes." or
    "No.". Raises InputError, naming file and row (counted from 1), for anything else.
    """
    return read_records_and_digest(path, labelled)[0]


def read_records_and_digest(path, labelled=True):
    """What `read_records` returns, and the hexadecimal SHA-256 of the file, which is read once."""
    stream = RecordStream(path)
    with stream.file:
        records = [_only_fields(row) for row, _, _ in _checked(stream, labelled)]
    return records, stream.sha256


class RecordFile(Sequence):
    """The records of a file as `read_records` gives them, validated at once but each read only when it is needed.

    Only the two offsets of each row are in memory, so there may be millions. The file stays open and must not change.
    `sha256` is the digest of the file, `labelled` the argument.
    """

    def __init__(self, path, labelled=True):
        self.path, self.labelled = path, labelled
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
    """The stream's rows and offsets, each row checked."""
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
        if lone := _lone_surrogate(row[field]):
            raise InputError(
                f"{where}: the field {field!r} has {lone}, half of a surrogate pair; write both halves or none"
            )
    if labelled and row["output"] not in LABELS:
        shown = row["output"] if len(row["output"]) < 60 else row["output"][:57] + "..."
        raise InputError(f"{where}: 'output' must be 'Yes.' or 'No.', not {shown!r}")


def _lone_surrogate(text):
    """The escape of the first surrogate without its other half, which tokenizers and files do not accept; None if there
    is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x}"
    return None


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


def check_draw(flag, shots, records):
    """Raise InputError, naming the flag, unless `shots` rows can be drawn from a RecordFile, or it is -1, for all."""
    if shots == 0 or shots < -1 or shots > len(records):
        raise InputError(f"{flag} {shots}: {records.path} has 1 to {len(records)} rows, or -1 for all")


def draw_shots(records, shots, seed):
    """The few-shot draw: the first `shots` records of a seeded shuffle (all of them, shuffled, for -1).

    The permutation is the one of `datasets.Dataset.shuffle(seed)`, so a (seed, shots) pair names the same rows as
    in the published code, and fewer shots are a prefix of more.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    drawn = order if shots == -1 else order[:shots]
    return records.select(drawn) if isinstance(records, RecordFile) else [records[i] for i in drawn]
