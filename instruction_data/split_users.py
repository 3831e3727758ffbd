"""Cut validation users out of source records, so that a recipe can be chosen without looking at any target domain.

    python instruction_data/split_users.py instruction_data/netflix/train.json --output instruction_data/netflix-by-user
    VALID=source bash shell/zero_shot.sh 0 movie netflix-by-user

Input:  one or more record files; of several, their rows are joined.
Output: in --output, a folder that does not exist yet: `train.json` and `valid.json`, which share no user, and `split.json`
        (what made them). The records hold no user ids, so users are inferred from overlapping windows (tlrec/data/users.py).
"""

import argparse
from pathlib import Path

import numpy as np

from tlrec.data.overlap import measure_overlap
from tlrec.data.preferences import read_checked
from tlrec.data.records import check_two_classes, labels_of, write_records
from tlrec.data.users import infer_users
from tlrec.errors import InputError, one_line_errors
from tlrec.files import sha256, whole_folder, write_json


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("records", nargs="+", type=Path, metavar="FILE", help="preference records")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--valid_rows", type=int, default=1000, metavar="N", help="at most so many rows (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which users are drawn (%(default)s)")
    return parser.parse_args(argv)


def draw_users(users, rows, seed):
    """Whether each row belongs to a drawn user, (n,) bool: users come in a seeded order, and those that would bring more
    than `rows` rows in all are passed over. users: (n,) user numbers from 0."""
    sizes = np.bincount(users)
    drawn, total = np.zeros(len(sizes), dtype=bool), 0
    for user in np.random.default_rng(seed).permutation(len(sizes)):
        if total + sizes[user] <= rows:
            drawn[user] = True
            total += sizes[user]
    return drawn[users]


def main(argv=None):
    # 1. Check the arguments and read the records
    args = parse_arguments(argv)
    if args.output.exists():
        raise InputError(f"--output {args.output}: exists, and nothing is overwritten; give another folder")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: give 0 or more")
    records, preferences, source = [], [], {}
    for path in dict.fromkeys(args.records):
        rows, parsed = read_checked(path)
        if parsed is None:
            raise InputError(f"{path}: holds instruction records; users are known from preference records only")
        records += rows
        preferences += parsed
        source[str(path)] = {"rows": len(rows), "sha256": sha256(path)}
    if not 1 <= args.valid_rows < len(records):
        raise InputError(f"--valid_rows {args.valid_rows}: give 1 to {len(records) - 1}; there are {len(records)} rows")

    # 2. Users, and a draw of them
    users = infer_users(preferences, labels_of(records))
    chosen = draw_users(users, args.valid_rows, args.seed)
    places = {"train": np.flatnonzero(~chosen), "valid": np.flatnonzero(chosen)}
    splits = {}
    for name, rows in places.items():
        if not len(rows):
            raise InputError(f"{len(np.unique(users))} users in {len(records)} rows: {name} would be empty")
        splits[name] = [records[row] for row in rows], [preferences[row] for row in rows]
    check_two_classes(splits["valid"][0], "the rows drawn for validation")

    # 3. Look once more, at the two files alone: do they share a user, or a row?
    counted, (overlap,) = measure_overlap(splits)
    if overlap.users:
        raise InputError(f"{overlap.users} users would be in both files; this is a mistake of TLRec, please report it")

    # 4. Files, all of them or none
    facts = {
        name: {"rows": len(rows), "users": counted[name], "liked": round(float(labels_of(rows).mean()), 4)}
        for name, (rows, _) in splits.items()
    }
    with whole_folder(args.output) as folder:
        for name, (rows, _) in splits.items():
            write_records(folder / f"{name}.json", rows)
            facts[name]["sha256"] = sha256(folder / f"{name}.json")
        made = {"script": "split_users.py", "valid_rows": args.valid_rows, "seed": args.seed, "records": source}
        write_json(folder / "split.json", made | facts | {"rows of valid that train repeats": overlap.rows})
    for name in splits:
        print(
            f"{name:5} {facts[name]['rows']:6} records, {facts[name]['liked']:5.1%} Yes, {facts[name]['users']} users"
        )
    print(f"written to {args.output}; no user is in both, {overlap.rows} rows are")


if __name__ == "__main__":
    with one_line_errors():
        main()
