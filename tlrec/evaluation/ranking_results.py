"""The results of a ranking, `ranking.json` beside `ranks.jsonl`: computed, written, read back, and shown as a table."""

from pathlib import Path

import numpy as np

from tlrec.errors import InputError
from tlrec.evaluation.intervals import LEVEL
from tlrec.evaluation.ranking import RANKING, RANKS, standings_of
from tlrec.evaluation.ranking_metrics import CUTOFFS, RankMetrics, row_metrics
from tlrec.files import parse_json, plain_json, read_bytes, read_json, validate, write_json
from tlrec.runs import describe_adapter, describe_records, describe_run

NOT_NEXT = (
    "P(Yes) is P(like | rated): it is learnt from items that people chose to rate. It is not P(next item), and a list "
    "ordered by it does not predict what a user takes next."
)
SAMPLED = (
    "Sampled candidates: these numbers are not those of the full catalogue and can put methods in another order "
    "(Krichene and Rendle 2020, On Sampled Metrics for Item Recommendation, KDD). Give --rank full before you draw "
    "conclusions from them."
)
RESAMPLES = 2000


def summarise_ranking(ranking, lines, seed=0, resamples=RESAMPLES):
    """The content of `ranking.json` except "run", as a dict of plain JSON values.

    ranking: the RankingSet; lines: from `tlrec.evaluation.ranking.rank_rows`. The format: `formats.Ranking`.
    """
    users = np.array([line["user"] for line in lines])
    sizes = [line["candidates"] for line in lines]
    values = {name: row_metrics(*standings_of(lines, name)) for name in ranking.floors}
    metrics = RankMetrics({"": row_metrics(*standings_of(lines))} | values, users, max(sizes), resamples, seed)
    floors = {
        name: {
            **metrics.means(name),
            "intervals": metrics.intervals(name),
            "difference": {"means": metrics.difference("", name), "intervals": metrics.intervals("", minus=name)},
        }
        for name in ranking.floors
    }
    drawn = len(ranking.rows) < ranking.eligible
    return plain_json(
        {
            **metrics.means(""),
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
            "intervals": {"level": LEVEL, "resamples": resamples, "seed": seed, **metrics.intervals("")},
            "floors": floors,
            "notes": [NOT_NEXT] + [SAMPLED] * bool(ranking.sampled),
        }
    )


def record_ranking(folder, script, arguments, ranking, lines, adapter=None, **facts):
    """Summarise the `lines` of a RankingSet, write ranking.json into `folder` (None writes nothing), return it.

    adapter: the adapter folder, None for the base model alone; facts: about the run, as in metrics.json.
    """
    files = {"test": ranking.test, "train": ranking.test.train}
    data = {name: describe_records(file) for name, file in files.items() if file is not None}
    found = summarise_ranking(ranking, lines)
    found["run"] = describe_run(
        script, arguments, data | {"items": ranking.catalogue_file}, adapter=describe_adapter(adapter), **facts
    )
    if folder is not None:
        write_json(Path(folder) / RANKING, found)
    return found


def read_ranking(folder):
    """What `rank_rows` and `record_ranking` wrote: (content of ranking.json, lines of ranks.jsonl).

    Raises InputError, naming file and line, if one is missing, damaged or not in its format, or if they do not belong
    together.
    """
    from tlrec.evaluation.formats import Rank, Ranking  # imports pydantic; not at the top, so that --help is quick

    path, ranks = Path(folder) / RANKING, Path(folder) / RANKS
    ranking = validate(read_json(path), Ranking, path)
    lines = [parse_json(line, f"{ranks}: line {n}") for n, line in enumerate(read_bytes(ranks).splitlines(), start=1)]
    for number, line in enumerate(lines, start=1):
        validate(line, Rank, f"{ranks}: line {number}")
    rank = np.mean([line["rank"] for line in lines]) if lines else 0
    if len(lines) != ranking["rows"] or abs(rank - ranking["mean_rank"]) > 1e-6:
        raise InputError(f"{ranks}: does not belong to {path.name}, whose rows or mean rank differ; rank again")
    return ranking, lines


def ranking_table(ranking):
    """A small plain-text table of a ranking: means with intervals over users, floors, and notes on their limits."""
    rows, users = ranking["rows"], ranking["users"]
    fewest, most = ranking["fewest_candidates"], ranking["most_candidates"]
    sampled = ranking["protocol"] != "full"
    kind = f"{ranking['protocol']} candidates" if sampled else "the full catalogue"
    sizes = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    shown = [k for k in CUTOFFS if ranking[f"hr@{k}"] is not None]
    columns = [*(f"hr@{k}" for k in shown), *(f"ndcg@{k}" for k in shown if k > 1), "mrr", "mean_rank"]
    lines = [f"ranking, {kind}: {rows} liked rows of {users} users, each among {sizes} items"]
    lines.append(f"{'':<18}" + "".join(f"{name.upper().replace('_', ' '):>11}" for name in columns))
    methods = {"model": ranking} | {f"floor: {name}": floor for name, floor in ranking["floors"].items()}
    for name, means in methods.items():
        lines.append(f"{name:<18}" + "".join(f"{_text(column, means[column]):>11}" for column in columns))
    level = f"{ranking['intervals']['level']:.0%}"
    for name in [name for name in ("hr@10", "ndcg@10", "mrr") if name in columns]:
        differences = "; ".join(
            f"- {floor} {values['means'][name]:+.4f} ({_bounds(values['intervals'][name], '+')})"
            for floor, values in ((floor, means["difference"]) for floor, means in ranking["floors"].items())
        )
        lines.append(f"{name.upper()}, {level} over users: {_bounds(ranking['intervals'][name])}; {differences}")
    if missing := [str(k) for k in CUTOFFS if k not in shown]:
        lines.append(f"no row has more than {most} candidates: HR and NDCG at {', '.join(missing)} would say nothing")
    return "\n".join([*lines, *ranking["notes"]])


def one_line(ranking):
    """The main numbers of a ranking and its protocol, such as "HR@10 0.0912, NDCG@10 0.0434, ... (sampled 100)"."""
    names = [name for name in ("hr@10", "ndcg@10", "mrr", "mean_rank") if ranking[name] is not None]
    words = (f"{name.upper().replace('_', ' ')} {_text(name, ranking[name])}" for name in names)
    return f"{', '.join(words)} ({ranking['protocol']})"


def _text(name, value):
    return f"{value:.1f}" if name == "mean_rank" else f"{value:.4f}"


def _bounds(bounds, sign=""):
    return "-" if bounds is None else f"{bounds[0]:{sign}.4f} to {bounds[1]:{sign}.4f}"
