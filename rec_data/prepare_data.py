"""Make target data from raw ratings: preference records for tuning and testing, and the same rows as ids.

    python rec_data/prepare_data.py --domain movie --raw ~/ml-100k
    python rec_data/prepare_data.py --domain book --download
    python rec_data/prepare_data.py --domain custom --ratings games.csv --items titles.csv --output rec_data/game

Input: MovieLens-100K (`u.data`, `u.item`), Book-Crossing (`BX-Book-Ratings.csv`, `BX-Books.csv`), or two tables of your
own (user, item, rating, timestamp; item, title, and optionally creator and kind), CSV or Parquet.
Output: `train`, `valid` and `test`, each as `.json` (records) and `.csv` (ids, ratings, times), `item_mapping.csv`, and
`prepared.json` (settings, digests of the raw files, what was left out). README.md in this folder describes them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tlrec.data.download import Archive, fetch
from tlrec.data.preparation import (
    choose_settings,
    last_windows,
    parse_ratio,
    refuse_to_overwrite,
    shuffled_histories,
    split_examples,
    write_data_set,
)
from tlrec.errors import InputError, one_line_errors

# 1. The definitions of the published data; each of them is a flag
WINDOWS = {"history": 10, "last": 10_000, "split": "order", "split_seed": 0, "ratio": [8, 1, 1]}
PUBLISHED = {
    "movie": {"liked_above": 3, **WINDOWS},
    "book": {
        "implicit": "drop",
        "liked_above": 5,
        "min_ratings": 4,
        "history": 10,
        "shuffle_seed": 42,
        "target_quotes": "double",
        "split": "user",
        "split_seed": 0,
        "ratio": [8, 1, 1],
    },
    "custom": {"kind": "item", "liked_above": 3, **WINDOWS},
}
ARCHIVES = {
    "movie": Archive(
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        digest="md5:0e33842e24a9c977be4e0107933c0723",  # from ml-100k.zip.md5, at the same address
        members=("u.data", "u.item"),
    ),
    "book": Archive(
        url="http://www2.informatik.uni-freiburg.de/~cziegler/BX/BX-CSV-Dump.zip",
        digest="md5:37d647ee9e18ba134ea6d78ee4fe5292",
        members=("BX-Book-Ratings.csv", "BX-Books.csv"),
    ),
}


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--domain", required=True, choices=PUBLISHED)
    parser.add_argument("--raw", type=Path, metavar="DIR", help="movie, book: folder of the raw files")
    parser.add_argument("--download", action="store_true", help="movie, book: fetch the raw files instead")
    parser.add_argument("--ratings", type=Path, metavar="FILE", help="custom: user, item, rating, timestamp")
    parser.add_argument("--items", type=Path, metavar="FILE", help="custom: item, title; optional: creator, kind")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the domain's name, in this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in --output")

    group = parser.add_argument_group("definitions (published ones in brackets)")
    group.add_argument("--liked_above", type=float, metavar="R", help="a higher rating is a like (movie 3, book 5)")
    group.add_argument("--history", type=int, metavar="N", help="items in a history; for book, at most (10)")
    group.add_argument("--last", type=int, metavar="N", help="windows to keep, from the end; -1: all (10000; not book)")
    group.add_argument("--split", choices=("order", "time", "user"), help="how the rows are split (order; book user)")
    group.add_argument("--split_seed", type=int, metavar="S", help="shuffles the users of --split user (0)")
    group.add_argument("--ratio", type=parse_ratio, metavar="A:B:C", help="train, valid, test (8:1:1)")
    group.add_argument("--implicit", choices=("keep", "drop"), help="book: ratings of 0 (drop)")
    group.add_argument("--min_ratings", type=int, metavar="N", help="book: users with fewer are left out (4)")
    group.add_argument("--shuffle_seed", type=int, metavar="S", help="book: shuffles the ratings of a user (42)")
    group.add_argument("--target_quotes", choices=("double", "single"), help="book: quotes of the target (double)")
    group.add_argument("--kind", metavar="NOUN", help="custom: word for all items, without a kind column (item)")

    group = parser.add_argument_group("download")
    group.add_argument("--cache", type=Path, metavar="DIR", default="~/.cache/tlrec", help="(%(default)s)")
    group.add_argument("--url", help="another address of the archive")
    group.add_argument("--digest", metavar="NAME:HEX", help="digest of another archive: sha256:... or md5:...")
    return parser.parse_args(argv)


def main(argv=None):
    # 2. Check all arguments before anything is read
    args = parse_arguments(argv)
    settings = choose_settings(args.domain, PUBLISHED, vars(args))
    output = args.output or Path(__file__).parent / args.domain
    if args.domain == "custom":
        if not (args.ratings and args.items) or args.raw or args.download:
            raise InputError("--domain custom takes --ratings FILE and --items FILE, and neither --raw nor --download")
    elif bool(args.raw) == args.download or args.ratings or args.items:
        raise InputError(f"--domain {args.domain} takes either --raw DIR or --download, and no --ratings or --items")
    if (args.url or args.digest) and not args.download:
        raise InputError("--url and --digest need --download")
    refuse_to_overwrite(output, args.overwrite)

    # 3. Raw ratings
    if args.download:
        archive = ARCHIVES[args.domain]
        archive = replace(archive, url=args.url or archive.url, digest=args.digest or archive.digest)
        args.raw = fetch(archive, args.cache)
    if args.domain == "movie":
        from raw_movielens import read_movielens

        source = read_movielens(args.raw)
    elif args.domain == "book":
        from raw_book_crossing import read_book_crossing

        source = read_book_crossing(args.raw, settings["implicit"])
    else:
        from tlrec.data.own_ratings import read_own_ratings

        source = read_own_ratings(args.ratings, args.items, settings["kind"])
    print(*source.summary(), sep="\n")

    # 4. Records: what a user rated before, and the item that follows
    if args.domain == "book":
        examples = shuffled_histories(
            source.ratings, settings["history"], settings["min_ratings"], settings["shuffle_seed"]
        )
    else:
        examples = last_windows(source.ratings, settings["history"], settings["last"])

    # 5. Train, valid and test
    splits = split_examples(examples, settings["split"], settings["ratio"], settings["split_seed"])

    # 6. Files
    summary = write_data_set(output, splits, source, settings, settings.get("target_quotes") == "double")
    print(*summary, f"written to {output}", sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main()
