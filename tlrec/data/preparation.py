"""From raw ratings to the files of a data set.

    raw files ──► source ──► examples ──► splits ──► train.json  valid.json  test.json    records
                                                     train.csv   valid.csv   test.csv     the same rows in the same order, as ids
                                                     item_mapping.csv                     every item of the source
                                                     prepared.json                        settings, raw files, what was left out

Raw files are read in tlrec/data/sources, made sound in policies.py, and become examples in windows.py.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from tlrec.data.policies import clean, liked_above, scale_of
from tlrec.data.preferences import Item, Preference, build_record, parse_input
from tlrec.data.records import write_records
from tlrec.data.sources import find
from tlrec.data.windows import SPLITS, last_windows, shuffled_histories, split_examples, without_known_targets
from tlrec.errors import InputError
from tlrec.files import sha256, write_json

FILES = (*(f"{split}.{form}" for split in SPLITS for form in ("json", "csv")), "item_mapping.csv", "prepared.json")
RAREST = 0.01  # share of the rarer label in a split, at least


def prepare(raw, items, settings, output, checked):
    """Make a data set in the folder `output`; yields lines of a summary.

    raw, items: as for `find`; settings: of tlrec.data.prepare; checked: refuse splits in which nearly all rows have one
    label. Raises InputError for whatever no setting can decide.
    """
    # 1. Raw ratings
    found = find(raw, items, settings["format"])
    yield found.said()
    source = clean(found, settings)
    ratings, above = source.ratings, settings["liked_above"]
    if above is None:
        above = liked_above(ratings["rating"])
    if not source.has_times and "min_ratings" not in settings:
        yield "warning: there are no times, so a user's ratings are taken in the order of the file"
    yield from source.summary()
    yield f"ratings from {scale_of(ratings['rating'])}: more than {above:g} is a like (--liked_above)"

    # 2. Examples: what a user rated before, and the item that follows
    if "min_ratings" in settings:
        examples = shuffled_histories(ratings, settings["history"], settings["min_ratings"], settings["shuffle_seed"])
    else:
        examples = last_windows(ratings, settings["history"], settings["last"])
    if settings["same_title"] != "published":
        count = len(examples)
        examples = without_known_targets(examples, source.items)
        if len(examples) < count:
            source.counts["left out"]["rows whose target is in their history"] = count - len(examples)

    # 3. Train, valid and test
    splits = split_examples(examples, settings["split"], settings["ratio"], settings["split_seed"])
    liked = {name: sum(example.rating > above for example in part) / len(part) for name, part in splits.items()}
    for name, share in liked.items():
        if checked and min(share, 1 - share) < RAREST:
            raise InputError(
                f"{name}: {share:.1%} of {len(splits[name])} rows are Yes, with a like above {above:g}; give a --liked_above "
                "that divides the ratings, or more rows"
            )

    # 4. Files
    yield from write_data_set(
        output, splits, liked, source, settings | {"format": found.form.name, "liked_above": above}
    )
    yield f"written to {output}"


def build_records(examples, items, liked_above, quoted_target=False):
    """Preference records of examples, and how many of them do not parse back to the same titles.

    An item is liked if its rating is above `liked_above`. items: as in tlrec.data.policies.Source.
    """
    known = dict(zip(items.index.tolist(), map(Item, items["title"].tolist(), items["creator"].tolist())))
    kinds = dict(zip(items.index.tolist(), items["kind"].tolist()))
    records, ambiguous = [], 0
    for example in examples:
        preference = Preference(
            likes=tuple(known[item] for item, rating in example.history if rating > liked_above),
            dislikes=tuple(known[item] for item, rating in example.history if rating <= liked_above),
            target=known[example.item],
            kind=kinds[example.item],
        )
        records.append(build_record(preference, example.rating > liked_above, quoted_target))
        try:
            ambiguous += parse_input(records[-1]["input"]) != preference
        except ValueError:
            ambiguous += 1
    return records, ambiguous


def write_data_set(output, splits, liked, source, settings):
    """Write all FILES into `output`, replacing existing ones, but only once all are complete.

    splits: as from `split_examples`; liked: {split: share of Yes}; settings: what made them. Returns lines of a summary.
    """
    output, above = Path(output), settings["liked_above"]
    lines, ambiguous = [], 0
    train_users = {example.user for example in splits["train"]}
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
    rated = [list(zip(*example.history)) for example in examples]
    table = pd.DataFrame(
        {
            "user_id": [e.user for e in examples],
            "history_item_id": [json.dumps(items) for items, _ in rated],
            "history_rating": [json.dumps(ratings) for _, ratings in rated],
            "history_label": [json.dumps([int(r > liked_above) for r in ratings]) for _, ratings in rated],
            "item_id": [e.item for e in examples],
            "rating": [e.rating for e in examples],
            "label": [int(e.rating > liked_above) for e in examples],
            "timestamp": [e.timestamp for e in examples],
        }
    )
    table.to_csv(path, index=False, lineterminator="\n")
