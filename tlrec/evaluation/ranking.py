"""Ranks the target of every liked row among the items of a catalogue: `ranks.jsonl` and `ranking.json`.

    ranking = RankingSet(test, "rec_data/movie/item_mapping.csv", "full")
    lines = rank_rows(ranking, folder, run, done, score)        a line of ranks.jsonl for each row
    record_ranking(folder, ranking, lines, ...)                 ranking.json, in tlrec/evaluation/ranking_results.py

Candidates of a row are the items of the catalogue that its user has not rated before: all but the row's history and the
histories and targets of the user's earlier rows, in the test file and among train records, as far as users can be
inferred from overlapping windows, and so is which rows are earlier. What a user rates later stays a candidate, as it would
for a recommender. The target is always a candidate.
"""

import hashlib
import json
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tlrec.data.catalogue import read_catalogue
from tlrec.data.preferences import parse_input
from tlrec.data.records import LABELS
from tlrec.data.users import infer_timeline
from tlrec.errors import InputError
from tlrec.evaluation.metrics import ITEM_PRIOR
from tlrec.evaluation.ranking_metrics import standing
from tlrec.files import parse_json, read_bytes, sha256, validate, whole_file

RANKS, RANKING = "ranks.jsonl", "ranking.json"


def ranking_of(test, rank, items, max_rank_rows, rank_seed):
    """The RankingSet that the flags of these names ask for, None without --rank; InputError for wrong flags."""
    if rank is None:
        for name, value in (("items", items), ("max_rank_rows", max_rank_rows)):
            if value is not None:
                raise InputError(f"--{name} needs --rank")
        return None
    if rank != "full" and not (rank.isascii() and rank.isdigit() and int(rank) > 0):
        raise InputError(f"--rank {rank}: give full, or how many items to sample, 1 or more")
    if max_rank_rows is not None and max_rank_rows < 1:
        raise InputError(f"--max_rank_rows {max_rank_rows}: give 1 or more")
    if rank_seed < 0:
        raise InputError(f"--rank_seed {rank_seed}: give 0 or more")
    return RankingSet(test, items, rank, max_rank_rows, rank_seed)


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

    items: path of the catalogue, None for item_mapping.csv beside the test file. protocol: "full", or a number N for
    the target and N sampled others. max_rows: how many liked rows at most, drawn; None: all. seed: of both draws. rows:
    RankedRows; digest: of rows and candidates. Raises InputError if nothing can be ranked, before any model is loaded.
    """

    def __init__(self, test, items=None, protocol="full", max_rows=None, seed=0):
        self.test, self.seed, self.items_path = test, seed, items or Path(test.path).parent / "item_mapping.csv"
        self.sampled = None if protocol == "full" else int(protocol)
        test.check_preferences()
        if items is None and not self.items_path.exists():
            raise InputError(f"{self.items_path}: no catalogue beside {test.path}; give --items FILE")
        self.catalogue = read_catalogue(self.items_path)
        if len(self.catalogue.items) < 2:
            raise InputError(f"{self.items_path}: has only one item, so there is nothing to rank")
        if self.sampled and self.sampled >= len(self.catalogue.items):
            raise InputError(
                f"--rank {self.sampled}: {self.items_path} has {len(self.catalogue.items)} items; give fewer, or full"
            )
        self.unknown_history = self.unknown_targets = self.nothing_left = 0
        ranked = list(self._ranked())
        if not ranked:
            raise InputError(
                f"{self.items_path}: no liked row of {test.path} can be ranked: in {self.unknown_targets} the target "
                f"is not in the catalogue, in {self.nothing_left} the user has rated every other item"
            )
        self.eligible = len(ranked)
        if max_rows is not None and max_rows < len(ranked):  # a larger draw with the same seed holds a smaller one
            drawn = np.random.default_rng(seed).permutation(len(ranked))[:max_rows]
            ranked = [ranked[place] for place in sorted(drawn)]
        self.rows = ranked

    @property
    def protocol(self):
        return "full" if self.sampled is None else f"sampled {self.sampled}"

    @cached_property
    def digest(self):
        """Hexadecimal SHA-256 that two runs share if they ranked the same rows among the same candidates."""
        return self._digest([(row.row, row.target, row.rated.tolist()) for row in self.rows])

    @cached_property
    def source_digest(self):
        """Digest of all that a row's candidates depend on; unlike `digest`, the same for any number of rows."""
        train = self.test.train
        return self._digest([self.test.sha256, train and train.sha256])

    def _digest(self, parts):
        digest = hashlib.sha256()
        for part in (*map(str, self.catalogue.items), self.protocol, self.sampled and self.seed, *parts):
            digest.update(f"{part}\n".encode())
        return digest.hexdigest()

    @cached_property
    def catalogue_file(self):
        """{"path", "sha256", "rows"} of the catalogue; rows: its items, counted once each."""
        return {"path": str(self.items_path), "sha256": sha256(self.items_path), "rows": len(self.catalogue.items)}

    def said(self):
        """Lines about the catalogue and the rows that a user should read."""
        liked, said = int(self.test.labels.sum()), []
        if self.catalogue.repeated:
            said.append(f"{self.items_path}: {self.catalogue.repeated} rows repeat an earlier item and are left out")
        if self.unknown_history:
            said.append(f"{self.unknown_history} titles of the histories are not in {self.items_path}")
        if self.unknown_targets:
            said.append(
                f"{self.unknown_targets} of {liked} liked rows are left out: their target is not in the catalogue"
            )
        if self.nothing_left:
            said.append(f"{self.nothing_left} of {liked} liked rows are left out: the user has rated every other item")
        drawn = f", drawn with seed {self.seed}," if len(self.rows) < self.eligible else ""
        said.append(
            f"ranking: {len(self.rows)} of {self.eligible} liked rows{drawn} each among {self.sizes.min()} to "
            f"{self.sizes.max()} candidates ({self.protocol})"
        )
        return said

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
        """(record, items) of a row, as `tlrec.model.ranking.score_candidates` takes it."""
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
            for record, preference in zip(self.test.train, self._train_preferences, strict=True):
                for place in self._find(preference.target):
                    times[place] += 1
                    likes[place] += LABELS[record["output"]]
            floors |= {"item": (likes + ITEM_PRIOR / 2) / (times + ITEM_PRIOR), "likes": likes}
        return floors

    @cached_property
    def _train_preferences(self):
        found = []
        for number, record in enumerate(self.test.train or (), start=1):
            try:
                found.append(parse_input(record["input"]))
            except ValueError as error:
                raise InputError(f"{self.test.train.path}: row {number}: 'input' does not parse: {error}") from None
        return found

    def _find(self, item):
        """Places of an item in the catalogue, several if it has several spellings of one title."""
        if item not in self._found:
            self._found[item] = self.catalogue.find(item)
        return self._found[item]

    @cached_property
    def _found(self):
        return {}

    def _ranked(self):
        """A RankedRow for each liked row that can be ranked; what cannot be is counted."""
        before = _rated_before(self.test.preferences, self._train_preferences, self.test.labels, self.test.train)
        history = {item for preference in self.test.preferences for item in preference.history}
        self.unknown_history = sum(not self._find(item) for item in history)
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


def _rated_before(preferences, train_preferences, labels, train):
    """A function from the place of a test row to the items that its user has rated before, as far as the rows tell."""
    rows = [*preferences, *train_preferences]
    answers = np.concatenate([labels, [LABELS[record["output"]] for record in train or ()]]).astype(int)
    by_user = defaultdict(list)
    users, times = (found.tolist() for found in infer_timeline(rows, answers))
    for user, time, preference in zip(users, times, rows, strict=True):
        by_user[user].append((time, preference))

    def before(place):
        items = set(rows[place].history)
        for time, earlier in by_user[users[place]]:
            if time < times[place]:
                items.update(earlier.history, (earlier.target,))
        return items

    return before


# ------------------------------------------------------------------------------------------------------- row by row


def read_ranks(folder, ranking, run, overwrite):
    """{row: line} of the lines that `folder/ranks.jsonl` already has from this run; {} for no folder and no file.

    run: digest of all that a rank depends on (`run_digest`). A last line that was not written whole does not count.
    Raises InputError if the file is another run's, or has more rows than are ranked now; with `overwrite` returns {}
    then, so that both files are replaced.
    """
    path = folder and Path(folder) / RANKS
    if not path or not path.exists():
        return {}
    from tlrec.evaluation.formats import Rank  # imports pydantic; not at the top, so that --help is quick

    content = read_bytes(path)
    lines = [parse_json(line, f"{path}: line {n}") for n, line in enumerate(content.split(b"\n")[:-1], start=1)]
    for number, line in enumerate(lines, start=1):
        validate(line, Rank, f"{path}: line {number}")
    wanted = {row.row for row in ranking.rows}
    if all(line["run"] == run for line in lines) and {line["row"] for line in lines} <= wanted:
        return {line["row"]: line for line in lines}
    if overwrite:
        return {}
    other = (
        "more rows" if all(line["run"] == run for line in lines) else "another model, test data, catalogue or protocol"
    )
    raise InputError(f"{path}: holds ranks of {other}; give --output_dir or --overwrite")


def run_digest(ranking, *facts):
    """Hexadecimal digest of all that a row's rank depends on, so that only ranks of the same run are continued. facts:
    JSON values about the model and how it scores."""
    text = json.dumps([ranking.source_digest, *facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rank_rows(ranking, folder, run, done, score, first=True):
    """The lines of ranks.jsonl, a list of dicts in the order of rows; those that are not `done` are scored, and each is
    written into `folder` at once (None writes nothing).

    done: from `read_ranks`. score: a function from RankedRows to an iterable of (scores (candidates,), number of cut
    prompts), one for each. first: whether this process is the one that writes.
    """
    todo = [row for row in ranking.rows if row.row not in done]
    lines = dict(done)
    path = folder and first and Path(folder) / RANKS
    if path:
        _write_lines(path, done.values())  # drops an incomplete last line, and lines of another run
        if todo:
            Path(folder, RANKING).unlink(missing_ok=True)  # it exists only when all rows are ranked
    bar = tqdm(total=len(ranking.rows), initial=len(done), desc="ranking", unit="row", leave=False, disable=not first)
    with bar, open(path, "a", encoding="utf-8") if path else nullcontext() as file:
        for row, (scores, truncated) in zip(todo, score(todo) if todo else (), strict=True):
            lines[row.row] = line = _line(ranking, row, scores, truncated, run)
            if file:
                file.write(json.dumps(line) + "\n")
                file.flush()
            bar.update()
    lines = [lines[row.row] for row in ranking.rows]
    if path:
        _write_lines(path, lines)
    return lines


def _line(ranking, row, scores, truncated, run):
    places, target = ranking.candidates(row)
    better, tied = standing(scores, target)
    return {
        "row": row.row,
        "user": row.user,
        "target": str(ranking.catalogue.items[row.target]),
        "candidates": len(places),
        "rank": better + 1 + tied / 2,
        "better": better,
        "tied": tied,
        "truncated": int(truncated),
        "floors": {name: list(standing(score[places], target)) for name, score in ranking.floors.items()},
        "run": run,
    }


def _write_lines(path, lines):
    with whole_file(path) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def standings_of(lines, floor=None):
    """(better, tied) from lines of ranks.jsonl, two int arrays (n,): of the model, or of a floor."""
    pairs = [(line["better"], line["tied"]) if floor is None else line["floors"][floor] for line in lines]
    return tuple(np.array(pairs, dtype=np.int64).T)
