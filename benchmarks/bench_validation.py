"""One validation during tuning (AUC and loss over prompt and answer): ours compared with full-vocabulary logits.

    python benchmarks/bench_validation.py --shape 20m --rows 128 --output validation.json
    python benchmarks/bench_validation.py --shape 7b --rows 1000 --output validation_7b.json   # on a GPU

published   batches of 8 (the Trainer's default) in the order of the file, padded on the left; logits of every position
            in float32, their loss, and a softmax over all of them, from which the answer's row is picked
            (`preprocess_logits_for_metrics`), so that logits are freed after each batch.
ours        tlrec.model.scoring: the shared prefix computed once, the head at a few positions at a time, LoRA merged.
Records are tokenised beforehand, as in tuning. Asserts that both give the same log-probabilities, AUC and loss.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import numpy as np
import torch

from benchmarks import measure, models
from tlrec.data.records import labels_of
from tlrec.errors import one_line_errors
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.files import write_json
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.scoring import Scorer

FRAME = load_frame("alpaca")
OURS, PUBLISHED = "ours", "published"


def published(model, tokenizer, rows):
    """((n, 2) log-probabilities of Yes and No, mean loss per token)."""
    yes, no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    log_p, total, count = [], 0.0, 0
    for start in range(0, len(rows), 8):
        batch = rows[start : start + 8]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in batch], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=model.device)
        labels = torch.where(mask == 1, ids, -100)
        labels[ids == tokenizer.bos_token_id] = -100  # after padding it would be predicted, but not in the longest row
        with torch.no_grad():
            outputs = model(input_ids=ids, attention_mask=mask, labels=labels)
            probabilities = outputs.logits.float().softmax(-1)
        tokens = (labels[:, 1:] != -100).sum().item()
        total += outputs.loss.item() * tokens
        count += tokens
        # The last Yes or No of a row is its answer; the position before it predicts it.
        answers = ((labels == yes) | (labels == no)).long().cumsum(1).argmax(1)
        chosen = probabilities[torch.arange(len(batch)), answers - 1][:, [yes, no]]
        log_p.append(chosen.double().log().cpu().numpy())
    return np.concatenate(log_p), total / count


def ours(model, scorer):
    scores = scorer.score(model)
    return np.stack([scores.log_p_yes, scores.log_p_no], axis=1), scores.loss


def prepare(args):
    device = base_models.resolve_device(args.device)
    tokenizer = models.load_tokenizer()
    records, _ = models.load_records(args.data, args.rows)
    scorer = Scorer(tokenizer, records, FRAME, cutoff_len=512, with_loss=True)
    model = models.make_model(args.shape, device, base_models.resolve_dtype(args.dtype, device))
    return {PUBLISHED: lambda: published(model, tokenizer, scorer.rows), OURS: lambda: ours(model, scorer)}


def operations(args, records):
    """Operations needed: every row through the model once, the shared prefix once, and the head at every position."""
    scorer = Scorer(models.load_tokenizer(), records, FRAME, cutoff_len=512, with_loss=True)
    lengths = [len(row) for row in scorer.rows]
    heads = scorer.prefix_len + sum(length - scorer.prefix_len for length in lengths)
    return models.forward_operations(models.config_of(args.shape), lengths, scorer.prefix_len, heads)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--shape", choices=models.SHAPES, default="20m", help="(default: %(default)s)")
    add(
        "--data",
        type=Path,
        default=models.MOVIE_TEST,
        help="records (default: the Movie test file, or else demo records)",
    )
    add("--rows", type=int, default=128, help="(default: %(default)s)")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)

    # 1. Measure
    device = base_models.resolve_device(args.device)
    dtype = base_models.resolve_dtype(args.dtype, device)
    records, source = models.load_records(args.data, args.rows)
    environment = measure.environment(device)
    figures, results = measure.measure(prepare, args, device)

    # 2. Compare
    medians = {name: figure["median"] for name, figure in figures.items()}
    log_p = {name: result[0] for name, result in results.items()}
    losses = {name: result[1] for name, result in results.items()}
    labels = labels_of(records)
    aucs = {name: float(auc(labels, two_probabilities_to_score(*np.exp(values.T)))) for name, values in log_p.items()}
    report = environment | {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "rows_from": source,
        "procedures": figures,
        "published_over_ours": medians[PUBLISHED] / medians[OURS],
        "memory_ours_over_published": measure.ratio_of_peaks(figures, OURS, PUBLISHED),
        "auc": aucs,
        "loss": losses,
        "largest_difference": float(abs(log_p[OURS] - log_p[PUBLISHED]).max()),
    }
    if device.type == "cuda":
        report["matrix_rate"] = measure.matrix_rate()
        report["share_of_matrix_rate"] = operations(args, records) / medians[OURS] / report["matrix_rate"]

    # 3. Print
    print(f"validation on {args.rows} rows of {source}, shape {args.shape}, {environment['hardware']}")
    measure.print_table(
        ["", "seconds", "rows/s", "times as fast", "peak GB"],
        [
            [
                name,
                figure["median"],
                args.rows / figure["median"],
                medians[PUBLISHED] / figure["median"],
                figure["peak_memory_gb"],
            ]
            for name, figure in figures.items()
        ],
    )
    if device.type == "cuda":
        print(
            f"share of the measured bf16 matrix rate ({report['matrix_rate'] / 1e12:.0f} TFLOP/s): "
            f"{report['share_of_matrix_rate']:.0%}"
        )
    if args.output:
        write_json(args.output, report)
    measure.check_same_scores(log_p, PUBLISHED, aucs, dtype)
    assert abs(losses[OURS] - losses[PUBLISHED]) < measure.TOLERANCE[dtype], f"losses differ: {losses}"
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
