"""From ratings to the files of a data set: windows, splits, records, and the same rows as ids.

    Source ──► examples ──► splits ──► train.json  valid.json  test.json    records
     (ratings, items)                  train.csv   valid.csv   test.csv     the same rows in the same order, as ids
                                       item_mapping.csv                     every item of the source
                                       prepared.json                        settings, raw files, what was left out

The scripts `prepare_data.py` in `rec_data/` and `instruction_data/` say which definitions make which data set.
"""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from tlrec.data.preferences import Item, Preference, build_record, parse_input
from tlrec.data.records import write_records
from tlrec.errors import InputError
from tlrec.files import sha256, write_json

SPLITS = ("train", "valid", "test")
FILES = (*(f"{split}.{form}" for split in SPLITS for form in ("json", "csv")), "item_mapping.csv", "prepared.json")
RAREST = 0.01  # share of the rarer label in a split, at least


@dataclass(frozen=True)
class Example:
    """One record as ids: `history` and `history_ratings` in the order of the record."""

    user: object
    history: tuple
    history_ratings: tuple
    item: object
    rating: float
    timestamp: object  # of the target, as written; None without times
    order: object  # the same, so that it sorts


def refuse_to_overwrite(output, overwrite):
    """Raise InputError if `output` holds anything and `overwrite` is not set, or if it cannot be a folder."""
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: a file is in the way; give another --output")
    if output.is_dir() and not overwrite and (held := sorted(path.name for path in output.iterdir())):
        shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
        raise InputError(f"{output}: already holds {shown}; give another --output, or --overwrite")


def last_windows(ratings, history, last):
    """The last `last` sliding windows (-1: all): `history` ratings of a user in a row predict the next one.

    ratings: as in tlrec.data.policies.Source. Users come in order of first appearance, each user's ratings in time order;
    ratings of the same time keep the order of the file. Only the users that the kept windows belong to are sorted at all.
    Returns the examples in order. Raises InputError if there is none.
    """
    codes, _ = ratings["user"].factorize()
    windows = np.maximum(np.bincount(codes) - history, 0)  # of each user
    if not windows.any():
        raise InputError(f"no user has more than {history} ratings, so there is no window; give a smaller --history")
    needed = 0
    if last != -1:
        from_here_on = np.cumsum(windows[::-1])[::-1]
        needed = max(0, int(np.sum(from_here_on >= last)) - 1)  # the first user whose windows are needed
    kept = (codes >= needed) & (windows[codes] > 0)
    ratings = ratings[kept].assign(code=codes[kept])
    ratings = ratings.sort_values("order", kind="stable").sort_values("code", kind="stable")

    columns = [ratings[name].tolist() for name in ("code", "user", "item", "rating", "timestamp", "order")]
    code, user, item, rating, timestamp, order = columns
    examples = []
    for k in range(history, len(code)):
        if code[k - history] == code[k]:
            before = tuple(item[k - history : k]), tuple(rating[k - history : k])
            examples.append(Example(user[k], *before, item[k], rating[k], timestamp[k], order[k]))
    return examples if last == -1 else examples[-last:]


def shuffled_histories(ratings, history, min_ratings, seed):
    """One example per user, without time: of the shuffled ratings the first (`history` at most) predict the last.

    Users come in order of first appearance; those with fewer than `min_ratings` ratings are left out. Every user's
    ratings are shuffled by Python's generator, seeded anew with `seed`, as in the published code.
    Returns the examples. Raises InputError if there is none.
    """
    by_user = {}
    for user, item, rating in zip(ratings["user"].tolist(), ratings["item"].tolist(), ratings["rating"].tolist()):
        by_user.setdefault(user, []).append((item, rating))
    examples = []
    for user, rated in by_user.items():
        if len(rated) < min_ratings:
            continue
        random.Random(seed).shuffle(rated)
        *before, (item, rating) = rated
        before = before[:history]
        examples.append(
            Example(user, tuple(i for i, _ in before), tuple(r for _, r in before), item, rating, None, None)
        )
    if not examples:
        raise InputError(
            f"no user has {min_ratings} ratings or more, so there is no record; give a smaller --min_ratings"
        )
    return examples


def split_examples(examples, how, ratio, seed):
    """Cut examples into {"train": [...], "valid": [...], "test": [...]} in the proportions `ratio`.

    how: "order" cuts them as they come (the published way; a user's windows may fall on both sides of a cut);
    "time" sorts them by the time of the target first, so that no target is tested that is older than one in training;
    "user" shuffles users with `seed` and keeps all examples of a user in one split.
    Raises InputError if a split would be empty, or for "time" without times.
    """
    if how == "time":
        if examples[0].timestamp is None:
            raise InputError("--split time: these ratings have no times; use --split user or order")
        examples = sorted(examples, key=lambda example: example.order)
    cuts = [len(examples) * sum(ratio[:part]) // sum(ratio) for part in (1, 2, 3)]
    if how == "user":
        by_user = {}
        for example in examples:
            by_user.setdefault(example.user, []).append(example)
        users = list(by_user)
        random.Random(seed).shuffle(users)
        examples = [example for user in users for example in by_user[user]]
        ends = np.cumsum([len(by_user[user]) for user in users])
        cuts = [int(max(ends[ends <= cut], default=0)) for cut in cuts]  # down to the end of a user
    splits = {name: examples[begin:end] for name, begin, end in zip(SPLITS, [0, *cuts], cuts)}
    for name, part in splits.items():
        if not part:
            raise InputError(
                f"{len(examples)} records of {len({e.user for e in examples})} users are too few for a split "
                f"{':'.join(map(str, ratio))} by {how}: {name} would be empty"
            )
    return splits


def without_known_targets(examples, items):
    """The examples whose history does not hold the target's title and creator already. items: as in Source."""
    names = dict(zip(items.index.tolist(), zip(items["title"].tolist(), items["creator"].tolist())))
    return [e for e in examples if names[e.item] not in {names[item] for item in e.history}]


def share_liked(examples, threshold):
    """The share of examples whose rating is above the threshold."""
    return sum(example.rating > threshold for example in examples) / len(examples)


def check_labels(splits, threshold):
    """Raise InputError if nearly all rows of a split have one label."""
    for name, examples in splits.items():
        share = share_liked(examples, threshold)
        if min(share, 1 - share) < RAREST:
            raise InputError(
                f"{name}: {share:.1%} of {len(examples)} rows are Yes, with a like above {threshold:g}; give a --liked_above "
                "that divides the ratings, or more rows"
            )


def build_records(examples, items, liked_above, quoted_target=False):
    """Preference records of examples, and how many of them do not parse back to the same titles.

    An item is liked if its rating is above `liked_above`. items: as in Source.
    """
    known = dict(zip(items.index.tolist(), map(Item, items["title"].tolist(), items["creator"].tolist())))
    kinds = dict(zip(items.index.tolist(), items["kind"].tolist()))
    records, ambiguous = [], 0
    for example in examples:
        rated = list(zip(example.history, example.history_ratings))
        preference = Preference(
            likes=tuple(known[item] for item, rating in rated if rating > liked_above),
            dislikes=tuple(known[item] for item, rating in rated if rating <= liked_above),
            target=known[example.item],
            kind=kinds[example.item],
        )
        records.append(build_record(preference, example.rating > liked_above, quoted_target))
        try:
            ambiguous += parse_input(records[-1]["input"]) != preference
        except ValueError:
            ambiguous += 1
    return records, ambiguous


def write_data_set(output, splits, source, settings):
    """Write all FILES into `output`, replacing existing ones, but only once all are complete.

    splits: as from `split_examples`; settings: what made them, with "liked_above". Returns lines of a summary.
    """
    output, above = Path(output), settings["liked_above"]
    lines, ambiguous = [], 0
    train_users = {example.user for example in splits["train"]}
    liked = {name: share_liked(examples, above) for name, examples in splits.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".part") as unfinished:
        unfinished = Path(unfinished)
        for name, examples in splits.items():
            quoted = settings.get("target_quotes") == "double"
            records, unclear = build_records(examples, source.items, above, quoted)
            ambiguous += unclear
            write_records(unfinished / f"{name}.json", records)
            _write_examples(unfinished / f"{name}.csv", examples, above)
            users = {example.user for example in examples}
            shared = "" if name == "train" else f", {len(users & train_users)} of them also in train"
            lines.append(f"{name:5} {len(examples):6} records, {liked[name]:5.1%} Yes, {len(users)} users{shared}")
        items = source.items[["title", "creator", "kind"]]
        items.to_csv(unfinished / "item_mapping.csv", index_label="item_id", lineterminator="\n")
        prepared = {
            "settings": settings,
            "raw": {path.name: sha256(path) for path in source.files},
            "skipped": source.counts["left out"],
            "changed": source.counts["changed"],
            "records": {name: len(examples) for name, examples in splits.items()},
            "liked": liked,
        }
        write_json(unfinished / "prepared.json", prepared)
        output.mkdir(exist_ok=True)
        for name in FILES:
            os.replace(unfinished / name, output / name)
    if ambiguous:
        lines.append(f"{ambiguous} records hold a title that does not parse back (quotes or commas); see tlrec.check")
    return lines


def _write_examples(path, examples, liked_above):
    table = pd.DataFrame(
        {
            "user_id": [e.user for e in examples],
            "history_item_id": [json.dumps(e.history) for e in examples],
            "history_rating": [json.dumps(e.history_ratings) for e in examples],
            "history_label": [json.dumps([int(r > liked_above) for r in e.history_ratings]) for e in examples],
            "item_id": [e.item for e in examples],
            "rating": [e.rating for e in examples],
            "label": [int(e.rating > liked_above) for e in examples],
            "timestamp": [e.timestamp for e in examples],
        }
    )
    table.to_csv(path, index=False, lineterminator="\n")
