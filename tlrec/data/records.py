"""The preference record: what a user liked and disliked, a target item, and whether they like it.

A record is a dict with the string fields `instruction`, `input` and `output`; a record file is a JSON array of
them, or has one after the other (JSON lines), in UTF-8 or UTF-16, with or without a BOM. This module reads, validates,
writes and draws records.
"""

import io
import json
import os
import re
from functools import cached_property

import numpy as np

from tlrec.errors import InputError
from tlrec.files import opened, sha256, whole_file

FIELDS = ("instruction", "input", "output")
LABELS = {"Yes.": 1, "No.": 0}
MAYBE = "perhaps a label"
ASKS = '"Yes." or "No."'  # in the instruction of every preference record
BLOCK = 1 << 20  # characters that are read at once
LONGEST = 1 << 26  # characters of a row; beyond, a file counts as broken and is not read to its end
IN_MEMORY = 1 << 26  # bytes of a file whose rows are held in memory
_BETWEEN = re.compile(r"[\s,\ufeff]*")  # of two rows; a comma too many does no harm
FORM = "a record file is an array of records, or has one record a line"


def read_records(path, labelled=True):
    """Read and validate a record file.

    Returns a list of dicts with exactly the three string fields. With `labelled`, every `output` must be "Yes." or
    "No.". Raises InputError, naming file, row (counted from 1), number of such rows and mend, for anything else.
    """
    return list(iterate_records(path, labelled))


def iterate_records(path, labelled=True):
    """The rows of `read_records` one by one, however large the file. What is wrong with them is said at the end, so do
    not use them before."""
    flaws, labels, number = {}, 0, 0  # flaws: {kind: [how many rows, the first of them, what is wrong, how to mend it]}
    for number, row in enumerate(json_values(path), start=1):
        if flaw := _flaw(row, labelled):
            kind, *said = flaw
            flaws.setdefault(kind, [0, number, *said])[0] += 1
        if flaw is None or kind == MAYBE:
            yield {field: row[field] for field in FIELDS}
            labels += row["output"] in LABELS
    if not number:
        raise InputError(f"{path}: holds no records")
    if MAYBE in flaws and flaws[MAYBE][0] + labels < number:  # an answer of free text that happens to be "yes"
        del flaws[MAYBE]
    for rows, first, what, mend in flaws.values():
        raise InputError(f"{path}: row {first}: {what} ({rows} of {number} rows); {mend}")


def _flaw(row, labelled):
    """(kind, what is wrong, how to mend it) of a row; None for a record (that has a label, if `labelled`)."""
    if not isinstance(row, dict):
        return "form", f"a record is a JSON object, this is a {type(row).__name__}", FORM
    for field in FIELDS:
        if field not in row:
            lists = [repr(key) for key, value in row.items() if isinstance(value, list)]
            mend = f"give what {lists[0]} holds as a file of its own" if lists else f"a record has {', '.join(FIELDS)}"
            return f"no {field}", f"the field {field!r} is missing", mend
        if not isinstance(row[field], str):
            found = type(row[field]).__name__
            return f"type of {field}", f"the field {field!r} must be a string, not {found}", "write it in quotes"
        if lone := _lone_surrogate(row[field]):
            what = f"the field {field!r} has {lone}, half of a surrogate pair"
            return f"half in {field}", what, "write both halves or none"
    if row["output"] in LABELS:
        return None
    asked = ASKS in row["instruction"] and row["output"]  # without any answer, the row may be for a recommendation
    return _label_flaw(row, labelled or asked)


def _label_flaw(row, needed):
    """As `_flaw`, for an answer that is no label; None if it may be free text."""
    shown = row["output"] if len(row["output"]) < 60 else row["output"][:57] + "..."
    what = f"'output' must be 'Yes.' or 'No.', not {shown!r}"
    label = {"yes": "Yes.", "no": "No."}.get(row["output"].strip().rstrip(".").rstrip().casefold())
    if label:
        mend = f"it differs by case, spaces or the full stop only: write {label!r}"
        return "like a label" if needed else MAYBE, what, mend
    return ("label", what, "rewrite the answers as these two, or leave such rows out") if needed else None


def json_values(path, numbers=None):
    """The JSON values of an array, or of a file with one value behind the other, each as soon as it is read; decompressed
    if the name ends in .gz. numbers: what makes numbers from their text, if not Python's. Raises InputError."""
    with opened(path) as file:
        encoding = json.detect_encoding(file.peek(4)[:4])
        text = io.TextIOWrapper(file, encoding, newline="")
        try:
            yield from _values_of(text, path, json.JSONDecoder(parse_int=numbers, parse_float=numbers).raw_decode)
        except UnicodeError as error:
            raise InputError(f"{path}: cannot be read: not {encoding}: {error.reason}; save it as UTF-8") from None


def _values_of(file, path, decode):
    text, at, number, in_array = file.read(BLOCK), 0, 1, False
    while True:
        at = _BETWEEN.match(text, at).end()
        if at == len(text):
            text, at = file.read(BLOCK), 0
            if text:
                continue
            if in_array:
                raise InputError(f"{path}: is cut off after row {number - 1}: the array is not closed; copy it again")
            return
        if text[at] == "[" and number == 1 and not in_array:
            in_array, at = True, at + 1
        elif text[at] == "]" and in_array:
            if _BETWEEN.sub("", text[at + 1 :] + file.read(BLOCK), count=1):
                raise InputError(f"{path}: something follows the array of {number - 1} rows; {FORM}")
            return
        else:
            try:
                value, at = decode(text, at)
            except RecursionError:
                raise InputError(f"{path}: row {number} is not JSON: nested too deeply; {FORM}") from None
            except ValueError as error:
                more = file.read(max(BLOCK, len(text) - at)) if len(text) - at < LONGEST else ""
                if not more:
                    reason = getattr(error, "msg", "a number of too many digits")
                    raise InputError(f"{path}: row {number} is not JSON: {reason}; {FORM}") from None
                text, at = text[at:] + more, 0
            else:
                yield value
                number += 1


def _lone_surrogate(text):
    """The escape of the first surrogate without its other half, which tokenizers and files do not accept; None if there
    is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):04x}"
    return None


class RecordSet:
    """The records of a file, checked at once but not held in memory: there may be millions.

    `path` and `labelled` as given, `sha256` of the file; it iterates over the rows as dicts. `rows` are the same as a
    `datasets.Dataset`: in memory, or from a memory-mapped copy of a large file in the cache of `datasets`.
    """

    def __init__(self, path, labelled=True):
        self.path, self.labelled = path, labelled
        self._length = sum(1 for _ in self)
        self.sha256 = sha256(path)

    def __len__(self):
        return self._length

    def __iter__(self):
        return iterate_records(self.path, self.labelled)

    @cached_property
    def rows(self):
        import datasets  # not at the top, so that --help is quick

        if os.path.getsize(self.path) < IN_MEMORY:
            return datasets.Dataset.from_list(list(self))
        source = {"path": str(self.path), "labelled": self.labelled}
        features = datasets.Features({field: datasets.Value("string") for field in FIELDS})
        try:
            return datasets.Dataset.from_generator(
                iterate_records, features, gen_kwargs=source, fingerprint=self.sha256[:32]
            )
        except OSError as error:
            raise InputError(
                f"{datasets.config.HF_DATASETS_CACHE}: {self.path} cannot be copied there: {error.strerror or error}; "
                "name another folder in HF_DATASETS_CACHE"
            ) from None


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
    """Raise InputError, naming the flag, unless `shots` rows can be drawn from a RecordSet, or it is -1, for all."""
    if shots == 0 or shots < -1 or shots > len(records):
        raise InputError(f"{flag} {shots}: {records.path} has 1 to {len(records)} rows, or -1 for all")


def draw_shots(records, shots, seed):
    """The few-shot draw: the first `shots` rows of a seeded shuffle (all of them, shuffled, for -1).

    records: a list or a `datasets.Dataset`, and the same is returned. The permutation is the one of
    `datasets.Dataset.shuffle(seed)`, so a (seed, shots) pair names the same rows as in the published code, and fewer
    shots are a prefix of more.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    drawn = order if shots == -1 else order[:shots]
    return [records[place] for place in drawn] if isinstance(records, list) else records.select(drawn)
