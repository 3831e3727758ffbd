"""Large source data: time and memory by number of records, for reading and for ins_tuning.py up to its first steps.

    python benchmarks/bench_large_data.py --rows 10000 100000 1000000 --output large_data.json

Records come from the demo world, repeated with other years. Every figure comes from a separate process:
reading      tlrec.data.records.RecordSet alone: every row checked, digest
first start  ins_tuning.py with pocket-llama from its start to the end of --steps steps and one small validation; its
             own imports and reading included, token ids not in the cache
second start the same command again, token ids in the cache; the difference to the first is tokenisation
Memory is the peak of the process's own memory, sampled every 20 ms; pages of the memory-mapped cache, which the system
can take back at any time, are in the last column. Linux only.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import numpy as np

from benchmarks import measure
from benchmarks.models import POCKET, REPOSITORY
from tlrec.data.preferences import build_record
from tlrec.data.records import write_records
from tlrec.demo.world import DOMAINS, make_catalogue, make_examples
from tlrec.errors import InputError, one_line_errors
from tlrec.files import whole_file, write_json

DIFFERENT = 5_000  # records drawn from the demo world, which is slow
READ = "import sys; from tlrec.data.records import RecordSet; RecordSet(sys.argv[1])"
# The script itself, except that its Trainer stops after a few steps
TUNE = """
import runpy, sys
from tlrec.tuning import trainer

steps, *sys.argv = sys.argv[1:]

def few_steps(self, args, original=trainer.TuningTrainer.__init__, **arguments):
    args.max_steps = int(steps)
    original(self, args=args, **arguments)

trainer.TuningTrainer.__init__ = few_steps
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def demo_records(count):
    domain = DOMAINS["netflix"]
    catalogue = make_catalogue(np.random.default_rng([0, 0]), domain)
    examples = make_examples(np.random.default_rng([0, 1]), domain, catalogue, count)
    return [build_record(example.preference, example.liked) for example in examples]


def write_many(path, records, rows):
    """A record file of `rows` rows as `write_records` would write it: `records` repeated, each time with all years a
    hundred years later."""
    with whole_file(path) as file:
        for start in range(0, rows, len(records)):
            century = f"({21 + start // len(records)}"
            chunk = [{**record, "input": record["input"].replace("(21", century)} for record in records[: rows - start]]
            file.write(("," if start else "[") + json.dumps(chunk, indent=4)[1:-2])
        file.write("\n]")


def run(command, environment):
    """Run a process: {"seconds", "cpu_seconds", "tokenised", "own_gb", "mapped_gb"}; `tokenised` is the second at which
    its token ids were complete."""
    begin, cpu, tokenised, peaks = time.perf_counter(), _cpu_of_children(), None, {"RssAnon": 0, "RssFile": 0}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=os.environ | environment, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=errors
        )
        watcher = threading.Thread(target=_watch, args=(process, peaks))
        watcher.start()
        for line in process.stdout:
            if line.startswith("train: "):
                tokenised = time.perf_counter() - begin
        watcher.join()
        if process.wait():
            errors.seek(0)
            raise InputError(f"{' '.join(command)} failed: {errors.read()[-2000:]}")
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": _cpu_of_children() - cpu,
        "tokenised": tokenised,
        "own_gb": peaks["RssAnon"] / 1e9,
        "mapped_gb": peaks["RssFile"] / 1e9,
    }


def _cpu_of_children():
    """CPU seconds, over all cores, of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process, peaks):
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:  # it has just ended
            return
        for key, kilobytes in re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB", status, re.MULTILINE):
            peaks[key] = max(peaks[key], 1024 * int(kilobytes))
        time.sleep(0.02)


def measure_rows(rows, records, args, folder):
    """The figures for one number of rows; the files are made below `folder`."""
    train, valid = folder / "train.json", folder / "valid.json"
    write_many(train, records, rows)
    write_records(valid, records[:16])
    environment = {"HF_DATASETS_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY)}
    tune = [
        sys.executable,
        "-c",
        TUNE,
        str(args.steps),
        str(REPOSITORY / "ins_tuning.py"),
        "--base_model",
        str(args.base_model),
        "--train_data_path",
        str(train),
        "--val_data_path",
        str(valid),
        "--device",
        "cpu",
        "--batch_size",
        "32",
        "--eval_steps",
        str(args.steps),
        "--output_dir",
    ]
    figures = {"rows": rows, "file_gb": train.stat().st_size / 1e9}
    figures["reading"] = run([sys.executable, "-c", READ, str(train)], environment)
    figures["first start"] = run([*tune, str(folder / "first")], environment)
    figures["second start"] = run([*tune, str(folder / "second")], environment)
    first, second = figures["first start"], figures["second start"]
    figures["tokenising"] = {
        "seconds": first["tokenised"] - second["tokenised"],
        "cpu_seconds": first["cpu_seconds"] - second["cpu_seconds"],
    }
    figures["cache_gb"] = sum(path.stat().st_size for path in (folder / "cache").rglob("*.arrow")) / 1e9
    return figures


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="(default: 10000 100000 1000000)")
    add("--base_model", type=Path, default=POCKET, help="(default: pocket-llama)")
    add("--steps", type=int, default=2, help="optimiser steps of 32 rows (default: %(default)s)")
    add("--folder", type=Path, help="for data and cache, 1.5 kB a row (default: the system's temporary folder)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)

    import torch

    report = measure.environment(torch.device("cpu")) | {"measured": []}
    records = demo_records(min(DIFFERENT, max(args.rows)))
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            report["measured"].append(measure_rows(rows, records, args, Path(folder)))
        print(json.dumps(report["measured"][-1]), flush=True)
        if args.output:
            write_json(args.output, report)

    print(f"{report['hardware']}, {args.base_model.name}, {args.steps} steps; seconds and GB")
    measure.print_table(
        [
            "rows",
            "file",
            "reading",
            "tokenising",
            "its CPU",
            "first start",
            "second start",
            "memory reading",
            "first",
            "second",
            "cache",
            "mapped",
        ],
        [
            [
                f"{found['rows']:,}",
                found["file_gb"],
                found["reading"]["seconds"],
                found["tokenising"]["seconds"],
                found["tokenising"]["cpu_seconds"],
                found["first start"]["seconds"],
                found["second start"]["seconds"],
                *(found[name]["own_gb"] for name in ("reading", "first start", "second start")),
                found["cache_gb"],
                max(found[name]["mapped_gb"] for name in ("first start", "second start")),
            ]
            for found in report["measured"]
        ],
    )
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
