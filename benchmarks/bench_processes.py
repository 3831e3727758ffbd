"""Scaling over processes: tokens per second in tuning and rows per second in scoring, with one, two or more processes.

    python benchmarks/bench_processes.py --gpus cpu cpu:2 --output processes.json
    python benchmarks/bench_processes.py --gpus 0 0,1 0,1,2,3 --base_model base_model/llama-7b --micro_batch_size 16

Runs shell/zero_shot.sh on demo records for each entry, as a user would, and reads run.json and metrics.json. The
effective batch is 128 for any number of processes; efficiency is the speed-up over the first entry per process.
On the CPU, two processes share the cores that one process has alone, so they cannot be faster: that row shows what the
communication costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # tlrec and benchmarks, wherever this is called from

from benchmarks import measure
from tlrec.demo.workspace import FILES, make_workspace
from tlrec.errors import InputError, one_line_errors
from tlrec.files import read_json, write_json
from tlrec.model import base_models


def run(gpu, root, args):
    """{"processes", "tokens_per_second", "rows_per_second", "eval_auc"} of one curriculum stage and its evaluation."""
    environment = os.environ | {"ROOT_PATH": str(root), "BASE_MODEL": str(args.base_model), "STAGES": "source"}
    environment |= {"EXP_NAME": gpu.replace(":", "-").replace(",", "-"), "PYTHON": sys.executable}
    command = ["bash", REPOSITORY / "shell" / "zero_shot.sh", gpu, "movie", "netflix", "--num_epochs", "1"]
    command += ["--max_train_samples", str(args.rows), "--micro_batch_size", str(args.micro_batch_size)]
    command += ["--eval_steps", "1000000", "--lora_dropout", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise InputError(f"zero_shot.sh {gpu}: {done.stderr.strip()[-2000:]}")
    folder = root / "instruction_model" / "movie" / environment["EXP_NAME"]
    results = read_json(folder / "run.json")["results"]
    metrics = read_json(folder / "metrics.json")
    return {
        "gpus": gpu,
        "processes": results["processes"],
        "tokens_per_second": results["tokens_per_second"],
        "rows_per_second": metrics["n"] / metrics["run"]["results"]["seconds_scoring"],
        "eval_auc": results["history"][-1]["eval_auc"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--gpus",
        nargs="+",
        default=["cpu", "cpu:2"],
        help="GPU argument of zero_shot.sh, one run each (default: cpu cpu:2)",
    )
    add("--base_model", type=Path, default=REPOSITORY / "base_model" / "pocket-llama", help="(default: %(default)s)")
    add("--rows", type=int, default=256, help="training rows (default: %(default)s)")
    add("--micro_batch_size", type=int, default=32, help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        make_workspace(Path(folder), 0, {name: splits for name, (_, splits) in FILES.items()})
        runs = [run(gpu, Path(folder), args) for gpu in args.gpus]

    first = runs[0]
    for entry in runs:
        entry["efficiency"] = (
            entry["tokens_per_second"] / first["tokens_per_second"] * first["processes"] / entry["processes"]
        )
        if abs(entry["eval_auc"] - first["eval_auc"]) > 1e-3:
            raise InputError(
                f"{entry['gpus']}: validation AUC {entry['eval_auc']}, one process has {first['eval_auc']}"
            )
    measure.print_table(
        ["GPUs", "processes", "tuning tokens/s", "efficiency", "scoring rows/s", "validation AUC"],
        [
            [
                entry["gpus"],
                str(entry["processes"]),
                entry["tokens_per_second"],
                entry["efficiency"],
                entry["rows_per_second"],
                entry["eval_auc"],
            ]
            for entry in runs
        ],
    )
    if args.output:
        device = base_models.resolve_device("auto")
        write_json(args.output, measure.environment(device) | {"runs": runs})


if __name__ == "__main__":
    with one_line_errors():
        main()
