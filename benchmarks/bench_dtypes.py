"""bfloat16 compared with float32 on the same rows: how much faster, and by how much do the scores differ?

    python benchmarks/bench_dtypes.py --base_model base_model/smollm2-135m --data rec_data/movie/test.json
    python benchmarks/bench_dtypes.py --base_model base_model/smollm2-135m --data rec_data/movie/test.json \
        --lora_weights instruction_model/movie/alpaca_instrument

A seeded draw of --rows rows is scored once in each number type, as evaluate.py scores them. Prints rows per second; P(Yes)
of each row in the two; and both AUCs with the paired interval of their difference, over users of the whole file.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import numpy as np
from scipy.stats import spearmanr

from benchmarks import measure
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.evaluation_set import EvaluationSet
from tlrec.evaluation.intervals import bootstrap_aucs, interval
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.files import plain_json, write_json
from tlrec.model.base_models import resolve_device
from tlrec.model.checks import check_base_model, check_lora_weights
from tlrec.model.identity import base_identity
from tlrec.model.setup import ModelSetup
from tlrec.runs import frame_of

TYPES = ("float32", "bfloat16")


def score(args, dtype, records):
    """tlrec.model.scores.Scores of the records in this number type."""
    setup = ModelSetup(args.base_model, args.device, dtype, "none", "auto", False)
    frame = frame_of(args.lora_weights, args.base_model) or "alpaca"
    scores = setup.scorer(records, frame, 512).score(setup.attach(args.lora_weights))
    setup.forget()
    return scores


def compare_types(labels, scores, users):
    """What the two number types differ by, as a dict. scores: {type: Scores}; users: (n,) ids, or None."""
    published = [two_probabilities_to_score(scores[name].p_yes, scores[name].p_no) for name in TYPES]
    differences = np.abs(scores[TYPES[0]].p_yes - scores[TYPES[1]].p_yes)
    samples = bootstrap_aucs(labels, published, users)
    units = len(labels) if users is None else len(np.unique(users))
    aucs = dict(zip(TYPES, (auc(labels, values) for values in published)))
    return {
        "auc": aucs,
        "difference": aucs["bfloat16"] - aucs["float32"],
        "interval": interval(samples[:, 1] - samples[:, 0], units),
        "rank_correlation": float(spearmanr(*published)[0]),
        "p_yes_difference": {
            "median": float(np.median(differences)),
            "99 %": float(np.quantile(differences, 0.99)),
            "largest": float(differences.max()),
        },
        "rows_per_second": {name: len(labels) / scores[name].seconds for name in TYPES},
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--base_model", required=True, help="folder of a causal LM")
    add("--data", required=True, type=Path, help="labelled records")
    add("--lora_weights", help="adapter folder (default: the base model alone)")
    add("--rows", type=int, default=300, help="drawn from the file (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)

    # 1. Rows, and users as the whole file tells them
    check_base_model(args.base_model)
    if args.lora_weights:
        check_lora_weights(args.lora_weights, args.base_model, base_identity(args.base_model), False)
    file = EvaluationSet(args.data)
    if not 2 <= args.rows <= len(file):
        raise InputError(f"--rows {args.rows}: {args.data} has {len(file)} rows; give 2 or more of them")
    drawn = np.random.default_rng(args.seed).permutation(len(file))[: args.rows]
    records, labels = [file.records[row] for row in drawn], file.labels[drawn]
    if labels.min() == labels.max():
        raise InputError(f"--rows {args.rows}: all drawn rows have one label, AUC is not defined; give more rows")
    users = None if file.users is None else file.users[drawn]

    # 2. Score them in both
    report = measure.environment(resolve_device(args.device))
    scores = {name: score(args, name, records) for name in TYPES}
    report |= compare_types(labels, scores, users) | {"rows": args.rows, "seed": args.seed}

    # 3. Print
    print(f"{args.rows} rows of {args.data} (seed {args.seed}), {report['hardware']}, {report['date']}")
    for name in TYPES:
        print(f"{name:<10}AUC {report['auc'][name]:.4f}   {report['rows_per_second'][name]:.1f} rows/s")
    bounds = report["interval"]
    shown = "not defined" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"
    over = "rows" if users is None else f"{len(np.unique(users))} users"
    print(f"bfloat16 - float32: AUC {report['difference']:+.4f}, 95 % {shown} over {over}")
    words = ", ".join(f"{name} {value:.4f}" for name, value in report["p_yes_difference"].items())
    print(f"P(Yes) differs by: {words}; rank correlation of the scores {report['rank_correlation']:.4f}")
    if args.output:
        write_json(args.output, plain_json(report))
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
