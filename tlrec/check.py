"""Check record files: are they valid, what do they hold, and do train, valid and test share rows or users?

    python -m tlrec.check rec_data/movie
    python -m tlrec.check rec_data/movie/train.json cot_data/stage123.json --tokenizer base_model/llama-7b

Input: record files, or folders with train.json, valid.json and test.json. Output: a few lines for each file and each
pair of files; exit status 2 and one line that names file and row if a file is not valid.
"""

import argparse
import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from tlrec.errors import InputError, one_line_errors
from tlrec.folders import TOKENIZERS
from tlrec.prompts import FRAME_NAMES, load_frame
from tlrec.records import LABELS, ambiguous_names, check_record, labels_of, parse_input, read_records


def read_checked(path):
    """The records of a file and their Preferences, or None for instruction records, whose answers are free text.

    A file with one "Yes." or "No." must hold nothing else. Raises InputError, naming file and row.
    """
    records = read_records(path, labelled=False)
    if not any(record["output"] in LABELS for record in records):
        return records, None
    preferences = []
    for number, record in enumerate(records, start=1):
        check_record(record, f"{path}: row {number}", labelled=True)
        try:
            preferences.append(parse_input(record["input"]))
        except ValueError as error:
            raise InputError(f"{path}: row {number}: 'input' does not parse: {error}") from None
    return records, preferences


def describe(records, preferences):
    """Lines about one file: rows, labels, histories, repeated and ambiguous rows."""
    kind = "instruction" if preferences is None else "preference"
    yield f"{len(records)} {kind} records"
    if preferences is not None:
        yield f"{labels_of(records).mean():.1%} Yes"
        likes = np.array([len(p.likes) for p in preferences])
        items = np.array([len(p.history) for p in preferences])
        yield f"history: {_spread(items)} items, {_spread(likes)} of them liked"
        if empty := _rows_where(not p.history for p in preferences):
            yield f"without any history: {empty}"
    repeated = len(records) - len({tuple(record.values()) for record in records})
    yield f"repeated rows: {repeated}"
    if preferences is not None:
        yield f"titles ambiguous to parse: {_rows_where(ambiguous_names(p) for p in preferences) or 'none'}"


def describe_lengths(records, tokenizer, frame, cutoff_len):
    """A line about the tokens of prompt and answer, BOS and EOS included; frame: tlrec.prompts.Frame."""
    from tlrec.tokenization import RecordTokenizer

    examples = RecordTokenizer(tokenizer, frame, cutoff_len=10**9).examples(records)
    lengths = np.array([len(row["input_ids"]) for row in examples.rows])
    over = int((lengths > cutoff_len).sum())
    return (
        f"tokens: {_spread(lengths)}, 99th percentile {np.percentile(lengths, 99):.0f}; "
        f"{over} rows ({over / len(records):.1%}) are longer than {cutoff_len}"
    )


@dataclass(frozen=True)
class Overlap:
    """What a later file shares with an earlier one; `users` and `user_rows` rest on inferred users."""

    earlier: str
    later: str
    rows: int  # rows of the later file whose input stands in the earlier one too
    users: int  # users with rows in both
    user_rows: int  # rows of the later file that belong to them


def measure_overlap(files):
    """Users of each file, and what every two files share.

    files: {name: (records, Preferences)} in the order train, valid, test. Users are inferred over all files at once
    (tlrec.windows). Returns ({name: number of users}, [Overlap]).
    """
    from tlrec.windows import infer_users

    preferences = [p for _, file_preferences in files.values() for p in file_preferences]
    labels = np.concatenate([labels_of(records) for records, _ in files.values()])
    ends = np.cumsum([len(records) for records, _ in files.values()])
    users = dict(zip(files, np.split(infer_users(preferences, labels), ends[:-1])))
    inputs = {name: [record["input"] for record in records] for name, (records, _) in files.items()}
    overlaps = []
    for earlier, later in combinations(files, 2):
        rows = sum(map(set(inputs[earlier]).__contains__, inputs[later]))
        shared = users[later][np.isin(users[later], users[earlier])]
        overlaps.append(Overlap(earlier, later, rows, len(np.unique(shared)), len(shared)))
    return {name: len(np.unique(file_users)) for name, file_users in users.items()}, overlaps


def _spread(values):
    return f"{values.min()} to {values.max()} (mean {values.mean():.1f})"


def _rows_where(flags):
    """ "3 (row 5, 8, 13)", at most ten rows named; "" if there are none."""
    rows = [str(number) for number, flag in enumerate(flags, start=1) if flag]
    return f"{len(rows)} (row {', '.join(rows[:10])}{', ...' if len(rows) > 10 else ''})" if rows else ""


def _expand(paths):
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = [file for split in ("train", "valid", "test") if (file := path / f"{split}.json").exists()]
        if not found:
            raise InputError(f"{path}: holds no train.json, valid.json or test.json")
        yield from found


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tlrec.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="record file, or folder with train, valid and test")
    parser.add_argument("--tokenizer", metavar="DIR", help="folder of a base model; adds the lengths in tokens")
    parser.add_argument("--prompt_frame", choices=FRAME_NAMES, default="alpaca", help="(%(default)s)")
    parser.add_argument("--cutoff_len", type=int, default=512, help="count rows longer than this (%(default)s)")
    args = parser.parse_args(argv)

    # 1. Arguments
    paths = list(dict.fromkeys(_expand(args.paths)))
    if args.tokenizer and not any((Path(args.tokenizer) / name).exists() for name in TOKENIZERS):
        raise InputError(f"--tokenizer {args.tokenizer}: no tokenizer there (looked for {', '.join(TOKENIZERS)})")

    # 2. Every file by itself
    files = {str(path): read_checked(path) for path in paths}
    tokenizer = None
    if args.tokenizer:
        from tlrec.modeling import load_tokenizer

        tokenizer = load_tokenizer(args.tokenizer)
    for path, (records, preferences) in files.items():
        print(path)
        for line in describe(records, preferences):
            print(f"  {line}")
        if tokenizer:
            frame = load_frame(args.prompt_frame, tokenizer)
            print(f"  {describe_lengths(records, tokenizer, frame, args.cutoff_len)}")

    # 3. What they share
    root = os.path.commonpath([path.parent for path in paths])
    if labelled := {os.path.relpath(path, root): file for path, file in files.items() if file[1] is not None}:
        print("users, inferred from overlapping windows")
        users, overlaps = measure_overlap(labelled)
        for name, count in users.items():
            print(f"  {name}: {count}")
        for o in overlaps:
            share = o.user_rows / len(labelled[o.later][0])
            print(
                f"  {o.later}: {o.rows} rows are in {o.earlier} too; "
                f"{o.user_rows} rows ({share:.1%}) are of {o.users} users who are in {o.earlier} too"
            )


if __name__ == "__main__":
    with one_line_errors():
        main()
