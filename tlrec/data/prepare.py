"""The command line of `rec_data/prepare_data.py` and `instruction_data/prepare_data.py`; what it starts is in preparation.py.

The definitions of the published data stand in DOMAINS; each of them is a flag.
"""

import argparse
import math
import re
import zipfile
from pathlib import Path

from tlrec.data.sources import NAMES
from tlrec.errors import InputError, first_line

WINDOWS = {"history": 10, "last": 10_000, "split": "order", "split_seed": 0, "ratio": [8, 1, 1]}
PUBLISHED = {"repeated": "last", "same_title": "published", "negatives": None}
OWN = {"kind": None, "liked_above": None, **WINDOWS, "repeated": "last", "same_title": "one", "negatives": None}
DOMAINS = {
    "movie": {"format": "movielens", "kind": "movie", "liked_above": 3, **WINDOWS, **PUBLISHED},
    "book": {
        "format": "book-crossing",
        "kind": "book",
        "implicit": "drop",
        "liked_above": 5,
        "min_ratings": 4,
        "history": 10,
        "shuffle_seed": 42,
        "target_quotes": "double",
        "split": "user",
        "split_seed": 0,
        "ratio": [8, 1, 1],
        **PUBLISHED,
    },
    "netflix": {"format": "netflix", "kind": "movie", "title_commas": "drop", "liked_above": 3, **WINDOWS, **PUBLISHED},
    "amazon-book": {"format": "amazon-books", "kind": "book", "liked_above": 4, **WINDOWS, **PUBLISHED},
    "custom": {"format": "table", "columns": None, **OWN},
    "own": {"format": "auto", "columns": None, "implicit": "drop", "title_commas": "keep", **OWN},  # without --domain
}
KAGGLE = "an account is needed: get https://www.kaggle.com/datasets/"
BY_HAND = {
    "netflix": f"{KAGGLE}netflix-inc/netflix-prize-data (combined_data_1.txt, movie_titles.csv)",
    "amazon-book": f"{KAGGLE}mohamedbakhet/amazon-books-reviews (Books_rating.csv, books_data.csv)",
}


# {domain: (address of a zip file, its digest, name of the ratings in it)}
ARCHIVES = {
    "movie": (
        "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        "md5:0e33842e24a9c977be4e0107933c0723",  # from ml-100k.zip.md5, at the same address
        "u.data",
    ),
    "book": (
        "http://www2.informatik.uni-freiburg.de/~cziegler/BX/BX-CSV-Dump.zip",
        "md5:37d647ee9e18ba134ea6d78ee4fe5292",
        "BX-Book-Ratings.csv",
    ),
}


def parse_ratio(text):
    """ "8:1:1" as three positive ints. Raises ValueError, so it serves as an argparse type."""
    parts = [int(part) for part in text.split(":")]
    if len(parts) != 3 or min(parts) < 1:
        raise ValueError
    return parts


def parse_column(text):
    """ "user=reviewer" as a pair. Raises ValueError, so it serves as an argparse type."""
    name, sign, column = text.partition("=")
    if not sign or name not in ("user", "item", "rating", "timestamp", "time", "title", "creator", "kind", "year"):
        raise ValueError
    return "timestamp" if name == "time" else name, column


def parse_arguments(description, argv):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    domains = [domain for domain in DOMAINS if domain != "own"]
    parser.add_argument("--domain", choices=domains, help="a published data set, with its definitions")
    parser.add_argument("--raw", "--ratings", type=Path, metavar="PATH", help="folder of the raw files, or the ratings")
    parser.add_argument("--items", type=Path, metavar="FILE", help="titles, if they do not lie beside the ratings")
    parser.add_argument(
        "--format", choices=("auto", *NAMES), help="form of the raw files (auto: by names and first lines)"
    )
    parser.add_argument("--columns", nargs="+", type=parse_column, metavar="NAME=COLUMN", help="of a table of your own")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the domain's name, in this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run in --output")

    group = parser.add_argument_group("definitions (those of the published data in brackets)")
    add = group.add_argument
    add(
        "--liked_above", type=float, metavar="R", help="a higher rating is a like (by the scale; book 5, amazon-book 4)"
    )
    add("--history", type=int, metavar="N", help="items in a history; for book, at most (10)")
    add("--last", type=int, metavar="N", help="windows to keep, from the end; -1: all (10000; not book)")
    add("--split", choices=("order", "time", "user"), help="how the rows are split (order; book user)")
    add("--split_seed", type=int, metavar="S", help="shuffles the users of --split user (0)")
    add("--ratio", type=parse_ratio, metavar="A:B:C", help="train, valid, test (8:1:1)")
    add("--implicit", choices=("keep", "drop"), help="Book-Crossing: ratings of 0 (drop)")
    add("--min_ratings", type=int, metavar="N", help="book: users with fewer are left out (4)")
    add("--shuffle_seed", type=int, metavar="S", help="book: shuffles the ratings of a user (42)")
    add("--target_quotes", choices=("double", "single"), help="book: quotes of the target (double)")
    add("--title_commas", choices=("keep", "drop"), help="Netflix: commas inside titles (keep; netflix drop)")
    add("--kind", metavar="NOUN", help="word for an item, such as game")

    add = parser.add_argument_group("what to do where ratings are not as they should be").add_argument
    add("--repeated", choices=("last", "first", "mean", "error"), help="a user's ratings of one item (last)")
    add("--same_title", choices=("one", "keep", "published"), help="ids with one title: one item, or told apart (one)")
    add("--negatives", choices=("sampled",), help="clicks without ratings: draw dislikes of similar popularity")

    group = parser.add_argument_group("download (movie, book)")
    group.add_argument("--download", action="store_true", help="fetch the raw files")
    group.add_argument("--cache", type=Path, metavar="DIR", default="~/.cache/tlrec", help="(%(default)s)")
    group.add_argument("--url", help="another address of the archive")
    group.add_argument("--digest", metavar="NAME:HEX", help="digest of another archive: sha256:... or md5:...")
    return parser.parse_args(argv)


def choose_settings(domain, flags):
    """The settings of a domain, replaced by the flags that were given. flags: {name: value, or None where not given}, others
    too. Raises InputError for a setting that the domain does not have and for values out of range."""
    settings = dict(DOMAINS[domain])
    known = dict.fromkeys(name for known in DOMAINS.values() for name in known)
    for name in [name for name in known if flags[name] is not None]:
        if name not in settings:
            knowing = " and ".join(other for other, known in DOMAINS.items() if name in known and other != "own")
            raise InputError(f"--{name} belongs to --domain {knowing}; {domain} has no such setting")
        settings[name] = flags[name]
    if settings.get("columns"):
        if settings["format"] not in ("auto", "table"):
            raise InputError(f"--columns is for a table of your own, not for --format {settings['format']}")
        settings["format"] = "table"
    if settings["format"] != DOMAINS[domain]["format"] and domain not in ("own", "custom"):
        raise InputError(
            f"--format {settings['format']}: --domain {domain} is {DOMAINS[domain]['format']}; leave one out"
        )
    if settings["liked_above"] is not None and not math.isfinite(settings["liked_above"]):
        raise InputError(f"--liked_above {settings['liked_above']}: give a number")
    if settings["history"] < 1:
        raise InputError(f"--history {settings['history']}: a history holds at least one item")
    if settings.get("last", 1) < 1 and settings["last"] != -1:
        raise InputError(f"--last {settings['last']}: give the number of windows to keep, or -1 for all")
    if settings.get("min_ratings", 2) < 2:
        raise InputError(f"--min_ratings {settings['min_ratings']}: a history and a target take at least 2")
    if not re.fullmatch(r"\w+", settings["kind"] or "item"):
        raise InputError(f"--kind {settings['kind']}: give one word, such as game")
    if domain == "amazon-book" and settings["split"] == "order":
        settings["times"] = "text"  # so the published rows are in order; all else sorts as numbers
    return settings


def download(domain, cache, url, digest):
    """The folder with the raw files of a domain, fetched once, checked and unpacked. Raises InputError."""
    import pooch
    import requests

    its_url, its_digest, ratings = ARCHIVES[domain]
    url, digest = url or its_url, digest or its_digest
    pooch.get_logger().setLevel("WARNING")
    if digest.partition(":")[0] not in ("md5", "sha256"):
        raise InputError(f"--digest {digest}: write it as sha256:HEX or md5:HEX")
    try:
        cache = Path(cache).expanduser()
        files = pooch.retrieve(
            url, digest, fname=url.rpartition("/")[2], path=cache, processor=pooch.Unzip(), progressbar=True
        )
    except requests.exceptions.HTTPError as error:
        raise InputError(f"{url}: {error}; give another address as --url, or get it by hand for --raw") from None
    except zipfile.BadZipFile:
        raise InputError(f"{url}: not a zip archive; give another address as --url") from None
    except (ValueError, OSError) as error:  # another digest; all errors of requests are OSErrors
        raise InputError(f"{url}: {first_line(error)}; try again, or give --url or --digest") from None
    for path in map(Path, files):
        if path.name == ratings:
            return path.parent
    raise InputError(f"{url}: {ratings} is not in it")


def main(folder, description, argv=None):
    """Run the command line of a script that lies in `folder`, the default place of the output."""
    # 1. Check all arguments before anything is read
    args = parse_arguments(description, argv)
    domain = args.domain or "own"
    settings = choose_settings(domain, vars(args))
    if args.download and domain in BY_HAND:
        raise InputError(f"{BY_HAND[domain]} and give their folder as --raw")
    if args.download and (domain not in ARCHIVES or args.raw):
        raise InputError("--download is for --domain movie or book, and takes no --raw")
    if not args.raw and not args.download:
        raise InputError(
            "give the raw ratings: --raw PATH, a folder or a file" + (", or --download" * (domain in ARCHIVES))
        )
    if (args.url or args.digest) and not args.download:
        raise InputError("--url and --digest need --download")
    if not args.output and not args.domain:
        raise InputError("--output DIR is missing: a folder for the data set")
    output = args.output or folder / args.domain
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: a file is in the way; give another --output")
    if output.is_dir() and not args.overwrite and (held := sorted(path.name for path in output.iterdir())):
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise InputError(f"{output}: already holds {shown}; give another --output, or --overwrite")

    # 2. Make the data set
    from tlrec.data.preparation import prepare  # imports pandas; not at the top, so that --help is quick

    raw = download(domain, args.cache, args.url, args.digest) if args.download else args.raw
    for line in prepare(raw, args.items, settings, output, checked=domain in ("own", "custom")):
        print(line)
