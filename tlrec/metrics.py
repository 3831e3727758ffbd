"""The numbers of an evaluation, each beside the floor that needs no training and an interval that says what is noise.

Two scores are made of the probabilities of the two answers, p_yes and p_no:
    published    softmax over the two *probabilities*, as the published code does; it orders rows by p_yes - p_no
    log-odds     log p_yes - log p_no, the model's own order between the two answers
Everything that needs a probability (accuracy, log-loss, Brier, calibration) uses P(Yes) = p_yes / (p_yes + p_no).

Intervals are bootstrap intervals, over rows and over users. Rows of one user overlap and are not independent, so the
interval over users is the honest one; that over rows stands beside it because it is what the field prints, if anything.
"""

import json
from pathlib import Path

import numpy as np

from tlrec.errors import InputError
from tlrec.files import whole_file, write_json
from tlrec.provenance import plain_json, read_json
from tlrec.records import labels_of, parse_input
from tlrec.windows import infer_users

LEVEL = 0.95
RELIABILITY_BINS = 10
ITEM_PRIOR = 5  # ratings' worth of "half of them like it" in an item's like-rate
CELLS = 4_000_000  # resamples x rows held at a time

# ------------------------------------------------------------------------------------------------ all of metrics.json


def summarise(labels, p_yes, p_no, preferences=None, train_records=None, users=None, seed=0, resamples=2000):
    """Everything that `metrics.json` says about one evaluation, as a dict of plain JSON values.

    labels: (n,) of 0 and 1. p_yes, p_no: (n,) probabilities of the two answers. preferences: the rows'
    `tlrec.records.Preference`s; without them there are no floors and no slices. train_records: records of the target's
    train split, for the floors that know the items. users: (n,) ids; by default inferred from overlapping windows.
    Values that are not defined (AUC of one class, the interval over a single user) are None, never 0.5.
    Raises InputError, naming the row, for what are not labels or probabilities.
    """
    from sklearn.metrics import brier_score_loss, log_loss

    labels, p_yes, p_no = check_predictions(labels, p_yes, p_no)
    users, source = known_users(preferences, labels, users)
    probability = probability_of_yes(p_yes, p_no)
    scores = {"auc": two_probabilities_to_score(p_yes, p_no), "auc_logodds": log_odds(p_yes, p_no)}
    floors = floor_scores(preferences, train_records)
    scores |= floors
    aucs = {name: auc(labels, score) for name, score in scores.items()}
    column = {name: number for number, name in enumerate(scores)}
    samples = {"rows": bootstrap_aucs(labels, list(scores.values()), None, resamples, seed)}
    units = {"rows": len(labels)}
    if users is not None:
        samples["users"] = bootstrap_aucs(labels, list(scores.values()), users, resamples, seed)
        units["users"] = len(np.unique(users))

    def intervals(name):
        return {unit: interval(sample[:, column[name]], units[unit]) for unit, sample in samples.items()}

    def difference_to(floor):
        paired = {unit: sample[:, column["auc"]] - sample[:, column[floor]] for unit, sample in samples.items()}
        return {
            "auc": None if aucs["auc"] is None else aucs["auc"] - aucs[floor],
            "interval": {unit: interval(sample, units[unit]) for unit, sample in paired.items()},
        }

    floors = {
        name: {"auc": aucs[name], "interval": intervals(name), "difference": difference_to(name)} for name in floors
    }
    best = max((name for name in floors if aucs[name] is not None), key=aucs.get, default=None)
    reliability = reliability_bins(labels, probability)
    return plain_json(
        {
            "auc": aucs["auc"],
            "auc_logodds": aucs["auc_logodds"],
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
                "auc": intervals("auc"),
                "auc_logodds": intervals("auc_logodds"),
            },
            "users": {"n": units.get("users"), "source": source},
            "floors": floors,
            "difference_to_best_floor": {"floor": best, **floors[best]["difference"]} if best else None,
            "reliability": reliability,
            "by_history_size": by_history_size(labels, scores["auc"], preferences),
            "by_share_of_likes": by_share_of_likes(labels, scores["auc"], preferences),
        }
    )


def check_predictions(labels, p_yes, p_no):
    """The three as int64 and float64 arrays; InputError, naming the row, unless they are labels and probabilities."""
    labels, p_yes, p_no = np.asarray(labels), np.asarray(p_yes, np.float64), np.asarray(p_no, np.float64)
    if not len(labels) == len(p_yes) == len(p_no):
        raise InputError(f"{len(labels)} labels, {len(p_yes)} p_yes and {len(p_no)} p_no: they must be equally many")
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


def known_users(preferences, labels, users=None):
    """(ids, where they are from): those given, else inferred from overlapping windows, else (None, None)."""
    if users is not None:
        return np.asarray(users), "given"
    if preferences is not None:
        return infer_users(preferences, labels), "inferred from overlapping windows"
    return None, None


# ----------------------------------------------------------------------------------------------- scores and floors


def two_probabilities_to_score(p_yes, p_no):
    """The published score: softmax over (p_yes, p_no) once more, first component; orders rows by p_yes - p_no."""
    return 1 / (1 + np.exp(np.subtract(p_no, p_yes, dtype=np.float64)))


def log_odds(p_yes, p_no):
    """log p_yes - log p_no, infinite where one of them is 0 and 0 where both are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.log(p_yes) - np.log(p_no), nan=0.0, posinf=np.inf, neginf=-np.inf)


def probability_of_yes(p_yes, p_no):
    """P(Yes) given that the answer is one of the two; 0.5 where both are 0."""
    p_yes, p_no = np.asarray(p_yes, np.float64), np.asarray(p_no, np.float64)
    mass = p_yes + p_no
    return np.divide(p_yes, mass, out=np.full(len(mass), 0.5), where=mass > 0)


def history_floor(preferences):
    """Share of liked items in the history, (likes + 0.5) / (items + 1), as an (n,) score. Needs no training."""
    return np.array([(len(p.likes) + 0.5) / (len(p.history) + 1) for p in preferences])


def item_floor(preferences, train_records):
    """Like-rate of each target among the targets of `train_records`, as an (n,) score.

    (liked + 2.5) / (times + 5): `ITEM_PRIOR` made-up ratings, half of them likes, hold back the rates of items that
    were seen once or twice; an item never seen gets 0.5. Only targets count, not histories: with overlapping windows
    a history repeats the same rating up to ten times. Raises InputError for a train record in another form.
    """
    times, liked = {}, {}
    for row, (record, label) in enumerate(zip(train_records, labels_of(train_records), strict=True), start=1):
        try:
            target = parse_input(record["input"]).target
        except ValueError as error:
            raise InputError(f"training data: row {row}: {error}") from None
        times[target] = times.get(target, 0) + 1
        liked[target] = liked.get(target, 0) + label
    targets = [p.target for p in preferences]
    return np.array([(liked.get(t, 0) + ITEM_PRIOR / 2) / (times.get(t, 0) + ITEM_PRIOR) for t in targets])


def floor_scores(preferences, train_records=None):
    """{name: (n,) score} of the rules that need no language model: "history", and with train records "item" and
    "history + item", the sum of the two rates. {} without preferences."""
    if preferences is None:
        return {}
    floors = {"history": history_floor(preferences)}
    if train_records is not None:
        floors["item"] = item_floor(preferences, train_records)
        floors["history + item"] = floors["history"] + floors["item"]
    return floors


# ------------------------------------------------------------------------------------------ AUC and its uncertainty


def auc(labels, scores):
    """Area under the ROC curve (scikit-learn's), None if only one class occurs. Raises InputError for scores of NaN."""
    from sklearn.metrics import roc_auc_score

    if bad := int(np.isnan(scores).sum()):
        raise InputError(f"{bad} of {len(scores)} scores are NaN: the model has diverged or its --dtype overflows")
    if np.min(labels) == np.max(labels):
        return None
    ranks = np.unique(scores, return_inverse=True)[1]  # log-odds may be infinite, their ranks are not
    return float(roc_auc_score(labels, ranks))


def bootstrap_aucs(labels, scores, groups=None, resamples=2000, seed=0):
    """AUC of k scores on the same bootstrap resamples, so that their differences are paired.

    labels: (n,) of 0 and 1. scores: k arrays of shape (n,). groups: (n,) ids; whole groups (users) are drawn with
    replacement instead of rows. Returns (resamples, k); NaN where a resample holds one class only.

    A resample is a count for every row, so nothing is sorted again: with the rows' positions in the sorted scores
    known, the AUC is the share of (positive, negative) pairs in the right order, each pair weighted by its counts.
    """
    labels = np.asarray(labels)
    members = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(members.max()) + 1
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    places = []
    for score in scores:
        score = np.asarray(score, np.float64)
        order = negative[np.argsort(score[negative], kind="stable")]
        below = np.searchsorted(score[order], score[positive], side="left")
        not_above = np.searchsorted(score[order], score[positive], side="right")
        places.append((order, below, not_above))

    generator = np.random.default_rng(seed)
    chunk = max(1, CELLS // len(labels))
    result = np.full((resamples, len(scores)), np.nan)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        draws = generator.integers(units, size=(size, units)) * size + np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=units * size).reshape(units, size)  # unit x resample
        counts = counts[members].astype(np.float64)  # row x resample
        positive_counts = counts[positive]
        pairs = positive_counts.sum(axis=0) * counts[negative].sum(axis=0)
        for column, (order, below, not_above) in enumerate(places):
            cumulated = np.zeros((len(order) + 1, size))
            np.cumsum(counts[order], axis=0, out=cumulated[1:])
            right = np.einsum("ij,ij->j", positive_counts, cumulated[below])
            right += np.einsum("ij,ij->j", positive_counts, cumulated[not_above])  # ties count half
            np.divide(right / 2, pairs, out=result[start : start + size, column], where=pairs > 0)
    return result


def interval(samples, units):
    """[low, high] that holds LEVEL of the bootstrap `samples`, None with fewer than two units or defined samples.

    units: how many rows or users were resampled. The percentiles are the "expanded" ones of Hesterberg (2015, What
    Teachers Should Know About the Bootstrap, section 5.3.3): with few units plain percentiles are too narrow, as is a
    normal interval with its 1/n variance, so they are widened as the t interval is. No change for a thousand rows.
    """
    from scipy.stats import norm, t

    samples = samples[~np.isnan(samples)]
    if units < 2 or len(samples) < 2:
        return None
    tail = norm.cdf(np.sqrt(units / (units - 1)) * t.ppf((1 - LEVEL) / 2, units - 1))
    return np.quantile(samples, [tail, 1 - tail]).tolist()


def delong(labels, scores):
    """AUCs of k scores on the same rows and their covariance matrix, without resampling: (k,), (k, k).

    Fast algorithm by midranks of Sun and Xu (2014, IEEE Signal Processing Letters 21(11), 1389-1393) for the estimator
    of DeLong, DeLong and Clarke-Pearson (1988). Takes rows as independent. Raises InputError with less than two rows of
    a class.
    """
    from scipy.stats import rankdata

    labels, scores = np.asarray(labels), np.atleast_2d(scores)
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise InputError(f"DeLong needs two rows of each class, there are {m} liked and {n} disliked")
    ranks = rankdata(np.hstack([positive, negative]), axis=1)
    # Share of negatives below each positive, and of positives above each negative.
    below = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    above = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    covariance = np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n
    return below.mean(axis=1), covariance


def delong_test(labels, first, second):
    """Paired DeLong test of equal AUC: {"difference" (first - second), "standard_error", "z", "p" (two-sided)}.

    z and p are None where the two scores order the rows alike (no variance to divide by).
    """
    from scipy.stats import norm

    aucs, covariance = delong(labels, [first, second])
    error = np.sqrt(max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
    difference = aucs[0] - aucs[1]
    z = float(difference / error) if error > 1e-12 else None
    p = None if z is None else float(2 * norm.sf(abs(z)))
    return {"difference": float(difference), "standard_error": float(error), "z": z, "p": p}


# --------------------------------------------------------------------------------------------- calibration and slices


def reliability_bins(labels, probability, bins=RELIABILITY_BINS):
    """Rows by predicted P(Yes), in `bins` bins of equal width: a list of {"low", "high", "n", "mean_probability",
    "share_positive"}, the last two None where n is 0. A probability on an edge belongs to the bin above; 1 to the last.
    """
    labels, probability = np.asarray(labels), np.asarray(probability)
    members = np.minimum((probability * bins).astype(int), bins - 1)
    table = []
    for number in range(bins):
        inside = members == number
        some = inside.any()
        table.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "n": int(inside.sum()),
                "mean_probability": float(probability[inside].mean()) if some else None,
                "share_positive": float(labels[inside].mean()) if some else None,
            }
        )
    return table


def expected_calibration_error(bins):
    """ECE of `reliability_bins`: mean over rows of |share of Yes - mean P(Yes)| in their bin.

    Naeini, Cooper and Hauskrecht (2015, AAAI), for the probability of the positive class.
    """
    n = sum(bin["n"] for bin in bins)
    return sum(bin["n"] * abs(bin["share_positive"] - bin["mean_probability"]) for bin in bins if bin["n"]) / n


def by_history_size(labels, scores, preferences):
    """AUC by number of history items, those of ten and more together; None without preferences."""
    if preferences is None:
        return None
    sizes = np.array([min(len(p.history), 10) for p in preferences])
    return _slices(labels, scores, [(str(size) if size < 10 else "10+", sizes == size) for size in np.unique(sizes)])


def by_share_of_likes(labels, scores, preferences):
    """AUC by share of liked items in the history, in fifths; rows without history apart. None without preferences."""
    if preferences is None:
        return None
    fifths = np.array([min(5 * len(p.likes) // len(p.history), 4) if p.history else -1 for p in preferences])
    names = {-1: "no history", **{k: f"{20 * k}-{20 * (k + 1)} %" for k in range(5)}}
    return _slices(labels, scores, [(names[fifth], fifths == fifth) for fifth in np.unique(fifths)])


def _slices(labels, scores, parts):
    labels, scores = np.asarray(labels), np.asarray(scores)
    return [
        {"slice": name, "n": part.sum(), "n_positive": labels[part].sum(), "auc": auc(labels[part], scores[part])}
        for name, part in parts
    ]


# --------------------------------------------------------------------------------------------------- files and table


def predictions_rows(labels, p_yes, p_no, preferences=None, users=None, train_records=None):
    """The lines of `predictions.jsonl`: {"row" (from 1), "label", "score" (published), "p_yes", "p_no", "history_size",
    "user", "floors": {name: score}}; size and user are None and floors is {} where not known."""
    labels, p_yes, p_no = check_predictions(labels, p_yes, p_no)
    users, _ = known_users(preferences, labels, users)
    floors = floor_scores(preferences, train_records)
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


def read_evaluation(folder):
    """What `write_evaluation` wrote: (metrics, predictions), once they are known to belong together.

    predictions is a dict of (n,) arrays: label, p_yes, p_no, score, user (None if not known), floors (a dict of them).
    Raises InputError, naming file and row, if one is missing or damaged, holds what are not labels or probabilities, or
    if the AUC of metrics.json is not that of predictions.jsonl.
    """
    metrics = read_json(Path(folder) / "metrics.json", required=("auc", "intervals", "floors", "reliability", "run"))
    path = Path(folder) / "predictions.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = {name: [row[name] for row in rows] for name in ("label", "p_yes", "p_no", "user", "floors")}
        floors = {name: np.array([row[name] for row in columns["floors"]], float) for name in columns["floors"][0]}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; evaluate.py writes it") from None
    except KeyError as error:
        raise InputError(f"{path}: a row without {error}") from None
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: damaged: {error}") from None
    try:
        labels, p_yes, p_no = check_predictions(columns["label"], columns["p_yes"], columns["p_no"])
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    score = two_probabilities_to_score(p_yes, p_no)
    if (found := auc(labels, score)) != metrics["auc"] and not np.isclose(found or 0, metrics["auc"] or 0, atol=1e-9):
        raise InputError(f"{path}: its AUC is {found}, metrics.json says {metrics['auc']}; evaluate again")
    users = None if None in columns["user"] else np.asarray(columns["user"])
    predictions = {"label": labels, "p_yes": p_yes, "p_no": p_no, "score": score, "user": users, "floors": floors}
    return metrics, predictions


def results_table(metrics):
    """A small plain-text table of `summarise`'s dict: AUC, floors and difference with intervals, then the rest."""
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
    others = ("accuracy", "log_loss", "brier", "ece", "answer_mass")
    lines.append("  ".join(f"{name} {_number_text(metrics[name])}" for name in others))
    return "\n".join(lines)


def _number_text(value, sign=""):
    return "-" if value is None else f"{value:{sign}.4f}"


def _interval_text(bounds, sign=""):
    return "-" if bounds is None else f"{bounds[0]:{sign}.4f} {bounds[1]:{sign}.4f}"
