"""How the benchmarks measure: procedures take turns in one run; medians of seconds, and peak memory of each."""

import argparse
import gc
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil
import torch

from tlrec.model import base_models


def measure(prepare, args, device, without_memory=()):
    """Run every procedure `args.repeats` times, in turns: {name: {"seconds": [...], "median", "cpu_median" (CPU seconds
    of all threads, those of processes that it started too), "peak_memory_gb"}}, and {name: what its last run returned}.

    prepare: a module-level function; prepare(args) returns {name: function without arguments} and depends on nothing
    else. It is also called with fewer `rows` to warm up. Peak memory is what a procedure takes in addition to the
    model: on a GPU that of all tensors, on the CPU that of a separate process (Linux; None elsewhere). without_memory:
    names of procedures whose memory is not measured, such as those whose work other processes do.
    """
    _warm_up(prepare, args)
    procedures = prepare(args)
    figures = {name: {"seconds": [], "peak_memory_gb": None} for name in procedures}
    cpu_seconds, results = {name: [] for name in procedures}, {}
    for _ in range(args.repeats):
        for name, procedure in procedures.items():
            if device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            begin, cpu_begin = time.perf_counter(), _cpu_seconds()
            results[name] = procedure()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if device.type == "cuda" and name not in without_memory:
                figures[name]["peak_memory_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
            figures[name]["seconds"].append(time.perf_counter() - begin)
            cpu_seconds[name].append(_cpu_seconds() - cpu_begin)
    for name, figure in figures.items():
        figure["median"] = statistics.median(figure["seconds"])
        figure["cpu_median"] = statistics.median(cpu_seconds[name])
        if device.type == "cpu" and name not in without_memory:
            figure["peak_memory_gb"] = peak_memory_gb(prepare, args, name)
    return figures, results


def peak_memory_gb(prepare, args, name):
    """What one procedure of `prepare` takes at its peak on the CPU, in addition to the model; None if not on Linux."""
    if sys.platform != "linux":
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (prepare, args, name)) / 1e9


def _cpu_seconds():
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in times)


def _warm_up(prepare, args, only=None):
    for name, procedure in prepare(argparse.Namespace(**{**vars(args), "rows": 2})).items():
        if name == only or only is None:
            procedure()


def _growth(prepare, args, name):
    """Bytes that the procedure adds to this process at its peak."""
    _warm_up(prepare, args, only=name)
    procedure = prepare(args)[name]
    gc.collect()
    reset_peak()
    before = memory("VmRSS")
    procedure()
    return memory("VmHWM") - before


def reset_peak(process="self"):
    """Make the memory that a process (its id) has now its recorded peak. Linux."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def memory(key, process="self"):
    """Bytes of main memory of a process: VmRSS now, VmHWM at its peak. Linux."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)[1])


def matrix_rate(device="cuda", dtype=torch.bfloat16, size=8192):
    """Operations per second in a product of two square matrices: 2 * size**3 by the median time."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    finish = torch.cuda.synchronize if a.is_cuda else lambda: None
    seconds = []
    for _ in range(30):
        finish()
        begin = time.perf_counter()
        a @ b
        finish()
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / statistics.median(seconds[10:])


def environment(device):
    """Details to report with every figure: date, hardware, versions, command."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": base_models.hardware(device),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "python": platform.python_version(),
        "command": " ".join(["python", *sys.argv]),
    }


def print_table(headers, rows):
    """A table with columns as wide as needed, the first one left-aligned."""
    cells = [
        [cell if isinstance(cell, str) else "-" if cell is None else f"{cell:,.2f}" for cell in row] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(headers, *cells)]
    for row in [headers, *cells]:
        print(
            "  ".join(
                f"{cell:<{w}}" if place == 0 else f"{cell:>{w}}" for place, (cell, w) in enumerate(zip(row, widths))
            )
        )


# Largest difference allowed in a log-probability. In two-byte numbers every layer rounds to 8 (bfloat16) or 11 bits
# (float16), and a different order of additions rounds differently.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}


def check_same_scores(log_p, reference, aucs, dtype):
    """Assert that all procedures give the log-probabilities (n, 2) of the reference and, in float32, its AUC."""
    for name, values in log_p.items():
        difference = abs(values - log_p[reference]).max()
        assert difference < TOLERANCE[dtype], f"{name}: log-probabilities differ by {difference}"
        assert dtype != torch.float32 or abs(aucs[name] - aucs[reference]) < 1e-6, f"{name}: AUC {aucs}"


def ratio_of_peaks(figures, one, other):
    """Peak memory of one procedure divided by that of the other; None if it cannot be measured."""
    peaks = figures[one]["peak_memory_gb"], figures[other]["peak_memory_gb"]
    return None if None in peaks else peaks[0] / peaks[1]
