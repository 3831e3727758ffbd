"""Ranks of the liked rows' targets among their candidates: `ranks.jsonl`, row by row, and `ranking.json`.

ranking = RankingSet(test, "rec_data/movie/item_mapping.csv", "full")     (tlrec/evaluation/candidates.py)
ranks = Ranks(folder, ranking, identity)    what ranks.jsonl already has of this run
ranks.complete(score)                       scores the other rows, one by one
ranks.record(...)                           ranking.json
"""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tlrec.errors import InputError
from tlrec.evaluation.hits import CUTOFFS, compare_hits, row_metrics, standing
from tlrec.evaluation.intervals import LEVEL
from tlrec.files import parse_json, plain_json, read_bytes, read_json, validate, whole_file, write_json
from tlrec.runs import describe_adapter, describe_data, describe_records, describe_run, differences
from tlrec.runs.record import FORMAT, check_format

RANKS, RANKING = "ranks.jsonl", "ranking.json"
NOT_NEXT = (
    "P(Yes) is P(like | rated): it is learnt from items that people chose to rate. It is not P(next item), and a list "
    "ordered by it does not predict what a user takes next."
)
SAMPLED = (
    "Sampled candidates: these numbers are not those of the full catalogue and can put methods in another order "
    "(Krichene and Rendle 2020, On Sampled Metrics for Item Recommendation, KDD). Give --rank full before you draw "
    "conclusions from them."
)


class Ranks:
    """The ranks of one run, `ranks.jsonl` in `folder` (None writes nothing); `rows`, {row: line of the file}, are those that
    it already has. A last line that was not written whole does not count.

    identity: what determines the scores, see tlrec.runs.same. Raises InputError if the file is another run's, or has more
    rows than are ranked now; with `overwrite` both files are replaced then.
    """

    def __init__(self, folder, ranking, identity, overwrite=False):
        self.folder, self.ranking = folder and Path(folder), ranking
        self.identity, self.rows = plain_json(identity | ranking.identity), {}
        if not folder or not (path := self.folder / RANKS).exists():
            return
        found, lines = _read(path, read_bytes(path).split(b"\n")[:-1])
        other = differences(found, self.identity)
        if not other and not {line["row"] for line in lines} <= {row.row for row in ranking.rows}:
            other = ["more rows"]
        if other and not overwrite:
            raise InputError(
                f"{path}: holds ranks of another run: {', '.join(other)}; give --output_dir or --overwrite"
            )
        self.rows = {} if other else {line["row"]: line for line in lines}

    def is_complete(self):
        """Whether all rows are ranked, and ranking.json says so."""
        return len(self.rows) == len(self.ranking.rows) and (self.folder / RANKING).exists()

    def complete(self, score, first=True):
        """Score the rows that are missing; each is written at once.

        score: a function from RankedRows to an iterable of (scores (candidates,), number of cut prompts), one for each.
        first: whether this process is the one that writes.
        """
        todo = [row for row in self.ranking.rows if row.row not in self.rows]
        path = self.folder and first and self.folder / RANKS
        if path:
            self._write(path)  # drops an incomplete last line, and lines of another run
            if todo:
                (self.folder / RANKING).unlink(missing_ok=True)  # it exists only when all rows are ranked
        bar = {"total": len(self.ranking.rows), "initial": len(self.rows), "unit": "row", "leave": False}
        with (
            tqdm(desc="ranking", disable=not first, **bar) as bar,
            open(path, "a", encoding="utf-8") if path else nullcontext() as file,
        ):
            for row, (scores, truncated) in zip(todo, score(todo) if todo else (), strict=True):
                self.rows[row.row] = line = _line(self.ranking, row, scores, truncated)
                if file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                bar.update()
        self.rows = {row.row: self.rows[row.row] for row in self.ranking.rows}
        if path:
            self._write(path)

    def record(self, script, arguments, adapter=None, **facts):
        """Summarise the ranks in ranking.json, and return its content.

        adapter: the adapter folder, None for the base model alone; facts: about the run, as in metrics.json.
        """
        files = {"test": self.ranking.test, "train": self.ranking.test.train}
        data = {name: describe_records(file) for name, file in files.items() if file is not None}
        data["items"] = describe_data(self.ranking.items_path, rows=len(self.ranking.catalogue.items))  # each once
        found = summarise_ranking(self.ranking, list(self.rows.values()))
        found["run"] = describe_run(script, arguments, data, adapter=describe_adapter(adapter), **facts)
        if self.folder:
            write_json(self.folder / RANKING, found)
        return found

    def _write(self, path):
        with whole_file(path) as file:
            file.writelines(json.dumps(line) + "\n" for line in [{"identity": self.identity}, *self.rows.values()])


def _line(ranking, row, scores, truncated):
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
    }


def _read(path, texts):
    """(identity, lines as dicts) of a ranks.jsonl of these lines of text."""
    from tlrec.evaluation.formats import Rank, RankedBy  # imports pydantic; not at the top, so that --help is quick

    lines = []
    for number, text in enumerate(texts, start=1):
        where = f"{path}: line {number}"
        lines.append(validate(parse_json(text, where), Rank if lines else RankedBy, where))
    if not lines:
        raise InputError(f"{path}: is empty; remove it and rank again")
    return lines[0]["identity"], lines[1:]


def hits_of(lines, floor=None):
    """What `row_metrics` says of lines of ranks.jsonl: of the model, or of a floor."""
    pairs = [(line["better"], line["tied"]) if floor is None else line["floors"][floor] for line in lines]
    return row_metrics(*np.array(pairs, dtype=np.int64).T)


def summarise_ranking(ranking, lines):
    """The content of `ranking.json` except "run", as a dict of plain JSON values; the format: `formats.Ranking`."""
    users, sizes = np.array([line["user"] for line in lines]), [line["candidates"] for line in lines]
    values = {"model": hits_of(lines)} | {name: hits_of(lines, name) for name in ranking.floors}
    comparison = compare_hits(values, users, sizes)
    model, floors = comparison.numbers(["model"]), comparison.beside("model", ranking.floors)
    drawn = len(ranking.rows) < ranking.eligible
    return plain_json(
        {
            "format": FORMAT,
            **model,
            "protocol": ranking.protocol,
            "rank_seed": ranking.seed if drawn or ranking.sampled else None,
            "candidates": np.mean(sizes),
            "fewest_candidates": min(sizes),
            "most_candidates": max(sizes),
            "candidates_sha256": ranking.digest,
            "rows": len(lines),
            "users": len(np.unique(users)),
            "rows_left_out": {
                "target_not_in_catalogue": ranking.unknown_targets,
                "nothing_left_to_rank": ranking.nothing_left,
                "not_drawn": ranking.eligible - len(ranking.rows),
            },
            "tied": np.mean([line["tied"] > 0 for line in lines]),
            "truncated": sum(line["truncated"] > 0 for line in lines),
            "intervals": {"level": LEVEL, **model["intervals"]},
            "floors": floors,
            "notes": [NOT_NEXT] + [SAMPLED] * bool(ranking.sampled),
        }
    )


def read_ranking(folder):
    """What `Ranks` wrote: (content of ranking.json, lines of ranks.jsonl).

    Raises InputError, naming file and line, if one is missing, damaged or not in its format, or if they do not belong
    together.
    """
    from tlrec.evaluation.formats import Ranking

    path, ranks = Path(folder) / RANKING, Path(folder) / RANKS
    ranking = validate(check_format(read_json(path), path), Ranking, path)
    _, lines = _read(ranks, read_bytes(ranks).splitlines())
    rank = np.mean([line["rank"] for line in lines]) if lines else 0
    if len(lines) != ranking["rows"] or abs(rank - ranking["mean_rank"]) > 1e-6:
        raise InputError(f"{ranks}: does not belong to {path.name}, whose rows or mean rank differ; rank again")
    return ranking, lines


def ranking_table(ranking):
    """A small plain-text table of a ranking: means with intervals over users, floors, and notes on their limits."""
    fewest, most = ranking["fewest_candidates"], ranking["most_candidates"]
    kind = "the full catalogue" if ranking["protocol"] == "full" else f"{ranking['protocol']} candidates"
    sizes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    columns = shown_metrics(most)
    lines = [f"ranking, {kind}: {ranking['rows']} liked rows of {ranking['users']} users, each among {sizes} items"]
    lines.append(f"{'':<21}" + "".join(f"{metric_title(name):>11}" for name in columns))
    shown = {"model": ranking} | {f"no training: {name}": one for name, one in ranking["floors"].items()}
    for name, means in shown.items():
        lines.append(f"{name:<21}" + "".join(f"{metric_text(column, means[column]):>11}" for column in columns))
    level = f"{ranking['intervals']['level']:.0%}"
    for name in ("hr@10", "ndcg@10", "mrr"):
        if name not in columns:
            continue
        differences = "; ".join(
            f"- {floor} {means['difference'][name]:+.4f} ({_bounds(means['difference']['intervals'][name], '+')})"
            for floor, means in ranking["floors"].items()
        )
        lines.append(f"{name.upper()}, {level} over users: {_bounds(ranking['intervals'][name])}; {differences}")
    if missing := [str(k) for k in CUTOFFS if k >= most]:
        lines.append(f"no row has more than {most} candidates: HR and NDCG at {', '.join(missing)} would say nothing")
    return "\n".join([*lines, *ranking["notes"]])


def shown_metrics(most):
    """Names of the metrics that say something among at most so many candidates; NDCG@1 is HR@1."""
    shown = [k for k in CUTOFFS if k < most]
    return [*(f"hr@{k}" for k in shown), *(f"ndcg@{k}" for k in shown if k > 1), "mrr", "mean_rank"]


def metric_title(name):
    return name.upper().replace("_", " ")


def metric_text(name, value):
    return f"{value:.1f}" if name == "mean_rank" else f"{value:.4f}"


def _bounds(intervals, sign=""):
    bounds = intervals["users"]
    return "no interval" if bounds is None else f"{bounds[0]:{sign}.4f} to {bounds[1]:{sign}.4f}"
