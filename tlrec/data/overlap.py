"""Rows and users that two record files share, such as train and test."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tlrec.data.records import labels_of
from tlrec.data.users import infer_users


@dataclass(frozen=True)
class Overlap:
    """What a later file shares with an earlier one; `users` and `user_rows` depend on inferred users."""

    earlier: str
    later: str
    rows: int  # rows of the later file whose input is in the earlier one too
    users: int  # users with rows in both
    user_rows: int  # rows of the later file that belong to them


def measure_overlap(files):
    """Users of each file, and what every two files share.

    files: {name: (records, Preferences)} in the order train, valid, test. Users are inferred over all files at once
    (tlrec.data.users). Returns ({name: number of users}, [Overlap]).
    """
    preferences = [p for _, file_preferences in files.values() for p in file_preferences]
    labels = np.concatenate([labels_of(records) for records, _ in files.values()])
    ends = np.cumsum([len(records) for records, _ in files.values()])
    users = dict(zip(files, np.split(infer_users(preferences, labels), ends[:-1])))
    inputs = {name: [record["input"] for record in records] for name, (records, _) in files.items()}
    overlaps = []
    for earlier, later in combinations(files, 2):
        rows = sum(map(set(inputs[earlier]).__contains__, inputs[later]))
        shared = users[later][np.isin(users[later], users[earlier])]
        overlaps.append(Overlap(earlier, later, rows, len(np.unique(shared)), len(shared)))
    return {name: len(np.unique(file_users)) for name, file_users in users.items()}, overlaps
