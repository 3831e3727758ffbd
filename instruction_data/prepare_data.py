"""Make source data from raw ratings: preference records for learning the task, and the same rows as ids.

    python instruction_data/prepare_data.py --domain netflix --raw ~/netflix-prize
    python instruction_data/prepare_data.py --domain amazon-book --raw ~/amazon-books
    python instruction_data/prepare_data.py --domain custom --ratings games.csv --items titles.csv

Input: Netflix Prize (`combined_data_1.txt`, `movie_titles.csv`), Amazon Books Reviews (`Books_rating.csv`,
`books_data.csv`), or two tables of your own (user, item, rating, timestamp; item, title, and optionally creator and
kind), CSV or Parquet.
Output: `train`, `valid` and `test`, each as `.json` (records) and `.csv` (ids, ratings, times), `item_mapping.csv`, and
`prepared.json` (settings, digests of the raw files, what was left out). README.md in this folder describes them.
"""

import argparse
from pathlib import Path

from tlrec.data.preparation import (
    choose_settings,
    last_windows,
    parse_ratio,
    refuse_to_overwrite,
    split_examples,
    write_data_set,
)
from tlrec.errors import InputError, one_line_errors

# 1. The definitions of the published data; each of them is a flag
WINDOWS = {"history": 10, "last": 10_000, "split": "order", "split_seed": 0, "ratio": [8, 1, 1]}
PUBLISHED = {
    "netflix": {"title_commas": "drop", "liked_above": 3, **WINDOWS},
    "amazon-book": {"liked_above": 4, **WINDOWS},
    "custom": {"kind": "item", "liked_above": 3, **WINDOWS},
}
KAGGLE = "https://www.kaggle.com/datasets/"
BY_HAND = {
    "netflix": f"{KAGGLE}netflix-inc/netflix-prize-data (combined_data_1.txt, movie_titles.csv)",
    "amazon-book": f"{KAGGLE}mohamedbakhet/amazon-books-reviews (Books_rating.csv, books_data.csv)",
}


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--domain", required=True, choices=PUBLISHED)
    parser.add_argument("--raw", type=Path, metavar="DIR", help="netflix, amazon-book: folder of the raw files")
    parser.add_argument("--download", action="store_true", help="show what to download by hand; both need an account")
    parser.add_argument("--ratings", type=Path, metavar="FILE", help="custom: user, item, rating, timestamp")
    parser.add_argument("--items", type=Path, metavar="FILE", help="custom: item, title; optional: creator, kind")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the domain's name, in this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in --output")

    group = parser.add_argument_group("definitions (published ones in brackets)")
    group.add_argument("--liked_above", type=float, metavar="R", help="a higher rating is a like (3, amazon-book 4)")
    group.add_argument("--history", type=int, metavar="N", help="items in a history (10)")
    group.add_argument("--last", type=int, metavar="N", help="windows to keep, from the end; -1: all (10000)")
    group.add_argument("--split", choices=("order", "time", "user"), help="how the rows are split (order)")
    group.add_argument("--split_seed", type=int, metavar="S", help="shuffles the users of --split user (0)")
    group.add_argument("--ratio", type=parse_ratio, metavar="A:B:C", help="train, valid, test (8:1:1)")
    group.add_argument("--title_commas", choices=("keep", "drop"), help="netflix: commas inside titles (drop)")
    group.add_argument("--kind", metavar="NOUN", help="custom: word for all items, without a kind column (item)")
    return parser.parse_args(argv)


def main(argv=None):
    # 2. Check all arguments before anything is read
    args = parse_arguments(argv)
    settings = choose_settings(args.domain, PUBLISHED, vars(args))
    output = args.output or Path(__file__).parent / args.domain
    if args.domain == "custom":
        if not (args.ratings and args.items) or args.raw or args.download:
            raise InputError("--domain custom takes --ratings FILE and --items FILE, and neither --raw nor --download")
    elif args.download:
        raise InputError(f"an account is needed: get {BY_HAND[args.domain]} and give their folder as --raw")
    elif not args.raw or args.ratings or args.items:
        raise InputError(f"--domain {args.domain} takes --raw DIR, and no --ratings or --items")
    refuse_to_overwrite(output, args.overwrite)

    # 3. Raw ratings
    if args.domain == "netflix":
        from raw_netflix import read_netflix

        source = read_netflix(args.raw, settings["title_commas"])
    elif args.domain == "amazon-book":
        from raw_amazon_books import read_amazon_books

        source = read_amazon_books(args.raw)
    else:
        from tlrec.data.own_ratings import read_own_ratings

        source = read_own_ratings(args.ratings, args.items, settings["kind"])
    print(*source.summary(), sep="\n")

    # 4. Records: what a user rated before, and the item that follows
    examples = last_windows(source.ratings, settings["history"], settings["last"])

    # 5. Train, valid and test
    splits = split_examples(examples, settings["split"], settings["ratio"], settings["split_seed"])

    # 6. Files
    summary = write_data_set(output, splits, source, settings)
    print(*summary, f"written to {output}", sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main()
