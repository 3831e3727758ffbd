"""Ours beside what a user would pick instead: scoring and tuning, with the same model, rows, number type and threads.

    bash benchmarks/peers.sh                                        # the peers, into ../tlrec-peers
    python benchmarks/bench_peers.py --output peers.json            # base_model/smollm2-135m, or the shape 20m
    python benchmarks/bench_peers.py --device cuda --shape 7b --rows 1000 --steps 8 --output peers_7b.json

scoring     log P(Yes) and log P(No) of every row:
  ours            tlrec.model.scoring, as evaluate.py runs it; its time includes tokenisation
  lm-eval         lm-evaluation-harness: HFLM's log-likelihoods, with the fastest of --batch_sizes, found beforehand
  vllm            one token with the log-probabilities of both answers; prefix cache, empty at the start
tuning      LoRA on the query and value projections, loss on prompt and answer, one epoch in steps of --batch_size rows:
  ours            tlrec.tuning.trainer, as ins_tuning.py and rec_tuning.py run it; and with --share_prefix
  trl             TRL's SFTTrainer
  llama-factory   LLaMA-Factory's own training command, supervised, on tokenised rows
Ranking beside vLLM: bench_ranking.py --vllm.

Peers get token ids that are made beforehand, and the batches of ours. Every turn is a new process, ours too: it loads the
model, warms up, and then its work is timed; the procedures take turns. Fails unless all give the same scores, or the same
losses and norms of the gradient in two steps without dropout. Peak memory is that of the whole process while it works; on
a GPU that of its tensors there. The share of the matrix rate counts what a procedure has to compute: what rows begin
with alike once where it is shared, no padding.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import numpy as np
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoConfig

from benchmarks import measure, models
from benchmarks.peers import PEERS, Worker, python_of
from tlrec.data.records import labels_of
from tlrec.errors import InputError, one_line_errors
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.files import write_json
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning.trainer import EpochOrder

FRAME = load_frame("alpaca")
OURS, SHARED = "ours", "ours, shared prefix"
PEERS_OF = {"scoring": ["lm-eval", "vllm"], "tuning": ["trl", "llama-factory"]}
CUTOFF = 512
WARM_UP, TRIAL = 8, 64  # rows of a warm-up of scoring, and of the trial of a batch size
CHECKED = 2  # steps without dropout whose losses are compared; they warm up too
# Largest difference allowed in the loss of a step and, relatively, in the norm of its gradient.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02}
NORM_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


# ------------------------------------------------------------------------------------------------- what all are given


def make_model_folder(args, device, folder):
    """The folder of the model that all load: SmolLM2's, or `folder` with random weights of --shape in it."""
    if args.shape is None:
        return models.SMOLLM2
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    models.make_model(args.shape, device, dtype).merge_and_unload().save_pretrained(folder)
    for file in models.POCKET.glob("*token*"):
        shutil.copy(file, folder)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the workers need it
    return folder


def make_adapter(model, folder, lora_dropout):
    """Write an adapter to start from, the same each time. No tensor of it is zero, so that all get a gradient."""
    targets = adapters.query_and_value_modules(model)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=lora_dropout, target_modules=targets, task_type="CAUSAL_LM")
    generator = torch.Generator().manual_seed(0)
    shapes = adapters.expected_adapter(model, lora)
    lora.base_model_name_or_path = str(model)
    lora.save_pretrained(folder)
    save_file(
        {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()},
        folder / "adapter_model.safetensors",
    )
    return str(folder)


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
    return [rows[number] | {"labels": [-100, *rows[number]["labels"][1:]]} for number in order]


# -------------------------------------------------------------------------------------------------------------- turns


class Work:
    """One table: a kind of work in one number type.

    name: scoring or tuning; peers: {name: folder of its environment}; model: folder; requests and first ones, for the
    warm-up: {"ours": request, "others": request}.
    """

    def __init__(self, name, dtype, args, peers, model, device, requests, first):
        self.name, self.dtype, self.args, self.peers = name, dtype, args, peers
        self.model, self.device, self.requests, self.first = model, device, requests, first
        self.ours = [OURS, SHARED] if name == "tuning" else [OURS]
        self.procedures = [*self.ours, *(peer for peer in PEERS_OF[name] if peer in peers)]
        self.extra = {procedure: {} for procedure in self.procedures}  # further items of its requests
        self.trials = {}  # batch size: seconds

    def measure(self):
        """{name: {"seconds": [...], "cpu_seconds": [...], "peak_memory_gb": [...], "first": answer to the first request,
        "answer": to the last, "facts": what its worker told about itself}}; every turn a process of its own."""
        figures = {name: {"seconds": [], "cpu_seconds": [], "peak_memory_gb": []} for name in self.procedures}
        for repeat in range(self.args.repeats):
            for name, figure in figures.items():
                print(f"{self.name}, {self.dtype}: {name}, turn {repeat + 1} of {self.args.repeats}", file=sys.stderr)
                worker = self._start(name)
                kind = OURS if name in self.ours else "others"
                if name == "lm-eval" and not self.extra[name]:
                    self.extra[name] = {"batch_size": self._batch_size(worker)}
                figure["first"] = worker.ask(**self.first[kind], **self.extra[name])
                figure["answer"] = worker.ask(**self.requests[kind], **self.extra[name])
                for key in ("seconds", "cpu_seconds", "peak_memory_gb"):
                    figure[key].append(figure["answer"][key])
                figure["facts"] = worker.facts
                worker.close()
        return figures

    def _start(self, name):
        settings = {"model": str(self.model), "dtype": self.dtype}
        # vLLM is built for one device
        settings |= {"prompt_tokens": CUTOFF} if name == "vllm" else {"device": self.device.type}
        settings |= {"share_prefix": True} if name == SHARED else {}
        return Worker(name.split(",")[0], self.peers.get(name), self.args.threads, **settings)

    def _batch_size(self, worker):
        """The fastest of --batch_sizes on some of the rows."""
        worker.ask(**self.first["others"], batch_size=min(self.args.batch_sizes))
        some = self.requests["others"] | {"prompts": self.requests["others"]["prompts"][:TRIAL]}
        for size in self.args.batch_sizes:
            self.trials[size] = worker.ask(**some, batch_size=size)["seconds"]
        return min(self.trials, key=self.trials.get)


# ------------------------------------------------------------------------------------------------------------ results


def check_same_losses(losses, norms, dtype):
    """Assert that every procedure has the losses and gradient norms, one for each step, of ours."""
    for name in losses:
        loss, norm = np.array(losses[name]), np.array(norms[name])
        assert loss.shape == np.shape(losses[OURS]), f"{name}: {len(loss)} steps, ours: {len(losses[OURS])}"
        difference = abs(loss - losses[OURS]).max()
        assert difference < LOSS_TOLERANCE[dtype], f"{name}: losses differ by {difference}: {losses}"
        difference = abs(norm / norms[OURS] - 1).max()
        assert difference < NORM_TOLERANCE[dtype], f"{name}: gradient norms differ by {difference:.1%}: {norms}"


def scoring_results(figures, records, dtype):
    """({name: largest difference of a log-probability to ours}, {name: AUC}, a function that asserts equality)."""
    log_p = {name: np.array(figure["answer"]["log_p"]) for name, figure in figures.items()}
    labels = labels_of(records)
    aucs = {name: float(auc(labels, two_probabilities_to_score(*np.exp(each.T)))) for name, each in log_p.items()}
    differences = {name: float(abs(each - log_p[OURS]).max()) for name, each in log_p.items()}
    return differences, {"auc": aucs}, lambda: measure.check_same_scores(log_p, OURS, aucs, getattr(torch, dtype))


def tuning_results(figures, dtype):
    """({name: largest difference of a loss to ours}, {"losses", "grad_norms"} of each, a function that asserts)."""
    losses, norms = ({name: one["first"][key] for name, one in figures.items()} for key in ("losses", "grad_norms"))
    differences = {
        name: float(abs(np.subtract(each, losses[OURS])).max()) if len(each) == len(losses[OURS]) else np.inf
        for name, each in losses.items()
    }
    found = {"losses": losses, "grad_norms": norms}
    return differences, found, lambda: check_same_losses(losses, norms, dtype)


def compare(work, figures, config, rate, records):
    """What is reported of one table, and a function that asserts equal results. rate: operations per second."""
    requests, sharing = work.requests["others"], [SHARED]
    if work.name == "scoring":
        rows, sharing = len(requests["prompts"]), [OURS, "vllm"]
        operations = models.scoring_operations(config, requests["prompts"])
        differences, found, check = scoring_results(figures, records, work.dtype)
    else:
        rows = len(requests["rows"])
        operations = models.tuning_operations(config, requests["rows"], work.args.batch_size)
        differences, found, check = tuning_results(figures, work.dtype)
    procedures = {}
    for name, figure in figures.items():
        seconds, peaks = statistics.median(figure["seconds"]), figure["peak_memory_gb"]
        procedures[name] = {
            "seconds": figure["seconds"],
            "median": seconds,
            "cpu_median": statistics.median(figure["cpu_seconds"]),
            "rows_per_second": rows / seconds,
            "peak_memory_gb": None if None in peaks else statistics.median(peaks),
            "share_of_matrix_rate": operations["shared" if name in sharing else "whole"] / seconds / rate,
            "largest_difference": differences[name],
            **figure["facts"],
        }
    medians = {name: procedure["median"] for name, procedure in procedures.items()}
    table = {
        "work": work.name,
        "dtype": work.dtype,
        "rows": rows,
        "matrix_rate": rate,
        "procedures": procedures,
        "times_as_fast": {own: {name: medians[name] / medians[own] for name in medians} for own in work.ours},
        "lm_eval_batch_sizes": work.trials,
        **found,
    }
    return table, check


def print_results(table, steps):
    print(f"\n{table['work']}, {table['dtype']}: {table['rows']} rows{steps if table['work'] == 'tuning' else ''}")
    own = list(table["times_as_fast"])
    headers = ["", "seconds", "rows/s", *(f"{name} / it" for name in own), "CPU s", "peak GB", "matrix rate %"]
    rows = [
        [
            name,
            figure["median"],
            figure["rows_per_second"],
            *(table["times_as_fast"][each][name] for each in own),
            figure["cpu_median"],
            figure["peak_memory_gb"],
            100 * figure["share_of_matrix_rate"],
            f"{figure['largest_difference']:.1e}",
        ]
        for name, figure in table["procedures"].items()
    ]
    measure.print_table([*headers, "difference"], rows)
    print(f"matrix rate: {table['matrix_rate'] / 1e9:,.0f} GFLOP/s; differences are those to ours")
    if table["lm_eval_batch_sizes"]:
        trials = ", ".join(f"{size}: {seconds:.1f} s" for size, seconds in table["lm_eval_batch_sizes"].items())
        print(f"lm-eval by batch size, {min(TRIAL, table['rows'])} rows: {trials}")


# --------------------------------------------------------------------------------------------------------------- main


def find_peers(args):
    """{name: folder of its environment} of --peers; by default of all that are installed."""
    known = [peer for work in args.work for peer in PEERS_OF[work]]
    folders = {name: args.peers_folder / name for name in known}
    if args.peers is not None:
        for name in args.peers:
            if name not in known:
                raise InputError(f"--peers {name}: it is not compared in {' '.join(args.work)}; see --work")
            python_of(name, args.peers_folder / name)
        return {name: folder for name, folder in folders.items() if name in args.peers}
    missing = [name for name, folder in folders.items() if not folder.exists()]
    if missing:
        print(f"not installed: {' '.join(missing)}; bash benchmarks/peers.sh {' '.join(missing)}", file=sys.stderr)
    return {name: folder for name, folder in folders.items() if name not in missing}


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, both = parser.add_argument, list(PEERS_OF)
    add("--work", choices=both, nargs="+", default=both, help="(default: both)")
    add("--peers", choices=sum(PEERS_OF.values(), []), nargs="*", help="(default: all that are installed)")
    add("--peers_folder", type=Path, default=PEERS, help="made by benchmarks/peers.sh (default: ../tlrec-peers)")
    add("--shape", choices=models.SHAPES, help="random weights (default: base_model/smollm2-135m, or else 20m)")
    add("--data", type=Path, default=models.MOVIE_TEST, help="records (default: the Movie test file, or demo records)")
    add("--rows", type=int, default=128, help="rows to score (default: %(default)s)")
    add("--batch_size", type=int, default=16, help="rows of a step of tuning (default: %(default)s)")
    add("--steps", type=int, default=4, help="steps of tuning (default: %(default)s)")
    add("--lora_dropout", type=float, default=0.05, help="in the timed steps (default: %(default)s)")
    add("--batch_sizes", type=int, nargs="+", help="to try for lm-eval (default: 1 4 16 32, on a GPU 16 64 128)")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--threads", type=int, help="of every process (default: torch's)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add(
        "--dtype",
        choices=list(LOSS_TOLERANCE),
        nargs="+",
        help="(default: bfloat16, for scoring on the CPU float32 too)",
    )
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)
    if args.shape is None and not models.SMOLLM2.exists():
        args.shape = "20m"
    args.threads = args.threads or torch.get_num_threads()
    return args


def works_of(args, peers, device, model, records, adapter_folders):
    """The tables to measure, one Work each."""
    encoder = RecordTokenizer(base_models.load_tokenizer(model), FRAME, CUTOFF)
    on_cpu = device.type == "cpu"
    for name in args.work:
        for dtype in args.dtype or (["float32", "bfloat16"] if name == "scoring" and on_cpu else ["bfloat16"]):
            if name == "scoring":
                requests = scoring_requests(records[: args.rows], encoder)
                first = scoring_requests(records[: min(WARM_UP, args.rows)], encoder)
            else:
                rows = encoder.examples(records[: args.steps * args.batch_size]).rows
                with_dropout, without = adapter_folders
                few = rows[: CHECKED * args.batch_size]
                requests = tuning_requests(rows, with_dropout, args, device, dtype)
                first = tuning_requests(few, without, args, device, dtype)
            yield Work(name, dtype, args, peers, model, device, requests, first)


def main(arguments=None):
    # 1. What all are given: model, start adapter, rows
    args = parse(arguments)
    peers = find_peers(args)
    torch.set_num_threads(args.threads)
    device = base_models.resolve_device(args.device)
    args.batch_sizes = args.batch_sizes or ([1, 4, 16, 32] if device.type == "cpu" else [16, 64, 128])
    records, source = models.load_records(args.data, max(args.rows, args.steps * args.batch_size))
    report = measure.environment(device) | {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "rows_from": source,
        "tables": [],
    }
    name = args.shape or models.SMOLLM2.name
    print(f"{name}, rows of {source}, {report['hardware']}; load {report['load_before']}")
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model_folder(args, device, Path(folder) / "model")
        config = AutoConfig.from_pretrained(model)
        adapter_folders = [
            make_adapter(model, Path(folder) / f"adapter-{dropout}", dropout) for dropout in (args.lora_dropout, 0.0)
        ]
        for work in works_of(args, peers, device, model, records, adapter_folders):
            # 2. Measure
            size = 8192 if device.type == "cuda" else 2048
            rate = measure.matrix_rate(device, getattr(torch, work.dtype), size)
            figures = work.measure()

            # 3. Compare and print
            table, check = compare(work, figures, config, rate, records[: args.rows])
            report["tables"].append(table)
            print_results(table, f" in steps of {args.batch_size}")
            checks.append(check)
            if args.output:
                write_json(args.output, report)
    for check in checks:
        check()
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
