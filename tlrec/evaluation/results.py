"""The results of an evaluation, `metrics.json` and `predictions.jsonl`: computed, written with the run that made them,
read back, and shown as a table. Their formats: tlrec/evaluation/formats.py."""

import json
from pathlib import Path

import numpy as np

from tlrec.data.published import published_name
from tlrec.errors import InputError
from tlrec.evaluation.comparison import compare_scores, units_of
from tlrec.evaluation.intervals import LEVEL
from tlrec.evaluation.metrics import (
    CALIBRATION,
    METRICS,
    auc,
    aucs_within,
    log_odds,
    probability_of_yes,
    two_probabilities_to_score,
)
from tlrec.files import parse_json, plain_json, read_bytes, read_json, validate, whole_file, write_json
from tlrec.runs import describe_adapter, describe_records, describe_run
from tlrec.runs.record import FORMAT, check_format

INFERRED = "inferred from overlapping windows"  # where users come from
NO_INTERVAL = "none: no interval, since fewer than two users count, or nothing varies between them"


def record_evaluation(folder, script, arguments, test, scores, adapter=None, valid=None, **facts):
    """Summarise `scores` of the EvaluationSet `test`, write both files into `folder` (None writes nothing), return the
    content of metrics.json.

    scores: tlrec.scoring.scores.Scores. adapter: the adapter folder, None for the base model alone. valid: the
    EvaluationSet that this run itself selected on, as a baseline does; that of a tuned model is in the adapter's run.
    """
    check_predictions(test.labels, scores.p_yes, scores.p_no)
    metrics = summarise(test.labels, scores.p_yes, scores.p_no, test.users, test.floors)
    files = {"test": test, "train": test.train, "valid": valid}
    data = {name: describe_records(file) for name, file in files.items() if file is not None}
    data["test"]["published"] = published_name(test.path)
    results = {"truncated": {"test": scores.truncated}, "seconds_scoring": round(scores.seconds, 2)}
    metrics["run"] = describe_run(script, arguments, data, results, adapter=describe_adapter(adapter), **facts)
    if folder is not None:
        write_evaluation(folder, metrics, test.labels, scores.p_yes, scores.p_no, test.users, test.floors)
    return metrics


def summarise(labels, p_yes, p_no, users=None, floors=None):
    """The content of `metrics.json` except "run", as a dict of plain JSON values.

    labels: (n,) of 0 and 1. p_yes, p_no: (n,) probabilities of the two answers. users: (n,) ids, or None. floors:
    {name: (n,) score}. What is not defined (AUC of one class, the interval over one user) is None.
    """
    score, probability = two_probabilities_to_score(p_yes, p_no), probability_of_yes(p_yes, p_no)
    scores = {"model": score, "log-odds": log_odds(p_yes, p_no)} | (floors or {})
    comparison = compare_scores(labels, scores, units_of(users))
    model, odds = comparison.numbers(["model"]), comparison.numbers(["log-odds"])
    intervals = {"level": LEVEL, **model.pop("intervals"), "auc_logodds": odds["intervals"]["auc"]}
    floors = comparison.beside("model", floors or ())
    both_labels = None if users is None else np.sum(~np.isnan(aucs_within(labels, score, users)))
    return plain_json(
        {
            "format": FORMAT,
            **model,
            "auc_logodds": odds["auc"],
            "uauc_users": both_labels,
            **{name: metric(labels, probability, users) for name, metric in CALIBRATION.items()},
            "answer_mass": np.mean(p_yes + p_no),
            "n": len(labels),
            "n_positive": np.sum(labels),
            "users": {"n": None, "source": None} if users is None else {"n": len(np.unique(users)), "source": INFERRED},
            "intervals": intervals,
            "floors": floors,
            **{best_floor_key(metric): to_best_floor(floors, metric) for metric in METRICS},
        }
    )


def best_floor_key(metric):
    """The key of metrics.json with the difference to the floor that is best in `metric`."""
    return "difference_to_best_floor" if metric == "auc" else f"{metric}_difference_to_best_floor"


def to_best_floor(floors, metric):
    """{"floor": name, ...} with the difference to the floor that is best in `metric`; None if there is none."""
    defined = [name for name in floors if floors[name][metric] is not None]
    best = max(defined, key=lambda name: floors[name][metric], default=None)
    return best and {"floor": best, **floors[best]["difference"]}


def check_predictions(labels, p_yes, p_no):
    """Raise InputError, naming the first wrong row, unless the three are labels and probabilities, (n,) arrays."""
    if len(labels) == 0:
        raise InputError("no predictions")
    for name, values, right, wanted in (
        ("label", labels, np.isin(labels, (0, 1)), "0 or 1"),
        ("p_yes", p_yes, (p_yes >= 0) & (p_yes <= 1 + 1e-6), "a probability"),  # a float32 softmax may round above 1
        ("p_no", p_no, (p_no >= 0) & (p_no <= 1 + 1e-6), "a probability"),
    ):
        if not right.all():
            row = int(right.argmin())
            wrong = f"{name} is {values[row]}, not {wanted} ({(~right).sum()} such rows)"
            raise InputError(f"prediction of row {row + 1}: {wrong}")


def write_evaluation(folder, metrics, labels, p_yes, p_no, users=None, floors=None):
    """Write `predictions.jsonl`, then `metrics.json`, each whole, into `folder`."""
    floors = floors or {}
    columns = {
        "row": range(1, len(labels) + 1),
        "label": labels,
        "score": two_probabilities_to_score(p_yes, p_no),
        "p_yes": p_yes,
        "p_no": p_no,
        "user": [None] * len(labels) if users is None else users,
    }
    with whole_file(Path(folder) / "predictions.jsonl") as file:
        for place, values in enumerate(zip(*columns.values(), strict=True)):
            line = dict(zip(columns, values, strict=True)) | {
                "floors": {name: of[place] for name, of in floors.items()}
            }
            file.write(json.dumps(plain_json(line)) + "\n")
    write_json(Path(folder) / "metrics.json", plain_json(metrics))


def read_metrics(folder):
    """The content of `folder/metrics.json`. Raises InputError if it is missing, damaged, or not in its format."""
    from tlrec.evaluation.formats import Metrics  # imports pydantic; not at the top, so that --help is quick

    path = Path(folder) / "metrics.json"
    return validate(check_format(read_json(path), path), Metrics, path)


def read_evaluation(folder):
    """What `write_evaluation` wrote: (metrics, predictions), after checking that they belong together.

    predictions is a dict of (n,) arrays: label, p_yes, p_no, score, user (None if not known), floors (a dict of them).
    Raises InputError, naming file and row, if one is missing, damaged or not in its format, or if the AUC of
    metrics.json is not that of predictions.jsonl.
    """
    from tlrec.evaluation.formats import Prediction

    metrics, path = read_metrics(folder), Path(folder) / "predictions.jsonl"
    lines = read_bytes(path).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    rows = [parse_json(line, f"{path}: row {number}") for number, line in enumerate(lines, start=1)]
    for number, row in enumerate(rows, start=1):
        validate(row, Prediction, f"{path}: row {number}")
        if row["floors"].keys() != rows[0]["floors"].keys():
            raise InputError(f"{path}: row {number}: its floors differ from those of row 1; evaluate again")
    labels, p_yes, p_no = (np.array([row[name] for row in rows]) for name in ("label", "p_yes", "p_no"))
    try:
        check_predictions(labels, p_yes, p_no)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    score, users = two_probabilities_to_score(p_yes, p_no), [row["user"] for row in rows]
    found, said = auc(labels, score), metrics["auc"]
    if (found is None) != (said is None) or (said is not None and abs(found - said) > 1e-9):
        raise InputError(f"{path}: its AUC is {found}, metrics.json says {said}; evaluate again")
    floors = {name: np.array([row["floors"][name] for row in rows], float) for name in rows[0]["floors"]}
    predictions = {"label": labels, "p_yes": p_yes, "p_no": p_no, "score": score, "floors": floors}
    return metrics, predictions | {"user": None if None in users else np.asarray(users)}


def results_table(metrics):
    """A small plain-text table of metrics.json: every metric, its floors and the difference to the best of them, with
    intervals; then the rest."""
    n, users, published = metrics["n"], metrics["users"], metrics.get("run", {})["data"]["test"]["published"]
    level = f"{metrics['intervals']['level']:.0%}"
    known = f", {users['n']} users ({users['source']})" if users["n"] else ""
    lines = [f"{published}, as published"] if published else []
    lines.append(f"{n} rows, {metrics['n_positive']} liked{known}")
    lines.append(f"{'':<32}{'':>8}  {f'{level} over rows':<18}{f'{level} over users':<18}".rstrip())

    def line(name, value, intervals, sign=""):
        cells = "".join(
            f"{_interval_text(intervals[u], sign) if u in intervals else '':<18}" for u in ("rows", "users")
        )
        lines.append(f"{name:<32}{_number_text(value, sign):>8}  {cells}".rstrip())

    for metric in METRICS:
        if metrics[metric] is None and metric != "auc":
            continue
        line(NAMES.get(metric, metric), metrics[metric], metrics["intervals"][metric])
        if metric == "auc":
            line("AUC (log-odds)", metrics["auc_logodds"], metrics["intervals"]["auc_logodds"])
        for name, floor in metrics["floors"].items():
            line(f"  no training: {name}", floor[metric], floor["intervals"][metric])
        if best := metrics[best_floor_key(metric)]:
            line(f"  difference to {best['floor']}", best[metric], best["intervals"][metric], "+")
    others = (*CALIBRATION, "answer_mass")
    lines.append("  ".join(f"{name} {_number_text(metrics[name])}" for name in others))
    return "\n".join(lines + [NO_INTERVAL] * any(" none" in one for one in lines))


NAMES = {"auc": "AUC (published)", "uauc": "uAUC (AUC within users)", "uauc_weighted": "uAUC, weighted by rows"}


def _number_text(value, sign=""):
    return "-" if value is None else f"{value:{sign}.4f}"


def _interval_text(bounds, sign=""):
    return "none" if bounds is None else f"{bounds[0]:{sign}.4f} {bounds[1]:{sign}.4f}"


def check_evaluation_dir(folder, test, overwrite):
    """Whether `folder` holds an evaluation on the EvaluationSet `test`; InputError if it holds one on other data
    (unless `overwrite`)."""
    path = Path(folder) / "metrics.json"
    if not path.exists():
        return False
    before = read_metrics(folder)["run"]["data"]["test"]
    same = before["sha256"] == test.sha256
    if not same and not overwrite:
        raise InputError(f"{path}: is an evaluation on other data ({before['path']}); give --output_dir or --overwrite")
    return same
