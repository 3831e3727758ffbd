"""What the target of every liked row is ranked among: the items of a catalogue that its user has not rated before.

All but the row's history and the histories and targets of the user's earlier rows, in the test file and among train
records, as far as users can be inferred from overlapping windows, and so is which rows are earlier. What a user rates
later stays a candidate, as it would for a recommender. The target is always a candidate.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from tlrec.data.catalogue import read_catalogue
from tlrec.data.users import infer_timeline
from tlrec.errors import InputError
from tlrec.evaluation.floors import like_rate, target_counts
from tlrec.files import digest_of


def ranking_of(test, rank, items, max_rank_rows, rank_seed):
    """The RankingSet that the flags of these names ask for, None without --rank; InputError for wrong flags."""
    if rank is not None:
        return RankingSet(test, items, rank, max_rank_rows, rank_seed)
    for name, value in (("items", items), ("max_rank_rows", max_rank_rows)):
        if value is not None:
            raise InputError(f"--{name} needs --rank")
    return None


@dataclass(frozen=True)
class RankedRow:
    """A liked row: its number in the test file (from 1), its user, the place of its target in the catalogue, and the
    places (k,) that are not candidates."""

    row: int
    user: int
    target: int
    rated: np.ndarray


class RankingSet:
    """The liked rows of an EvaluationSet and their candidates, the same for every method that ranks them.

    items: path of the catalogue, None for item_mapping.csv beside the test file. rank: "full", or how many others to
    sample beside the target. max_rank_rows: how many liked rows at most, drawn; None: all. rank_seed: of both draws. rows:
    RankedRows; digest: of rows and candidates. Raises InputError for wrong values of the flags with these names, and if
    nothing can be ranked.
    """

    def __init__(self, test, items=None, rank="full", max_rank_rows=None, rank_seed=0):
        if rank != "full" and not (rank.isascii() and rank.isdigit() and int(rank) > 0):
            raise InputError(f"--rank {rank}: give full, or how many items to sample, 1 or more")
        if max_rank_rows is not None and max_rank_rows < 1:
            raise InputError(f"--max_rank_rows {max_rank_rows}: give 1 or more")
        if rank_seed < 0:
            raise InputError(f"--rank_seed {rank_seed}: give 0 or more")
        self.test, self.seed, self.items_path = test, rank_seed, items or Path(test.path).parent / "item_mapping.csv"
        self.sampled = None if rank == "full" else int(rank)
        self.protocol = "full" if self.sampled is None else f"sampled {self.sampled}"
        test.check_preferences()
        if items is None and not self.items_path.exists():
            raise InputError(f"{self.items_path}: no catalogue beside {test.path}; give --items FILE")
        self.catalogue = read_catalogue(self.items_path)
        self._find = cache(self.catalogue.find)  # places of an item, several if a title has several spellings
        size = len(self.catalogue.items)
        if size < 2:
            raise InputError(f"{self.items_path}: has only one item, so there is nothing to rank")
        if self.sampled and self.sampled >= size:
            raise InputError(f"--rank {self.sampled}: {self.items_path} has {size} items; give fewer, or full")
        self.unknown_targets = self.nothing_left = 0
        ranked = list(self._ranked())
        if not ranked:
            raise InputError(
                f"{self.items_path}: no liked row of {test.path} can be ranked: in {self.unknown_targets} the target "
                f"is not in the catalogue, in {self.nothing_left} the user has rated every other item"
            )
        self.eligible = len(ranked)
        if max_rank_rows is not None and max_rank_rows < len(ranked):  # a larger draw holds a smaller one
            drawn = np.random.default_rng(rank_seed).permutation(len(ranked))[:max_rank_rows]
            ranked = [ranked[place] for place in sorted(drawn)]
        self.rows = ranked

    @cached_property
    def digest(self):
        """Hexadecimal SHA-256 that two runs share if they ranked the same rows among the same candidates."""
        rows = [(row.row, row.target, row.rated.tolist()) for row in self.rows]
        digest = hashlib.sha256()
        for part in (*map(str, self.catalogue.items), self.protocol, self.sampled and self.seed, *rows):
            digest.update(f"{part}\n".encode())
        return digest.hexdigest()

    @property
    def identity(self):
        """What determines a row's candidates beside the test and train data, which are part of what scores them, see
        tlrec.runs.same; unlike `digest`, the same for any number of rows."""
        catalogue = digest_of(list(map(str, self.catalogue.items)))
        return {"catalogue": catalogue, "--rank": self.protocol, "--rank_seed": self.sampled and self.seed}

    def said(self):
        """Lines about the catalogue and the rows that a user should read."""
        liked, items = int(self.test.labels.sum()), self.items_path
        history = {item for preference in self.test.preferences for item in preference.history}
        repeated, unknown = self.catalogue.repeated, sum(not self._find(item) for item in history)
        left_out = f"of {liked} liked rows are left out:"
        drawn = f", drawn with seed {self.seed}," if len(self.rows) < self.eligible else ""
        lines = (
            (repeated, f"{items}: {repeated} rows repeat an earlier item and are left out"),
            (unknown, f"{unknown} titles of the histories are not in {items}"),
            (self.unknown_targets, f"{self.unknown_targets} {left_out} their target is not in the catalogue"),
            (self.nothing_left, f"{self.nothing_left} {left_out} the user has rated every other item"),
        )
        return [line for count, line in lines if count] + [
            f"ranking: {len(self.rows)} of {self.eligible} liked rows{drawn} each among {self.sizes.min()} to "
            f"{self.sizes.max()} candidates ({self.protocol})"
        ]

    @cached_property
    def sizes(self):
        """(rows,) number of candidates, the target included."""
        full = np.array([len(self.catalogue.items) - len(row.rated) for row in self.rows])
        return full if self.sampled is None else np.minimum(full, self.sampled + 1)

    def candidates(self, row):
        """(places of the candidates in the catalogue, in its order; where among them the target is)."""
        left = np.setdiff1d(np.arange(len(self.catalogue.items)), row.rated, assume_unique=True)
        if self.sampled is not None:
            others = left[left != row.target]
            generator = np.random.default_rng([self.seed, row.row])
            drawn = generator.choice(others, min(self.sampled, len(others)), replace=False)
            left = np.sort(np.append(drawn, row.target))
        return left, int(np.searchsorted(left, row.target))

    def request(self, row):
        """(record, items) of a row, as the scoring of many items for one user takes it."""
        places, _ = self.candidates(row)
        return self.test.records[row.row - 1], [self.catalogue.items[place] for place in places]

    @cached_property
    def floors(self):
        """{name: (items,) score} of the rules that need no model, for every item of the catalogue.

        "history", the share of liked items in the history, is the same for all candidates: chance. With train records
        "item", the like-rate of the item there, smoothed as in metrics.json, and "likes", how many rows like it there,
        which ranking papers call popularity. "history + item" would give the same ranks as "item".
        """
        floors = {"history": np.zeros(len(self.catalogue.items))}
        if self.test.train is not None:
            times, likes = np.zeros((2, len(self.catalogue.items)))
            asked, liked = target_counts(self.test.answered_train())
            for item in asked:
                times[self._find(item)] += asked[item]
                likes[self._find(item)] += liked[item]
            floors |= {"item": like_rate(times, likes), "likes": likes}
        return floors

    def _ranked(self):
        """A RankedRow for each liked row that can be ranked; what cannot be is counted."""
        answered = [*zip(self.test.preferences, self.test.labels, strict=True), *(self.test.answered_train() or ())]
        before = rated_before(*zip(*answered, strict=True))
        for number in np.flatnonzero(self.test.labels):
            target = self.test.preferences[number].target
            if not (same := self._find(target)):
                self.unknown_targets += 1
                continue
            place = next((place for place in same if self.catalogue.items[place] == target), same[0])
            rated = {place for item in before(number) for place in self._find(item)} | set(same)
            rated = np.array(sorted(rated - {place}), dtype=np.int64)
            if len(rated) == len(self.catalogue.items) - 1:
                self.nothing_left += 1
                continue
            yield RankedRow(int(number) + 1, int(self.test.users[number]), place, rated)


def rated_before(rows, answers):
    """A function from a place in `rows` (Preferences, with their answers, 0 or 1) to the set of items that its user has
    rated before, as far as the rows tell."""
    by_user = defaultdict(list)
    users, times = (found.tolist() for found in infer_timeline(rows, np.array(answers)))
    for user, time, preference in zip(users, times, rows, strict=True):
        by_user[user].append((time, preference))

    def before(place):
        items = set(rows[place].history)
        for time, earlier in by_user[users[place]]:
            if time < times[place]:
                items.update(earlier.history, (earlier.target,))
        return items

    return before
