"""Scoring a test set, and one validation during tuning: ours compared with the published procedures.

    python benchmarks/bench_scoring.py --shape 20m --rows 128 --output scoring.json
    python benchmarks/bench_scoring.py --shape 7b --rows 1000 --repeats 2 --output scoring_7b.json   # on a GPU

published               batches of 16 in the order of the file, padded on the left, `generate` of --max_new_tokens tokens,
                        of which only the distribution of the first is read
ours                    tlrec.scoring.records: one forward pass per row, sorted by length, shared prefix computed once
published validation    batches of 8, padded on the left; logits of every position in float32 and a softmax over them all
validation              tlrec.scoring.records with the loss over prompt and answer, the head at a few positions at a time
Records of both validations are tokenised beforehand, as in tuning. Asserts that all give the same log-probabilities and
AUC, and both validations the same loss.
"""

import numpy as np
import torch

from benchmarks import measure, models
from tlrec.data.records import labels_of
from tlrec.errors import one_line_errors
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.scoring.records import Scorer, score_records

FRAME = load_frame("alpaca")
OURS, NO_PREFIX, PUBLISHED = "ours", "ours, no shared prefix", "published"
VALIDATION, PUBLISHED_VALIDATION = "validation", "published validation"
COMPARED_WITH = {OURS: PUBLISHED, NO_PREFIX: PUBLISHED, VALIDATION: PUBLISHED_VALIDATION}


def published(model, tokenizer, records, max_new_tokens):
    """((n, 2) log-probabilities of Yes and No, None)."""
    yes_no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    log_p = []
    for start in range(0, len(records), 16):
        prompts = [FRAME.prompt(record) for record in records[start : start + 16]]
        rows = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(prompts, add_special_tokens=False).input_ids]
        ids, mask = models.left_padded(rows, model.device)
        with torch.no_grad():
            generated = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=0,
                output_scores=True,
                return_dict_in_generate=True,
            )
        log_p.append(generated.scores[0].float().log_softmax(-1)[:, yes_no].cpu().numpy())
    return np.concatenate(log_p), None


def published_validation(model, tokenizer, rows):
    """((n, 2) log-probabilities of Yes and No, mean loss per token in nats)."""
    yes, no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    log_p, total, count = [], 0.0, 0
    for start in range(0, len(rows), 8):
        ids, mask = models.left_padded(rows[start : start + 8], model.device)
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
        chosen = probabilities[torch.arange(len(ids)), answers - 1][:, [yes, no]]
        log_p.append(chosen.double().log().cpu().numpy())
    return np.concatenate(log_p), total / count


def of_scores(scores):
    return np.stack([scores.log_p_yes, scores.log_p_no], axis=1), scores.loss


def prepare(args):
    device = base_models.resolve_device(args.device)
    tokenizer = models.load_tokenizer(args.shape)
    records = models.load_records(args.data, args.rows)
    model = models.make_model(args.shape, device, base_models.resolve_dtype(args.dtype, device))
    scorer = Scorer(tokenizer, records, FRAME, cutoff_len=512, with_loss=True)
    return {
        PUBLISHED: lambda: published(model, tokenizer, records, args.max_new_tokens),
        NO_PREFIX: lambda: of_scores(score_records(model, tokenizer, records, FRAME, share_prefix=False)),
        OURS: lambda: of_scores(score_records(model, tokenizer, records, FRAME)),
        PUBLISHED_VALIDATION: lambda: published_validation(model, tokenizer, scorer.rows),
        VALIDATION: lambda: of_scores(scorer.score(model)),
    }


def main(arguments=None):
    parser = measure.parser(__doc__)
    parser.add_argument("--max_new_tokens", type=int, default=128, help="of the published scoring (default: 128)")
    parser.add_argument("--dtype", choices=["auto", *measure.DTYPES], default="auto", help="(default: auto)")
    args = parser.parse_args(arguments)

    # 1. Measure
    device = base_models.resolve_device(args.device)
    dtype = base_models.resolve_dtype(args.dtype, device)
    figures, results = measure.measure(prepare, args)

    # 2. Compare
    log_p = {name: result[0] for name, result in results.items()}
    labels = labels_of(models.load_records(args.data, args.rows))
    aucs = {name: float(auc(labels, two_probabilities_to_score(*np.exp(each.T)))) for name, each in log_p.items()}
    losses = {name: results[name][1] for name in (VALIDATION, PUBLISHED_VALIDATION)}
    differences = {name: float(abs(each - log_p[PUBLISHED]).max()) for name, each in log_p.items()}
    table = measure.rates(figures, "rows/s", args.rows, COMPARED_WITH)
    facts = {"auc": aucs, "loss": losses, "largest_difference": differences}
    report = measure.report(args, device, procedures=figures, table=table, **facts)

    # 3. Print
    print(f"{args.rows} rows of {args.data}, {args.shape}, {report['hardware']}")
    measure.print_table(table)
    measure.check_same_scores(log_p, PUBLISHED, aucs, dtype)
    assert abs(losses[VALIDATION] - losses[PUBLISHED_VALIDATION]) < measure.TOLERANCE[dtype], f"losses differ: {losses}"
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
