"""A smaller test set with all the users of a large one: of each user, equally spaced rows.

    python rec_data/draw_rows.py rec_data/movie-by-users/test.json --rows 2000 --output rec_data/movie-2000/test.json

Input:  preference records. Output: about --rows of them in a new file, in the order of the input. Every user keeps the same
share of rows, at least one, from a seeded place on. Rows must not be further apart than a history is long: then they overlap,
and the users can still be inferred (tlrec/data/users.py); intervals over users need them.

Spaced rows, because in a short run of rows that follow one another a like counts twice, as an answer and in the histories of
the next rows. Within 22 such rows of likes that depend on nothing, the share of likes in the history has an AUC of 0.40.
"""

import argparse
from pathlib import Path

import numpy as np

from tlrec.data.preferences import read_checked
from tlrec.data.records import check_two_classes, labels_of, write_records
from tlrec.data.users import infer_users
from tlrec.errors import InputError, one_line_errors


def draw_rows(users, rows, seed):
    """Places of about `rows` rows, (m,) in order: of each user the same share, equally spaced, from a random place on.

    users: (n,) user numbers.
    """
    random = np.random.default_rng(seed)
    step = len(users) / rows
    chosen = []
    for user in np.unique(users):
        own = np.flatnonzero(users == user)
        places = (random.random() + np.arange(len(own))) * step
        places = places[places < len(own)].astype(int)
        chosen.append(own[places if len(places) else random.integers(len(own), size=1)])
    return np.sort(np.concatenate(chosen))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("records", type=Path, metavar="FILE", help="preference records")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a new file")
    parser.add_argument("--rows", type=int, required=True, metavar="N", help="how many, about")
    parser.add_argument("--seed", type=int, default=0, help="of the place of each user's first row (%(default)s)")
    args = parser.parse_args(argv)
    if args.output.exists():
        raise InputError(f"--output {args.output}: exists, and nothing is overwritten; give another name")
    records, preferences = read_checked(args.records)
    if preferences is None:
        raise InputError(f"{args.records}: holds instruction records; users are known from preference records only")
    if not 1 <= args.rows <= len(records) or args.seed < 0:
        raise InputError(
            f"--rows {args.rows} --seed {args.seed}: give 1 to {len(records)} rows, and a seed of 0 or more"
        )
    users = infer_users(preferences, labels_of(records))
    places = draw_rows(users, args.rows, args.seed)
    drawn = [records[place] for place in places]
    check_two_classes(drawn, "the drawn rows")
    found = infer_users([preferences[place] for place in places], labels_of(drawn)).max() + 1
    if found != users.max() + 1:
        raise InputError(
            f"--rows {args.rows}: the {users.max() + 1} users look like {found}, because the rows are too far apart to "
            "overlap; give more rows"
        )
    write_records(args.output, drawn)
    print(
        f"{args.output}: {len(drawn)} of {len(records)} rows, {labels_of(drawn).mean():.1%} Yes, of {found} users, all that "
        f"{args.records} has"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
