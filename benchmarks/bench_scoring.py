"""Scoring a test set: ours compared with the published procedure, and with ours without the shared prefix.

    python benchmarks/bench_scoring.py --shape 20m --rows 128 --output scoring.json
    python benchmarks/bench_scoring.py --shape 7b --rows 1000 --repeats 2 --output scoring_7b.json   # on a GPU

published   batches of 16 in the order of the file, padded on the left, `generate` of 128 tokens, of which only the
            distribution of the first is read. A model that ends its answers stops earlier, as with --max_new_tokens 4.
ours        tlrec.model.scoring: one forward pass per row, sorted by length, shared prefix computed once, LoRA merged.
Both include tokenisation, both have an adapter. Asserts that all give the same log-probabilities and the same AUC.
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
from tlrec.model.scoring import Scorer, score_records

FRAME = load_frame("alpaca")
OURS, NO_PREFIX, PUBLISHED = "ours", "ours, no shared prefix", "published"


def published(model, tokenizer, records, max_new_tokens):
    """(n, 2) log-probabilities of Yes and No."""
    yes_no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    log_p = []
    for start in range(0, len(records), 16):
        prompts = [FRAME.prompt(record) for record in records[start : start + 16]]
        rows = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(prompts, add_special_tokens=False).input_ids]
        longest = max(map(len, rows))
        input_ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
        with torch.no_grad():
            generated = model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=0,
                output_scores=True,
                return_dict_in_generate=True,
            )
        log_p.append(generated.scores[0].float().log_softmax(-1)[:, yes_no].cpu().numpy())
    return np.concatenate(log_p)


def ours(model, tokenizer, records, **options):
    scores = score_records(model, tokenizer, records, FRAME, **options)
    return np.stack([scores.log_p_yes, scores.log_p_no], axis=1)


def prepare(args):
    device = base_models.resolve_device(args.device)
    tokenizer = models.load_tokenizer()
    records, _ = models.load_records(args.data, args.rows)
    model = models.make_model(args.shape, device, base_models.resolve_dtype(args.dtype, device))
    return {
        PUBLISHED: lambda: published(model, tokenizer, records, args.max_new_tokens),
        NO_PREFIX: lambda: ours(model, tokenizer, records, share_prefix=False),
        OURS: lambda: ours(model, tokenizer, records),
    }


def operations(args, records, prefix=True):
    """Operations needed: every row through the model once (the shared prefix once), the head at one position."""
    scorer = Scorer(models.load_tokenizer(), records, FRAME, cutoff_len=512)
    lengths = [len(row) for row in scorer.rows]
    return models.forward_operations(
        models.config_of(args.shape), lengths, scorer.prefix_len if prefix else 0, heads=len(records)
    )


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
    add(
        "--max_new_tokens",
        type=int,
        default=128,
        help="tokens that the published procedure generates (default: %(default)s)",
    )
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)

    # 1. Measure
    device = base_models.resolve_device(args.device)
    records, source = models.load_records(args.data, args.rows)
    environment = measure.environment(device)
    figures, results = measure.measure(prepare, args, device)

    # 2. Compare
    medians = {name: figure["median"] for name, figure in figures.items()}
    labels = labels_of(records)
    aucs = {name: float(auc(labels, two_probabilities_to_score(*np.exp(log_p.T)))) for name, log_p in results.items()}
    report = environment | {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "rows_from": source,
        "procedures": figures,
        "published_over_ours": medians[PUBLISHED] / medians[OURS],
        "no_prefix_over_ours": medians[NO_PREFIX] / medians[OURS],
        "auc": aucs,
        "largest_difference": {name: float(abs(log_p - results[PUBLISHED]).max()) for name, log_p in results.items()},
    }
    if device.type == "cuda":
        report["matrix_rate"] = measure.matrix_rate()
        report["share_of_matrix_rate"] = operations(args, records) / medians[OURS] / report["matrix_rate"]

    # 3. Print
    print(f"scoring {args.rows} rows of {source}, shape {args.shape}, {environment['hardware']}")
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
    print(f"the shared prefix alone: {report['no_prefix_over_ours']:.2f} times as fast")
    if device.type == "cuda":
        print(
            f"share of the measured bf16 matrix rate ({report['matrix_rate'] / 1e12:.0f} TFLOP/s): "
            f"{report['share_of_matrix_rate']:.0%}"
        )
    if args.output:
        write_json(args.output, report)
    measure.check_same_scores(results, PUBLISHED, aucs, base_models.resolve_dtype(args.dtype, device))
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
