"""The results of an evaluation, `metrics.json` and `predictions.jsonl`: computed, written with the run that made them,
read back, and shown as a table."""

import json
from pathlib import Path

import numpy as np

from tlrec.data.users import infer_users
from tlrec.errors import InputError
from tlrec.evaluation.intervals import LEVEL, bootstrap_aucs, bootstrap_uaucs, interval
from tlrec.evaluation.metrics import (
    auc,
    by_history_size,
    by_share_of_likes,
    expected_calibration_error,
    floor_scores,
    log_odds,
    probability_of_yes,
    reliability_bins,
    two_probabilities_to_score,
    uauc,
)
from tlrec.files import parse_json, plain_json, read_bytes, read_json, sha256, validate, whole_file, write_json
from tlrec.runs import adapter_weights, describe_adapter, describe_records, describe_run

INFERRED = "inferred from overlapping windows"  # where users come from, if they were not given


def summarise(labels, p_yes, p_no, preferences=None, floors=None, users=None, source="given", seed=0, resamples=2000):
    """The content of `metrics.json` except "run", as a dict of plain JSON values.

    labels: (n,) of 0 and 1. p_yes, p_no: (n,) probabilities of the two answers. preferences: the rows'
    `tlrec.data.preferences.Preference`s; without them there are no slices. floors: {name: (n,) score}, by default those
    of the preferences alone. users: (n,) ids, and their `source`; by default inferred from overlapping windows.
    Undefined values (AUC of one class, the interval over a single user) are None, never 0.5.
    Raises InputError, naming the row, for a value that is not a label or a probability.
    """
    from sklearn.metrics import brier_score_loss, log_loss

    labels, p_yes, p_no = check_predictions(labels, p_yes, p_no)
    users, source = known_users(preferences, labels, users, source)
    probability = probability_of_yes(p_yes, p_no)
    model = {"auc": two_probabilities_to_score(p_yes, p_no), "auc_logodds": log_odds(p_yes, p_no)}
    floors = floor_scores(preferences) if floors is None else floors
    aucs = Aucs(labels, model | floors, users, resamples, seed)
    floors = {name: aucs.floor(name) for name in floors}
    reliability = reliability_bins(labels, probability)
    return plain_json(
        {
            "auc": aucs.auc["auc"],
            "auc_logodds": aucs.auc["auc_logodds"],
            "uauc": aucs.uauc["auc"],
            "uauc_weighted": aucs.uauc_weighted["auc"],
            "uauc_users": aucs.uauc_users,
            "accuracy": ((probability > 0.5) == labels).mean(),
            "log_loss": log_loss(labels, probability, labels=[0, 1]),
            "brier": brier_score_loss(labels, probability, labels=[0, 1]),
            "ece": expected_calibration_error(reliability),
            "answer_mass": (p_yes + p_no).mean(),
            "n": len(labels),
            "n_positive": labels.sum(),
            "intervals": {
                "level": LEVEL,
                "resamples": resamples,
                "seed": seed,
                "auc": aucs.intervals("auc"),
                "auc_logodds": aucs.intervals("auc_logodds"),
                "uauc": aucs.intervals("auc", within=True),
            },
            "users": {"n": aucs.units.get("users"), "source": source},
            "floors": floors,
            "difference_to_best_floor": to_best_floor(floors, "auc"),
            "uauc_difference_to_best_floor": to_best_floor(floors, "uauc"),
            "reliability": reliability,
            "by_history_size": by_history_size(labels, model["auc"], preferences),
            "by_share_of_likes": by_share_of_likes(labels, model["auc"], preferences),
        }
    )


class Aucs:
    """AUC and uAUC of several scores of the same rows, {name: value}, with intervals on the same bootstrap resamples.

    labels: (n,). scores: {name: (n,)}, of which "auc" is the model's own. users: (n,) ids; without them no uAUC.
    units: how many rows and users are resampled; uauc_users: how many users have both labels.
    """

    def __init__(self, labels, scores, users, resamples, seed):
        columns = list(scores.values())
        self.auc = {name: auc(labels, score) for name, score in scores.items()}
        self.units = {"rows": len(labels)}
        samples = {"rows": bootstrap_aucs(labels, columns, None, resamples, seed)}
        self.uauc = self.uauc_weighted = dict.fromkeys(scores)
        self.uauc_users, within = None, {}
        if users is not None:
            self.units["users"] = len(np.unique(users))
            samples["users"] = bootstrap_aucs(labels, columns, users, resamples, seed)
            found = {name: uauc(labels, score, users) for name, score in scores.items()}
            self.uauc, self.uauc_weighted = ({name: found[name][place] for name in found} for place in (0, 1))
            self.uauc_users = found["auc"][2]
            within = {"users": bootstrap_uaucs(labels, columns, users, resamples, seed)}
        self._column = {name: column for column, name in enumerate(scores)}
        self._samples, self._within = samples, within

    def intervals(self, name, minus=None, within=False):
        """{"rows", "users"}: the interval of a score's AUC, or of its difference to another's. within: of its uAUC, and
        then over users only. "users" is missing if users are not known."""
        result = {}
        for unit, samples in (self._within if within else self._samples).items():
            sample = samples[:, self._column[name]]
            sample = sample if minus is None else sample - samples[:, self._column[minus]]
            result[unit] = interval(sample, self.uauc_users if within else self.units[unit])
        return result

    def floor(self, name):
        """A floor's entry in metrics.json: its AUC and uAUC, and by how much the model's are above them."""

        def difference(values):
            return None if None in (values["auc"], values[name]) else values["auc"] - values[name]

        return {
            "auc": self.auc[name],
            "interval": self.intervals(name),
            "uauc": self.uauc[name],
            "uauc_weighted": self.uauc_weighted[name],
            "uauc_interval": self.intervals(name, within=True),
            "difference": {
                "auc": difference(self.auc),
                "interval": self.intervals("auc", minus=name),
                "uauc": difference(self.uauc),
                "uauc_interval": self.intervals("auc", minus=name, within=True),
            },
        }


def to_best_floor(floors, metric):
    """{"floor": name, ...} with the difference to the floor that is best in `metric`; None if there is none."""
    defined = [name for name in floors if floors[name][metric] is not None]
    best = max(defined, key=lambda name: floors[name][metric], default=None)
    return best and {"floor": best, **floors[best]["difference"]}


def check_predictions(labels, p_yes, p_no):
    """The three as int64 and float64 arrays; InputError, naming the row, unless they are labels and probabilities."""
    labels, p_yes, p_no = np.asarray(labels), np.asarray(p_yes, np.float64), np.asarray(p_no, np.float64)
    if not len(labels) == len(p_yes) == len(p_no):
        raise InputError(
            f"{len(labels)} labels, {len(p_yes)} p_yes and {len(p_no)} p_no: the three numbers must be equal"
        )
    if len(labels) == 0:
        raise InputError("no predictions")
    for name, bad, wanted in (
        ("label", ~np.isin(labels, (0, 1)), "0 or 1"),
        ("p_yes", ~((p_yes >= 0) & (p_yes <= 1 + 1e-6)), "a probability"),  # a float32 softmax may round above 1
        ("p_no", ~((p_no >= 0) & (p_no <= 1 + 1e-6)), "a probability"),
    ):
        if bad.any():
            row = int(bad.argmax())
            value = {"label": labels, "p_yes": p_yes, "p_no": p_no}[name][row]
            raise InputError(f"prediction of row {row + 1}: {name} is {value}, not {wanted} ({bad.sum()} such rows)")
    return labels.astype(np.int64), p_yes, p_no


def known_users(preferences, labels, users=None, source="given"):
    """(ids, their source): those given, else inferred from overlapping windows, else (None, None)."""
    if users is not None:
        return np.asarray(users), source
    if preferences is not None:
        return infer_users(preferences, labels), INFERRED
    return None, None


def predictions_rows(labels, p_yes, p_no, preferences=None, users=None, floors=None):
    """The lines of `predictions.jsonl`: {"row" (from 1), "label", "score" (published), "p_yes", "p_no", "history_size",
    "user", "floors": {name: score}}; size and user are None and floors is {} where not known."""
    labels, p_yes, p_no = check_predictions(labels, p_yes, p_no)
    users, _ = known_users(preferences, labels, users)
    floors = floor_scores(preferences) if floors is None else floors
    floor_rows = [dict(zip(floors, row, strict=True)) for row in zip(*floors.values(), strict=True)]
    columns = {
        "row": range(1, len(labels) + 1),
        "label": labels,
        "score": two_probabilities_to_score(p_yes, p_no),
        "p_yes": p_yes,
        "p_no": p_no,
        "history_size": [None] * len(labels) if preferences is None else [len(p.history) for p in preferences],
        "user": [None] * len(labels) if users is None else users,
        "floors": floor_rows or [{}] * len(labels),
    }
    return [plain_json(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def write_evaluation(folder, metrics, predictions):
    """Write `predictions.jsonl`, then `metrics.json`, each whole, into `folder`."""
    with whole_file(Path(folder) / "predictions.jsonl") as file:
        file.writelines(json.dumps(row) + "\n" for row in predictions)
    write_json(Path(folder) / "metrics.json", plain_json(metrics))


def read_metrics(folder):
    """The content of `folder/metrics.json`. Raises InputError if it is missing, damaged, or not in its format."""
    from tlrec.evaluation.formats import Metrics  # imports pydantic; not at the top, so that --help is quick

    path = Path(folder) / "metrics.json"
    return validate(read_json(path), Metrics, path)


def read_evaluation(folder):
    """What `write_evaluation` wrote: (metrics, predictions), after checking that they belong together.

    predictions is a dict of (n,) arrays: label, p_yes, p_no, score, user (None if not known), floors (a dict of them).
    Raises InputError, naming file and row, if one is missing, damaged or not in its format, or if the AUC of
    metrics.json is not that of predictions.jsonl.
    """
    metrics = read_metrics(folder)
    path = Path(folder) / "predictions.jsonl"
    rows = _read_predictions(path)
    columns = {name: [row[name] for row in rows] for name in ("label", "p_yes", "p_no", "user")}
    try:
        labels, p_yes, p_no = check_predictions(columns["label"], columns["p_yes"], columns["p_no"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    names = rows[0]["floors"].keys()
    for number, row in enumerate(rows, start=1):
        if row["floors"].keys() != names:
            raise InputError(f"{path}: row {number}: its floors differ from those of row 1; evaluate again")
    floors = {name: np.array([row["floors"][name] for row in rows], float) for name in names}
    score = two_probabilities_to_score(p_yes, p_no)
    found, said = auc(labels, score), metrics["auc"]
    if (found is None) != (said is None) or (said is not None and abs(found - said) > 1e-9):
        raise InputError(f"{path}: its AUC is {found}, metrics.json says {said}; evaluate again")
    users = None if None in columns["user"] else np.asarray(columns["user"])
    predictions = {"label": labels, "p_yes": p_yes, "p_no": p_no, "score": score, "user": users, "floors": floors}
    return metrics, predictions


def _read_predictions(path):
    """The rows of a predictions.jsonl as a list of dicts."""
    from tlrec.evaluation.formats import Prediction

    lines = read_bytes(path).split(b"\n")
    if not lines[-1]:
        lines.pop()
    rows = [parse_json(line, f"{path}: row {number}") for number, line in enumerate(lines, start=1)]
    for number, row in enumerate(rows, start=1):
        validate(row, Prediction, f"{path}: row {number}")
    return rows


def results_table(metrics):
    """A small plain-text table of what `summarise` returns: AUC, floors and difference with intervals, the same within
    users, then the rest."""
    n, users = metrics["n"], metrics["users"]
    level = f"{metrics['intervals']['level']:.0%}"
    known = f", {users['n']} users ({users['source']})" if users["n"] else ""
    lines = [f"{n} rows, {metrics['n_positive']} liked{known}"]
    lines.append(f"{'':<26}{'':>8}  {f'{level} over rows':<18}{f'{level} over users':<18}".rstrip())

    def line(name, value, intervals, sign=""):
        cells = "".join(f"{_interval_text(intervals.get(unit), sign):<18}" for unit in ("rows", "users"))
        lines.append(f"{name:<26}{_number_text(value, sign):>8}  {cells}".rstrip())

    line("AUC (published)", metrics["auc"], metrics["intervals"]["auc"])
    line("AUC (log-odds)", metrics["auc_logodds"], metrics["intervals"]["auc_logodds"])
    for name, floor in metrics["floors"].items():
        line(f"floor: {name}", floor["auc"], floor["interval"])
    if best := metrics["difference_to_best_floor"]:
        line(f"AUC - {best['floor']}", best["auc"], best["interval"], "+")
    if metrics.get("uauc_users"):
        line(f"uAUC ({metrics['uauc_users']} users)", metrics["uauc"], metrics["intervals"]["uauc"])
        line("uAUC, weighted by rows", metrics["uauc_weighted"], {})
        for name, floor in metrics["floors"].items():
            line(f"floor uAUC: {name}", floor["uauc"], floor["uauc_interval"])
        if best := metrics["uauc_difference_to_best_floor"]:
            line(f"uAUC - {best['floor']}", best["uauc"], best["uauc_interval"], "+")
    others = ("accuracy", "log_loss", "brier", "ece", "answer_mass")
    lines.append("  ".join(f"{name} {_number_text(metrics[name])}" for name in others))
    return "\n".join(lines)


def _number_text(value, sign=""):
    return "-" if value is None else f"{value:{sign}.4f}"


def _interval_text(bounds, sign=""):
    return "-" if bounds is None else f"{bounds[0]:{sign}.4f} {bounds[1]:{sign}.4f}"


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


def finished_evaluation(folder, test, adapter, base, scoring):
    """The metrics in `folder` if they are of this evaluation, else None; files are compared by content.

    test: EvaluationSet. adapter: its folder, None for the base model alone. base: its identity. scoring: the settings of a
    score, whose "auto" stands for what the earlier evaluation resolved. A damaged file counts as none.
    """
    try:
        metrics, _ = read_evaluation(folder)
    except InputError:
        return None
    run = metrics["run"]
    wanted = {name: file.sha256 for name, file in (("test", test), ("train", test.train)) if file is not None}
    found = {name: file["sha256"] for name, file in run["data"].items() if name in ("test", "train")}
    settings = {name: value for name, value in scoring.items() if value != "auto"}
    same = (
        found == wanted
        and base is not None
        and run.get("base") == base
        and settings.items() <= (run.get("scoring") or {}).items()
        and (run.get("adapter") or {}).get("sha256") == (adapter and sha256(adapter_weights(adapter)))
    )
    return metrics if same else None


def record_evaluation(folder, script, arguments, test, scores, adapter=None, valid=None, **facts):
    """Summarise `scores` of the EvaluationSet `test`, write both files into `folder` (None writes nothing), return the
    metrics.

    scores: tlrec.model.scores.Scores. adapter: the adapter folder, None for the base model alone. valid: the
    EvaluationSet that this run itself selected on, as a baseline does; that of a tuned model is in the adapter's run.
    """
    predictions = (test.labels, scores.p_yes, scores.p_no, test.preferences)
    metrics = summarise(*predictions, floors=test.floors, users=test.users, source=INFERRED)
    files = {"test": test, "train": test.train, "valid": valid}
    data = {name: describe_records(file) for name, file in files.items() if file is not None}
    results = {"truncated": {"test": scores.truncated}, "seconds_scoring": round(scores.seconds, 2)}
    metrics["run"] = describe_run(script, arguments, data, results, adapter=describe_adapter(adapter), **facts)
    if folder is not None:
        write_evaluation(folder, metrics, predictions_rows(*predictions, users=test.users, floors=test.floors))
    return metrics
