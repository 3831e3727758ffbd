"""Ours beside what a user would pick instead: scoring and tuning, with the same model, rows, number type and threads.

    bash benchmarks/peers.sh                                        # the peers, into ../tlrec-peers
    python benchmarks/bench_peers.py --shape smollm2 --output peers.json
    python benchmarks/bench_peers.py --device cuda --shape 7b --rows 1000 --steps 8 --output peers_7b.json

scoring     log P(Yes) and log P(No) of every row: tlrec.scoring.records, lm-evaluation-harness, vLLM
tuning      LoRA on the query and value projections, loss on prompt and answer, one epoch in steps of --batch_size rows:
            tlrec.tuning.trainer, with and without --share_prefix, TRL's SFTTrainer, LLaMA-Factory's training command
Ranking beside vLLM: bench_ranking.py --vllm.

Peers get token ids that are made beforehand, and the batches of ours. Every turn is a new process, ours too: it loads the
model, warms up, and then its work is timed; the procedures take turns. Fails unless all give the same scores, or the same
losses and norms of the gradient in two steps without dropout.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import numpy as np
import torch

from benchmarks import measure, models
from benchmarks.peers import PEERS, Worker, python_of
from tlrec.data.records import labels_of
from tlrec.errors import one_line_errors
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning.order import EpochOrder

FRAME = load_frame("alpaca")
OURS, SHARED = "ours", "ours, shared prefix"
PEERS_OF = {"scoring": ["lm-eval", "vllm"], "tuning": ["trl", "llama-factory"]}
CUTOFF = 512
WARM_UP = 8  # rows scored before the time is taken
CHECKED = 2  # steps without dropout whose losses are compared; they warm up too
LM_EVAL_BATCH = {"float32": 16, "bfloat16": 4}  # the fastest of 1, 4, 16 and 32 on the CPU of benchmarks/README.md
# Largest difference allowed in the loss of a step and, relatively, in the norm of its gradient.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02}
NORM_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def make_folders(args, device, folder):
    """(model, adapter with --lora_dropout, adapter without): folders that all load."""
    tuned = models.make_model(args.shape, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    adapters = []
    for dropout in (args.lora_dropout, 0.0):
        adapters.append(str(folder / f"adapter-{dropout}"))
        tuned.peft_config["default"].lora_dropout = dropout
        tuned.save_pretrained(adapters[-1])
    tuned.unload().save_pretrained(folder / "model")
    source = models.SMOLLM2 if args.shape == "smollm2" else models.POCKET
    for file in (*source.glob("token*"), *source.glob("special_tokens_map.json")):
        shutil.copy(file, folder / "model")
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the workers need it
    return folder / "model", *adapters


def scoring_requests(records, encoder):
    """{"ours": request, "others": request} of the same rows."""
    prompts = encoder.prompts(records).input_ids
    return {OURS: {"records": records}, "others": {"prompts": prompts, "answer_ids": list(encoder.answer_ids)}}


def tuning_requests(rows, adapter, args, device, dtype):
    """{"ours": request, "others": request}: the others get the rows in the order that ours draws."""
    arguments = {
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "optim": "adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
        "bf16": dtype == "bfloat16",
        "use_cpu": device.type == "cpu",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    same = {"adapter": adapter, "arguments": arguments}
    return {OURS: same | {"rows": rows}, "others": same | {"rows": in_our_order(rows, args.batch_size)}}


def in_our_order(rows, batch_size):
    """The rows in the order in which ours takes them in its first epoch. Their first tokens are no labels: nothing
    predicts them, but not every trainer leaves them out of the number that it divides the loss by."""
    order = EpochOrder([len(row["input_ids"]) for row in rows], batch_size, 0, lambda: 0)
    ids = [rows[number]["input_ids"] for number in order]
    return [{"input_ids": each, "labels": [-100, *each[1:]]} for each in ids]


def take_turns(args, work, dtype, device, model, requests, first):
    """{name: {"seconds": [...], "cpu_seconds": [...], "first": answer to the first request, "answer": to the last, "facts":
    what its worker told about itself}}; every turn is a process of its own.

    requests and first, for the warm-up: {"ours": request, "others": request}.
    """
    ours = [OURS, SHARED] if work == "tuning" else [OURS]
    names = [*ours, *(peer for peer in PEERS_OF[work] if peer in args.peers)]
    figures = {name: {"seconds": [], "cpu_seconds": []} for name in names}
    for repeat in range(args.repeats):
        for name, figure in figures.items():
            print(f"{work}, {dtype}: {name}, turn {repeat + 1} of {args.repeats}", file=sys.stderr)
            settings, kind = {"model": str(model), "dtype": dtype}, OURS if name in ours else "others"
            # vLLM is built for one device
            settings |= {"prompt_tokens": CUTOFF} if name == "vllm" else {"device": device.type}
            settings |= {"share_prefix": True} if name == SHARED else {}
            extra = {"batch_size": LM_EVAL_BATCH[dtype]} if name == "lm-eval" else {}
            environment = None if name in ours else args.peers_folder / name
            worker = Worker(name.split(",")[0], environment, args.threads, **settings)
            figure["first"] = worker.ask(**first[kind], **extra)
            figure["answer"] = worker.ask(**requests[kind], **extra)
            for key in ("seconds", "cpu_seconds"):
                figure[key].append(figure["answer"][key])
            figure["facts"] = worker.facts | extra
            worker.close()
    return figures


def compare(work, figures, rows, labels, dtype):
    """What is reported of one table, and a function that asserts that all have given the same. labels: (rows,)."""
    seconds, cpu = (
        {name: statistics.median(figure[key]) for name, figure in figures.items()} for key in ("seconds", "cpu_seconds")
    )
    procedures = {
        name: {"seconds": seconds[name], "rows/s": rows / seconds[name], "CPU s": cpu[name]}
        | {"ours so many times as fast": seconds[name] / seconds[OURS]}
        for name in figures
    }
    facts = {name: figure["facts"] for name, figure in figures.items()}
    table = {"work": work, "dtype": dtype, "rows": rows, "procedures": procedures, "facts": facts}
    if work == "scoring":
        log_p = {name: np.array(figure["answer"]["log_p"]) for name, figure in figures.items()}
        aucs = {name: float(auc(labels, two_probabilities_to_score(*np.exp(each.T)))) for name, each in log_p.items()}
        table["auc"] = aucs
        table["largest_difference"] = {name: float(abs(each - log_p[OURS]).max()) for name, each in log_p.items()}
        return table, lambda: measure.check_same_scores(log_p, OURS, aucs, getattr(torch, dtype))
    for key in ("losses", "grad_norms"):
        table[key] = {name: figure["first"][key] for name, figure in figures.items()}
    return table, lambda: check_same_losses(table["losses"], table["grad_norms"], dtype)


def check_same_losses(losses, norms, dtype):
    """Assert that every procedure has the losses and gradient norms, one for each step, of ours."""
    for name in losses:
        loss, norm = np.array(losses[name]), np.array(norms[name])
        assert loss.shape == np.shape(losses[OURS]), f"{name}: {len(loss)} steps, ours: {len(losses[OURS])}"
        difference = abs(loss - losses[OURS]).max()
        assert difference < LOSS_TOLERANCE[dtype], f"{name}: losses differ by {difference}: {losses}"
        difference = abs(norm / norms[OURS] - 1).max()
        assert difference < NORM_TOLERANCE[dtype], f"{name}: gradient norms differ by {difference:.1%}: {norms}"


def parse(arguments):
    parser, known = measure.parser(__doc__), sum(PEERS_OF.values(), [])
    add = parser.add_argument
    add("--work", choices=list(PEERS_OF), nargs="+", default=list(PEERS_OF), help="(default: both)")
    add("--peers", choices=known, nargs="*", help="(default: all that are installed)")
    add("--peers_folder", type=Path, default=PEERS, help="made by benchmarks/peers.sh (default: ../tlrec-peers)")
    add("--batch_size", type=int, default=16, help="rows of a step of tuning (default: %(default)s)")
    add("--steps", type=int, default=4, help="steps of tuning (default: %(default)s)")
    add("--lora_dropout", type=float, default=0.05, help="in the timed steps (default: %(default)s)")
    add("--threads", type=int, default=torch.get_num_threads(), help="of every process (default: torch's)")
    add("--dtype", choices=measure.DTYPES, nargs="+", default=["bfloat16"], help="one or both (default: bfloat16)")
    args = parser.parse_args(arguments)
    if args.peers is None:
        args.peers = [name for name in known if (args.peers_folder / name).exists()]
    for name in args.peers:
        python_of(name, args.peers_folder / name)
    return args


def main(arguments=None):
    # 1. What all are given: model, start adapter, rows
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    device = base_models.resolve_device(args.device)
    records = models.load_records(args.data, max(args.rows, args.steps * args.batch_size))
    encoder, tables, checks = RecordTokenizer(models.load_tokenizer(args.shape), FRAME, CUTOFF), [], []
    with tempfile.TemporaryDirectory() as folder:
        model, with_dropout, without = make_folders(args, device, Path(folder))
        for work, dtype in ((work, dtype) for work in args.work for dtype in args.dtype):
            if work == "scoring":
                scored = records[: args.rows]
                requests, first = scoring_requests(scored, encoder), scoring_requests(scored[:WARM_UP], encoder)
            else:
                rows = encoder.examples(records[: args.steps * args.batch_size]).rows
                requests = tuning_requests(rows, with_dropout, args, device, dtype)
                first = tuning_requests(rows[: CHECKED * args.batch_size], without, args, device, dtype)

            # 2. Measure, compare and print; all that was measured is kept, even if a check then fails
            figures = take_turns(args, work, dtype, device, model, requests, first)
            count = args.rows if work == "scoring" else args.steps * args.batch_size
            table, check = compare(work, figures, count, labels_of(records[: args.rows]), dtype)
            tables.append(table)
            checks.append(check)
            report = measure.report(args, device, tables=tables)
            print(f"\n{work}, {dtype}: {count} rows of {args.data}, {args.shape}; {report['hardware']}")
            measure.print_table(table["procedures"])
    for check in checks:
        check()
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
