"""Writes what an evaluation found: `metrics.json` and `predictions.jsonl`, with the run that made them."""

from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import sha256
from tlrec.metrics import predictions_rows, summarise, write_evaluation
from tlrec.provenance import describe_adapter, describe_run, read_json
from tlrec.records import labels_of, parse_input


def check_evaluation_dir(folder, test_data_path, overwrite):
    """Raise InputError if `folder` holds the evaluation of other test data (unless `overwrite`)."""
    path = Path(folder) / "metrics.json"
    if overwrite or not path.exists():
        return
    before = read_json(path).get("run", {}).get("data", {}).get("test", {})
    if before.get("sha256") != sha256(test_data_path):
        raise InputError(
            f"{path}: is the evaluation on other data ({before.get('path')}); give --output_dir or --overwrite"
        )


def record_evaluation(folder, script, arguments, test_data_path, records, scores, train_data_path=None,
                      train_records=None, adapter=None, val_data_path=None, **facts):  # fmt: skip
    """Summarise `scores` of `records`, write both files into `folder` (None writes nothing), return the metrics.

    adapter: the adapter folder, None for the base model alone. val_data_path: where this very run selected on it, as a
    baseline does; an adapter's run.json says it for a tuned model. Floors need records in the published form and are left
    out, and so are users, where a row has another.
    """
    try:
        preferences = [parse_input(record["input"]) for record in records]
    except ValueError:
        preferences = None
    labels = labels_of(records)
    metrics = summarise(labels, scores.p_yes, scores.p_no, preferences, train_records)
    data = {"test": test_data_path} | ({"train": train_data_path} if train_records else {})
    data |= {"valid": val_data_path} if val_data_path else {}
    results = {"truncated": {"test": scores.truncated}, "seconds_scoring": round(scores.seconds, 2)}
    metrics["run"] = describe_run(script, arguments, data, results, adapter=describe_adapter(adapter), **facts)
    if folder is not None:
        rows = predictions_rows(labels, scores.p_yes, scores.p_no, preferences, train_records=train_records)
        write_evaluation(folder, metrics, rows)
    return metrics
