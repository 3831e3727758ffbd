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
from tlrec.model.checks import TOKENIZERS
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
        yield f"titles ambiguous to parse: {_rows_where(ambiguous_names(p) for p in preferences) or 'none'}"


def describe_lengths(records, tokenizer, frame, cutoff_len):
    """A line about the tokens of prompt and answer, BOS and EOS included; frame: tlrec.model.prompts.Frame."""
    from tlrec.model.tokenization import RecordTokenizer

    examples = RecordTokenizer(tokenizer, frame, cutoff_len=10**9).examples(records)
    lengths = np.array([len(row["input_ids"]) for row in examples.rows])
    over = int((lengths > cutoff_len).sum())
    return (
        f"tokens: {_spread(lengths)}, 99th percentile {np.percentile(lengths, 99):.0f}; "
        f"{over} rows ({over / len(records):.1%}) are longer than {cutoff_len}"
    )


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
