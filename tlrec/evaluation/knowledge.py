"""What a model already knows, `probe.json`: true continuations compared with shuffled ones, with intervals.

`python -m tlrec.probe` writes it; the report reads it.
"""

from pathlib import Path
from typing import Annotated, Literal, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from tlrec.evaluation.formats import Bounds
from tlrec.evaluation.intervals import LEVEL, bootstrap_means, interval
from tlrec.files import plain_json, read_json, validate, write_json
from tlrec.runs.schema import Adapter, Count, DataFile, Number, RunFacts, Share

FILE = "probe.json"
# What each number means, in one sentence
MEANING = {
    "greedy": "Completed: the share of titles whose year or author the model, given the title, would write itself "
    "(every token is the most probable one).",
    "rank": "Rank: the mean place of the year or author among the candidates by probability, 1 the most probable.",
    "log_p": "Log-probability: the mean over titles, in nats, of the whole year or author given the title; for "
    "histories that of a title of the second half given the first half.",
    "preferred": "Preferred: the share of titles, or users, whose true continuation is more probable than the shuffled "
    "one; a model that knows nothing gets 0.5.",
    "shuffled": "Shuffled: the same titles, each with the year or author of another; for histories the second half of "
    "another user, equally long and without titles that both have rated.",
    "difference": "A difference whose interval holds 0 can be chance; intervals are 95 % bootstrap intervals over "
    "titles, or over users.",
}


class Measured(TypedDict):
    value: Number
    interval: Bounds | None


class Compared(TypedDict):
    """The same number for the true and the shuffled continuations, and true minus shuffled."""

    true: Measured
    shuffled: Measured
    difference: Measured


class TitleNumbers(TypedDict):
    greedy: Compared  # shares
    rank: Compared  # mean rank among the candidates, from 1; ties in the middle
    log_p: Compared  # nats
    preferred: Measured  # share


class HistoryNumbers(TypedDict):
    log_p: Compared  # nats a title
    preferred: Measured  # share


class Titles(TypedDict):
    kind: Literal["year", "author"]
    n: Annotated[Count, Field(ge=1)]  # titles asked
    left_out: Count  # titles without a year
    repeated: Count  # rows of the catalogue that repeat an earlier one
    candidates: Annotated[Count, Field(ge=2)]


class Histories(TypedDict):
    n: Annotated[Count, Field(ge=1)]  # users asked
    left_out: Count  # users with fewer than two liked items, or whom no other user could be compared with
    titles: Number  # mean number of titles in a second half, as compared


class Model(TypedDict):
    adapter: str | None  # folder as given; None: the base alone
    titles: TitleNumbers | None
    histories: HistoryNumbers | None


class ProbedData(TypedDict):
    catalogue: NotRequired[DataFile]
    records: NotRequired[DataFile]


class ProbeRun(RunFacts):
    data: ProbedData
    adapter: NotRequired[Adapter | None]


class Intervals(TypedDict):
    level: Share
    resamples: Count
    seed: int


class Probe(TypedDict):
    """`probe.json`. titles, histories: what was asked; None where it was not."""

    titles: Titles | None
    histories: Histories | None
    models: Annotated[list[Model], Field(min_length=1)]
    intervals: Intervals
    run: ProbeRun


def title_numbers(scores, resamples=2000, seed=0):
    """TitleNumbers of n titles. scores: (log_p, greedy) of each, whose first completion is the true one and second the
    shuffled one, as `tlrec.model.completions.score_completions` gives them."""
    ranks = np.array([[_rank(log_p, place) for place in (0, 1)] for log_p, _ in scores])
    greedy = np.array([done[:2] for _, done in scores], np.float64)
    log_p = np.array([log_p[:2] for log_p, _ in scores])
    columns = {"greedy": greedy, "rank": ranks, "log_p": log_p}
    return _compared(columns, resamples, seed) | {"preferred": _preferred(log_p, resamples, seed)}


def history_numbers(scores, sizes, resamples=2000, seed=0):
    """HistoryNumbers of n users. scores: as for `title_numbers`; sizes: (n,) number of titles in each continuation."""
    log_p = np.array([log_p[:2] for log_p, _ in scores]) / np.array(sizes)[:, None]
    return _compared({"log_p": log_p}, resamples, seed) | {"preferred": _preferred(log_p, resamples, seed)}


def _rank(log_p, place):
    others = np.delete(log_p, place)
    return 1 + (others > log_p[place]).sum() + (others == log_p[place]).sum() / 2


def _compared(columns, resamples, seed):
    """{name: Compared} of {name: (n, 2) true and shuffled}."""
    result = {}
    for name, pairs in columns.items():
        measured = _measured(np.column_stack([pairs, pairs[:, 0] - pairs[:, 1]]), resamples, seed)
        result[name] = dict(zip(("true", "shuffled", "difference"), measured, strict=True))
    return result


def _preferred(log_p, resamples, seed):
    return _measured((1 + np.sign(log_p[:, :1] - log_p[:, 1:])) / 2, resamples, seed)[0]


def _measured(columns, resamples, seed):
    """A Measured of each column of (n, k) numbers."""
    samples = bootstrap_means(columns, None, resamples, seed)
    return [
        plain_json({"value": column.mean(), "interval": interval(sample, len(columns))})
        for column, sample in zip(columns.T, samples.T, strict=True)
    ]


def describe_intervals(resamples, seed):
    """The entry "intervals" of `probe.json`."""
    return {"level": LEVEL, "resamples": resamples, "seed": seed}


def write_probe(folder, probe):
    """Write `probe.json`, whole, into `folder`."""
    write_json(Path(folder) / FILE, validate(plain_json(probe), Probe, FILE))


def read_probe(folder):
    """The content of `folder/probe.json`; InputError if it is missing, damaged or of another form."""
    path = Path(folder) / FILE
    return validate(read_json(path), Probe, path)


def meanings(probe):
    """One sentence for each number in the tables."""
    return [text for name, text in MEANING.items() if probe["titles"] or name not in ("greedy", "rank")]


def name_of(model):
    """The name of a Model of probe.json in tables."""
    return f"with {model['adapter']}" if model["adapter"] else "base alone"


def title_table(probe):
    """(header, rows of text) of the numbers about titles; [] rows without any."""
    header = ["", "Completed", "of shuffled", "Rank", "of shuffled", "Log-prob.", "of shuffled"]
    header += ["Difference", "Preferred"]
    rows = [
        [
            name_of(model),
            *(shown(numbers["greedy"][side]) for side in ("true", "shuffled")),
            *(shown(numbers["rank"][side], 2) for side in ("true", "shuffled")),
            *_last_cells(numbers),
        ]
        for model in probe["models"]
        if (numbers := model["titles"])
    ]
    return header, rows


def history_table(probe):
    """(header, rows of text) of the numbers about histories; [] rows without any."""
    header = ["", "Log-prob. of a title", "of shuffled", "Difference", "Preferred"]
    rows = [[name_of(model), *_last_cells(numbers)] for model in probe["models"] if (numbers := model["histories"])]
    return header, rows


def _last_cells(numbers):
    """Cells that both tables end with: log-probability, true and shuffled, their difference, and the share preferred."""
    log_p = numbers["log_p"]
    sides = [shown(log_p[side], 2) for side in ("true", "shuffled")]
    return [*sides, shown(log_p["difference"], 2, sign="+"), shown(numbers["preferred"])]


def shown(measured, digits=3, sign=""):
    """A Measured as text: value [low, high]."""
    value = f"{measured['value']:{sign}.{digits}f}"
    if measured["interval"] is None:
        return value
    low, high = (f"{bound:{sign}.{digits}f}" for bound in measured["interval"])
    return f"{value} [{low}, {high}]"


def titles_said(probe):
    """A sentence about the titles that were asked."""
    titles, path = probe["titles"], probe["run"]["data"]["catalogue"]["path"]
    what = 'release years, `"Title (`' if titles["kind"] == "year" else 'authors, `"Title" written by `'
    left = f"; {titles['left_out']} titles without a year left out" if titles["left_out"] else ""
    return f"{path}: {titles['n']} titles completed with {what}; {titles['candidates']} candidates each{left}."


def histories_said(probe):
    """A sentence about the histories that were asked."""
    histories, path = probe["histories"], probe["run"]["data"]["records"]["path"]
    left = f"; {histories['left_out']} users left out" if histories["left_out"] else ""
    return (
        f"{path}: the second half of what {histories['n']} users liked, {histories['titles']:.1f} titles each on "
        f"average, after the first half{left}."
    )
