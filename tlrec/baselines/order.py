"""In which order a sequential method reads a history: in time order where the prepared CSV files lie beside the records,
else the likes, then the dislikes. A record keeps each of its two lists in time order, but not how they interleave."""

import csv
import json
from pathlib import Path


class HistoryOrder:
    """history_of(preference): the items of a history and whether each is liked, in the order that `said` names.

    files: (path of a record file, its Preferences, its answers) of all splits; time order is read from `train.csv` and
    the like, and only if each of them has the rows of its records.
    """

    def __init__(self, *files):
        self.answers, self.said = {}, "in time order, from the CSV files beside the records"
        for path, preferences, labels in files:
            table = Path(path).with_suffix(".csv")
            if (found := _answers(table, preferences, labels)) is None:
                self.answers, self.said = {}, f"likes, then dislikes ({table} is not there, or not of these records)"
                return
            self.answers |= dict(zip(preferences, found, strict=True))

    def history_of(self, preference):
        answers = self.answers.get(preference)
        if answers is None:
            return likes_first(preference)
        likes, dislikes = iter(preference.likes), iter(preference.dislikes)
        return [(next(likes if liked else dislikes), bool(liked)) for liked in answers]


def likes_first(preference):
    return [(item, True) for item in preference.likes] + [(item, False) for item in preference.dislikes]


def _answers(table, preferences, labels):
    """The answers of each row's history in time order, from a CSV file of `prepare_data.py`; None unless it is of these
    rows: as many, with the same answers, and each item id with one title throughout."""
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found, titles = [json.loads(row["history_label"]) for row in rows], {}
        for row, preference, label, answers in zip(rows, preferences, labels, found, strict=True):
            likes, dislikes = iter(preference.likes), iter(preference.dislikes)
            items = [next(likes if liked else dislikes) for liked in answers] + [preference.target]
            ids = [*json.loads(row["history_item_id"]), row["item_id"]]
            same = all(titles.setdefault(one, item) == item for one, item in zip(ids, items, strict=True))
            if not same or int(row["label"]) != label or [*likes, *dislikes]:
                return None
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    return found
