"""Check record files: are they valid, what do they hold, and do train, valid and test share rows or users?

    python -m tlrec.check rec_data/movie
    python -m tlrec.check rec_data/movie/train.json cot_data/stage123.json --tokenizer base_model/llama-7b

Input: record files, or folders with train.json, valid.json and test.json. Output: a few lines for each file and each
pair of files; exit status 2 and one line that names file and row if a file is not valid.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import ambiguous_names, read_checked
from tlrec.data.published import published_name
from tlrec.data.records import labels_of
from tlrec.errors import InputError, one_line_errors
from tlrec.model.folders import TOKENIZERS
from tlrec.model.prompts import FRAME_NAMES, load_frame


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
        twice = (len(set(p.history)) < len(p.history) or p.target in p.history for p in preferences)
        yield f"items repeated in a prompt: {_rows_where(twice) or 'none'}"
        yield f"titles ambiguous to parse: {_rows_where(ambiguous_names(p) for p in preferences) or 'none'}"


def describe_lengths(records, preferences, tokenizer, frame, cutoff_len):
    """A line about the tokens of prompt and answer, BOS and EOS included, and about the titles that do not fit; frame:
    tlrec.model.prompts.Frame."""
    from tlrec.model.tokenization import RecordTokenizer

    whole = RecordTokenizer(tokenizer, frame, cutoff_len=10**9).examples(records)
    lengths = np.array([len(row["input_ids"]) for row in whole.rows])
    long = np.flatnonzero(lengths > cutoff_len)
    said = (
        f"tokens: {_spread(lengths)}, 99th percentile {np.percentile(lengths, 99):.0f}; "
        f"{len(long)} rows ({len(long) / len(records):.1%}) are longer than {cutoff_len}"
    )
    if preferences is None or not len(long):
        return said
    cut, titles = 0, sum(len(preference.history) for preference in preferences)
    kept = RecordTokenizer(tokenizer, frame, cutoff_len).prompts([records[place] for place in long]).input_ids
    for place, ids in zip(long, kept, strict=True):
        before, after = (tokenizer.decode(row) for row in (whole.rows[place]["input_ids"], ids))
        items = map(str, preferences[place].history)
        cut += sum(before.count(item) > after.count(item) for item in items)
    return f"{said}, and lose {cut} of all {titles} titles in histories"


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


def short_names(paths):
    """The paths without the folders that all of them are in."""
    shared = len(os.path.commonprefix([path.parent.parts for path in paths]))
    return [str(path.relative_to(Path(*path.parts[:shared]))) if shared else str(path) for path in paths]


def describe_overlap(files):
    """Lines about the users of each file, and the rows and users that any two share. files: {name: (records,
    Preferences)}."""
    yield "users, inferred from overlapping windows"
    users, overlaps = measure_overlap(files)
    yield from (f"  {name}: {count}" for name, count in users.items())
    for o in overlaps:
        share = o.user_rows / len(files[o.later][0])
        yield (
            f"  {o.later}: {o.rows} rows are in {o.earlier} too; "
            f"{o.user_rows} rows ({share:.1%}) are of {o.users} users who are in {o.earlier} too"
        )


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
    paths = list(_expand(args.paths))
    if args.tokenizer and not any((Path(args.tokenizer) / name).exists() for name in TOKENIZERS):
        raise InputError(f"--tokenizer {args.tokenizer}: no tokenizer there (looked for {', '.join(TOKENIZERS)})")

    # 2. Every file by itself
    files, same = {}, {}
    for path in paths:
        file = read_checked(path)
        status = os.stat(path)
        first = same.setdefault((status.st_dev, status.st_ino), path)
        if first is path:
            files[path] = file
        else:
            print(f"{path}\n  is the same file as {first} and counts once")
    tokenizer = None
    if args.tokenizer:
        from tlrec.model.base_models import load_tokenizer

        tokenizer = load_tokenizer(args.tokenizer)
    for path, (records, preferences) in files.items():
        print(path)
        if name := published_name(path):
            print(f"  {name}, as published")
        for line in describe(records, preferences):
            print(f"  {line}")
        if tokenizer:
            frame = load_frame(args.prompt_frame, tokenizer)
            print(f"  {describe_lengths(records, preferences, tokenizer, frame, args.cutoff_len)}")

    # 3. What they share
    named = dict(zip(short_names(list(files)), files.values(), strict=True))
    if labelled := {name: file for name, file in named.items() if file[1] is not None}:
        print(*describe_overlap(labelled), sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main()
