"""What a model already knows, `probe.json`: true continuations compared with shuffled ones, with intervals.

`python -m tlrec.probe` writes it; the report reads it. Its keys:

titles, histories   what was asked, {"said": a sentence, and its facts as numbers}; null where it was not
models              the base alone and perhaps with an adapter: {"adapter": folder as given, or null, "titles", "histories"},
                    the last two {"greedy", "rank", "log_p", "preferred"}, histories without the first two. Of the first
                    three {"true", "shuffled", "difference"}; each number {"value", "interval": [low, high] or null}.
                    greedy: share; rank: mean among the candidates, from 1, ties in the middle; log_p: nats, of histories
                    a title; preferred: share
intervals, run      as in metrics.json
"""

from pathlib import Path

import numpy as np

from tlrec.errors import InputError
from tlrec.evaluation.intervals import jackknife_means
from tlrec.files import plain_json, read_json

FILE = "probe.json"
COLUMNS = {"greedy": ("Completed", 3), "rank": ("Rank", 2), "log_p": ("Log-prob.", 2)}  # title, digits
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
    "difference": "A difference whose interval holds 0 can be chance; intervals are 95 % intervals over "
    "titles, or over users.",
}


def title_numbers(scores):
    """{"greedy", "rank", "log_p", "preferred"} of n titles. scores: (log_p, greedy) of each, as `score_completions` gives
    them; its first completion is the true one, its second the shuffled one."""
    ranks = np.array([[_rank(log_p, place) for place in (0, 1)] for log_p, _ in scores])
    greedy = np.array([done[:2] for _, done in scores], np.float64)
    log_p = np.array([log_p[:2] for log_p, _ in scores])
    return _numbers({"greedy": greedy, "rank": ranks, "log_p": log_p})


def history_numbers(scores, sizes):
    """{"log_p", "preferred"} of n users. scores: as for `title_numbers`; sizes: (n,) titles in each continuation."""
    log_p = np.array([log_p[:2] for log_p, _ in scores]) / np.array(sizes)[:, None]
    return _numbers({"log_p": log_p})


def _rank(log_p, place):
    others = np.delete(log_p, place)
    return 1 + (others > log_p[place]).sum() + (others == log_p[place]).sum() / 2


def _numbers(columns):
    """What `title_numbers` returns, of {name: (n, 2) true and shuffled}."""

    def measured(*sides):
        values = np.column_stack(sides)
        found = jackknife_means(values)
        return [
            plain_json({"value": mean, "interval": found.interval([place])}) for place, mean in enumerate(found.values)
        ]

    found = {
        name: dict(zip(("true", "shuffled", "difference"), measured(pairs, pairs[:, 0] - pairs[:, 1]), strict=True))
        for name, pairs in columns.items()
    }
    true, shuffled = columns["log_p"].T
    return found | {"preferred": measured((1 + np.sign(true - shuffled)) / 2)[0]}


def read_probe(folder):
    """The content of `folder/probe.json`; InputError if it is missing, damaged or of another form."""
    path = Path(folder) / FILE
    probe = read_json(path, required=("titles", "histories", "models", "run"))
    try:
        tables(probe)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged: {error!r}") from None
    return probe


def meanings(probe):
    """One sentence for each number in the tables."""
    return [text for name, text in MEANING.items() if probe["titles"] or name not in ("greedy", "rank")]


def tables(probe):
    """[(what was asked, header, rows of text)] of the titles and the histories that were asked about."""
    return [(probe[part]["said"], *_table(probe, part)) for part in ("titles", "histories") if probe[part]]


def _table(probe, part):
    header, rows = [""], []
    for model in probe["models"]:
        numbers = model[part]
        names = [name for name in COLUMNS if name in numbers]
        header = [
            "",
            *(text for name in names for text in (COLUMNS[name][0], "of shuffled")),
            "Difference",
            "Preferred",
        ]
        cells = [_shown(numbers[name][side], COLUMNS[name][1]) for name in names for side in ("true", "shuffled")]
        cells += [_shown(numbers["log_p"]["difference"], 2, sign="+"), _shown(numbers["preferred"], 3)]
        rows.append([f"with {model['adapter']}" if model["adapter"] else "base alone", *cells])
    return header, rows


def _shown(measured, digits, sign=""):
    """A number as text: value [low, high]."""
    value = f"{measured['value']:{sign}.{digits}f}"
    if measured["interval"] is None:
        return value
    low, high = (f"{bound:{sign}.{digits}f}" for bound in measured["interval"])
    return f"{value} [{low}, {high}]"
