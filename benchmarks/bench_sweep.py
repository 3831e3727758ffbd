"""Few-shot tuning at several numbers of shots: one process, as in shell/few_shot.sh, compared with one for each step.

    python benchmarks/bench_sweep.py --output sweep.json
    python benchmarks/bench_sweep.py --gpu 0 --base_model base_model/llama-7b --output sweep_7b.json   # on a GPU

published   for each number of shots rec_tuning.py, then evaluate.py, each loading everything again.
ours        `bash shell/few_shot.sh GPU 0 movie`: everything is loaded once.
Runs on a demo workspace in a temporary folder, from a new instruction adapter, with the commands' own defaults;
flags that this program does not know are passed to rec_tuning.py. Asserts that adapters and predictions are equal: on
the CPU byte for byte, on a GPU in AUC to within 0.005.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # tlrec and benchmarks, wherever this is called from

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import torch
from peft import LoraConfig, get_peft_model

from benchmarks import measure, models
from tlrec.demo.workspace import FILES, make_workspace
from tlrec.errors import one_line_errors
from tlrec.files import sha256, write_json
from tlrec.model import adapters, base_models

OURS, PUBLISHED = "ours", "published"


def make_instruction_adapter(base_model, folder):
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    base = base_models.load_base_model(base_model, torch.device("cpu"), torch.float32)
    adapters.save_adapter(get_peft_model(base, LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM")), folder)


def call(*command, **environment):
    result = subprocess.run(
        list(map(str, command)), env={**os.environ, "TQDM_DISABLE": "1", **environment}, capture_output=True, text=True
    )
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")


def ours(args, root, adapter, output, flags):
    call(
        "bash",
        REPOSITORY / "shell" / "few_shot.sh",
        args.gpu,
        0,
        "movie",
        *flags,
        PYTHON=sys.executable,
        ROOT_PATH=str(root),
        BASE_MODEL=str(args.base_model),
        INSTRUCTION_ADAPTER=str(adapter),
        EXP_NAME=output.name,
        SHOTS=" ".join(map(str, args.shots)),
        SEEDS="",
    )


def published(args, root, adapter, output, flags):
    data = root / "rec_data" / "movie"
    device, environment = ("cpu", {}) if args.gpu == "cpu" else ("cuda", {"CUDA_VISIBLE_DEVICES": args.gpu})
    for shots in args.shots:
        folder = output / f"0_{shots}"
        call(
            sys.executable,
            REPOSITORY / "rec_tuning.py",
            "--base_model",
            args.base_model,
            "--sample",
            shots,
            "--train_data_path",
            data / "train.json",
            "--val_data_path",
            data / "valid.json",
            "--device",
            device,
            "--resume_from_checkpoint",
            adapter,
            "--output_dir",
            folder,
            *flags,
            **environment,
        )
        call(
            sys.executable,
            REPOSITORY / "evaluate.py",
            "--base_model",
            args.base_model,
            "--lora_weights",
            folder,
            "--test_data_path",
            data / "test.json",
            "--train_data_path",
            data / "train.json",
            "--device",
            device,
            **environment,
        )


def check_same(args, one, other):
    """Assert that two sweeps have equal results; returns the AUC of each number of shots."""
    aucs = {}
    for shots in args.shots:
        here, there = one / f"0_{shots}", other / f"0_{shots}"
        if args.gpu == "cpu":
            for name in ("adapter_model.safetensors", "predictions.jsonl"):
                assert sha256(here / name) == sha256(there / name), f"{shots} shots: {name} differs"
        aucs[shots] = [json.loads((folder / "metrics.json").read_text())["auc"] for folder in (here, there)]
        assert abs(aucs[shots][0] - aucs[shots][1]) < 0.005, f"{shots} shots: AUC {aucs[shots]}"
    return {shots: both[0] for shots, both in aucs.items()}


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--gpu", default="cpu", help="as for few_shot.sh: cpu, or the number of a GPU (default: %(default)s)")
    add("--base_model", type=Path, default=models.POCKET, help="(default: base_model/pocket-llama)")
    add("--shots", type=int, nargs="+", default=[16, 64, 256], help="(default: 16 64 256)")
    add("--test_rows", type=int, default=FILES["movie"][1]["test"], help="(default: %(default)s)")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args, flags = parser.parse_known_args(arguments)

    # 1. Measure
    environment = measure.environment(torch.device("cpu" if args.gpu == "cpu" else "cuda"))
    seconds = {PUBLISHED: [], OURS: []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = {name: dict(splits) for name, (_, splits) in FILES.items()}
        sizes["movie"]["test"] = args.test_rows
        make_workspace(root, 0, sizes)
        adapter = root / "instruction_model" / "movie" / "fresh"
        make_instruction_adapter(args.base_model, adapter)
        for _ in range(args.repeats):
            outputs = {}
            for name, sweep in ((PUBLISHED, published), (OURS, ours)):
                outputs[name] = root / "output_model" / "movie" / name
                shutil.rmtree(outputs[name], ignore_errors=True)
                begin = time.perf_counter()
                sweep(args, root, adapter, outputs[name], flags)
                seconds[name].append(time.perf_counter() - begin)
            aucs = check_same(args, outputs[PUBLISHED], outputs[OURS])

    # 2. Compare and print
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report = environment | {
        "arguments": {key: str(value) for key, value in vars(args).items()} | {"passed_on": flags},
        "seconds": seconds,
        "medians": medians,
        "published_over_ours": medians[PUBLISHED] / medians[OURS],
        "auc": aucs,
    }
    print(f"few-shot tuning at {' '.join(map(str, args.shots))} shots, demo workspace, {environment['hardware']}")
    measure.print_table(
        ["", "seconds", "times as fast"],
        [[name, median, medians[PUBLISHED] / median] for name, median in medians.items()],
    )
    if args.output:
        write_json(args.output, report)
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
