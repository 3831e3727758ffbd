"""What the benchmarks share: flags, procedures that take turns in one run, medians of their seconds, the report and its
table."""

import argparse
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd
import psutil
import torch

from benchmarks import models
from tlrec.files import write_json
from tlrec.model import base_models

DTYPES = ["float32", "bfloat16"]
# Largest difference allowed in a log-probability. In two-byte numbers every layer rounds to 8 (bfloat16) or 11 bits
# (float16), and a different order of additions rounds differently.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}


def parser(description, rows=128):
    """An ArgumentParser with the flags that the programs share; `description` is a module's docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--shape", choices=["smollm2", *models.SHAPES], default="20m", help="(default: %(default)s)")
    add("--data", type=Path, default=Path("rec_data/movie/test.json"), help="records (default: %(default)s)")
    add("--rows", type=int, default=rows, help="(default: %(default)s)")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    return parser


def measure(prepare, args):
    """Run every procedure `args.repeats` times, in turns: {name: {"seconds": [...], "median", "cpu_median" (CPU seconds
    of all threads, those of processes that it started too)}}, and {name: what its last run returned}.

    prepare(args) returns {name: function without arguments}; it is also called with fewer `rows` to warm up.
    """
    for procedure in prepare(argparse.Namespace(**{**vars(args), "rows": 2})).values():
        procedure()
    procedures = prepare(args)
    seconds, cpu_seconds = ({name: [] for name in procedures} for _ in range(2))
    results = {}
    for _ in range(args.repeats):
        for name, procedure in procedures.items():
            begin, cpu_begin = time.perf_counter(), _cpu_seconds()
            results[name] = procedure()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - begin)
            cpu_seconds[name].append(_cpu_seconds() - cpu_begin)
    figures = {
        name: {"seconds": own, "median": statistics.median(own), "cpu_median": statistics.median(cpu_seconds[name])}
        for name, own in seconds.items()
    }
    return figures, results


def _cpu_seconds():
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in times)


def report(args, device, **facts):
    """What a program reports: date, hardware, versions, command, arguments and facts, written to --output, if given."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": base_models.hardware(device),
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
        "command": " ".join(["python", *sys.argv]),
        "arguments": {key: str(value) for key, value in vars(args).items()},
        **facts,
    }
    if args.output:
        write_json(args.output, found)
    return found


def rates(figures, unit, amount, compared_with):
    """{name: {column: number}}: seconds, `unit` of `amount` in a run, and how many times as fast as what it is compared
    with, {name: another's name}."""
    seconds = {name: figure["median"] for name, figure in figures.items()}
    return {
        name: {"seconds": own, unit: amount / own, "times as fast": seconds[compared_with.get(name, name)] / own}
        for name, own in seconds.items()
    }


def print_table(rows):
    """rows: {name: {column: number or text}}."""
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="{:,.2f}".format, na_rep="-"))


def check_same_scores(log_p, reference, aucs, dtype):
    """Assert that all procedures give the log-probabilities (n, 2) of the reference and, in float32, its AUC."""
    for name, values in log_p.items():
        difference = abs(values - log_p[reference]).max()
        assert difference < TOLERANCE[dtype], f"{name}: log-probabilities differ by {difference}"
        assert dtype != torch.float32 or abs(aucs[name] - aucs[reference]) < 1e-6, f"{name}: AUC {aucs}"
