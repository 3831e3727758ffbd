"""Whether this machine's GPU does what the CPU does: tuning, stopping, scoring, ranking, memory. shell/gpu_check.sh runs it.

    bash shell/gpu_check.sh 0

Needs no data: the records are made up. On pocket-llama, and for the last check on a random model of LLaMA-7B's shape,
whose 14 GB are written below --output_dir. Every check is a function of a Box that returns what it found, in words, and
raises if that is wrong. A check that fails does not stop the others.
"""

import argparse
import contextlib
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tlrec.errors import InputError, one_line_errors
from tlrec.files import write_json
from tlrec.model.memory import Shape
from tlrec.model.prompts import ANSWERS

REPOSITORY = Path(__file__).resolve().parent.parent
POCKET = REPOSITORY / "base_model" / "pocket-llama"
ROWS, BATCH = 40, 4
TINY = Shape(3_072, 64, 128, 2, 4)
RECIPE = ["--num_epochs", 1, "--batch_size", BATCH, "--micro_batch_size", BATCH, "--eval_steps", 5]
RECIPE += ["--warmup_steps", 0, "--learning_rate", 1e-3, "--cutoff_len", 256]


@dataclass
class Box:
    """The machine under test and its files; base: the folder of the model. An adapter is in the folder of its name."""

    folder: Path
    pretend: bool
    base: Path

    @property
    def movie(self):
        return self.folder / "records" / "rec_data" / "movie"

    def run(self, script, *arguments):
        """What a script of this repository prints, run in this process; raises RuntimeError with its error line."""
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the device of the run before
        out, err, status = io.StringIO(), io.StringIO(), 0
        before = sys.argv
        sys.argv = [script, *map(str, arguments)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            sys.argv = before
        if status:
            raise RuntimeError(f"{script} ended with {status}: {(err.getvalue().strip() or '?').splitlines()[-1]}")
        return out.getvalue()

    def tuning(self, name, *flags):
        """The command of ins_tuning.py into the folder `name`."""
        paths = ["--train_data_path", self.movie / "train.json", "--val_data_path", self.movie / "valid.json"]
        return ["ins_tuning.py", "--base_model", self.base, *paths, "--output_dir", self.folder / name, *RECIPE, *flags]

    def tune(self, name, *flags):
        """The "results" of a run, whose adapter is in the folder `name`."""
        self.run(*self.tuning(name, *flags))
        return self.results(name)

    def results(self, name):
        return read(self.folder / name / "run.json")["results"]

    def evaluate(self, name, adapter, *flags, rows="valid"):
        """(metrics, P(Yes) of every row) of the adapter of that name, by evaluate.py into the folder `name`."""
        paths = ["--lora_weights", self.folder / adapter, "--test_data_path", self.movie / f"{rows}.json"]
        self.run("evaluate.py", "--base_model", self.base, *paths, "--output_dir", self.folder / name, *flags)
        lines = (self.folder / name / "predictions.jsonl").read_text().splitlines()
        return read(self.folder / name / "metrics.json"), [json.loads(line)["p_yes"] for line in lines]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def demand(condition, message):
    if not condition:
        raise RuntimeError(message)


def largest(one, other):
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def best(results):
    return next(entry for entry in results["history"] if entry["step"] == results["best_step"])


# ------------------------------------------------------------------------------------------------------------- checks


def machine(box):
    """Driver, CUDA, capability and memory."""
    import torch

    demand(torch.cuda.is_available(), "torch sees no GPU")
    driver = "pretended"
    if not box.pretend:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    major, minor = torch.cuda.get_device_capability()
    return (
        f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} visible, driver {driver}, torch "
        f"{torch.__version__}, CUDA {torch.version.cuda}, capability {major}.{minor}, "
        f"{torch.cuda.get_device_properties(0).total_memory / 1e9:.1f} GB"
    )


def tuning_in(flags):
    """The check that the steps with these flags run, with and without checkpointing, to about the same loss."""

    def tune(box):
        name = flags.replace("--", "").replace(" ", "-") or "auto"
        plain = box.tune(name, *flags.split())
        less = box.tune(f"{name}-checkpointing", *flags.split(), "--gradient_checkpointing")
        losses = best(plain)["eval_loss"], best(less)["eval_loss"]
        demand(largest(losses[:1], losses[1:]) < 0.05, f"losses differ with checkpointing: {losses}")
        return (
            f"loss {losses[0]:.4f}, with checkpointing {losses[1]:.4f}; {plain['tokens_per_second']} tokens/s; peak "
            f"{plain['peak_memory_gb']} GB, with checkpointing {less['peak_memory_gb']} GB"
        )

    tune.__doc__ = f"Tuning, {flags or 'auto'}."
    return tune


def stopped_and_resumed(box):
    """SIGTERM during a run, then the same command with --resume: as without a stop."""
    flags = ["--dtype", "float32", "--lora_dropout", 0, "--eval_steps", 1]
    whole = box.tune("not-stopped", *flags)
    checkpoints = box.folder / "stopped" / "checkpoints"

    def stop():
        while not list(checkpoints.glob("checkpoint-*")) and waiting:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    waiting, usual = [True], signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the tuner has a handler of its own
    watcher = threading.Thread(target=stop, daemon=True)
    try:
        watcher.start()
        try:
            box.run(*box.tuning("stopped", *flags))
        except RuntimeError as error:
            demand("ended with 143" in str(error), str(error))
        else:
            raise RuntimeError("the run had ended before the signal came")
    finally:
        waiting.clear()
        watcher.join()
        signal.signal(signal.SIGTERM, usual)
    resumed = box.tune("stopped", *flags, "--resume")
    difference = abs(best(resumed)["eval_loss"] - best(whole)["eval_loss"])
    demand(difference < 1e-3, f"losses differ by {difference}")
    return f"stopped after a checkpoint, resumed; validation loss differs by {difference:.1e}"


# How far apart two passes over a row may be, in P(Yes): validation during tuning has the answers in its batches, so 16 bits
# round otherwise, and in 8 bits a row's scores depend on the other rows of its batch.
ROUNDING = {"auto": 0.02, "dtype-float16": 0.005, "quantization-8bit": 0.02, "quantization-4bit": 0.02}


def nearly_tied(records, p_yes, rounding):
    """Share of the pairs of a liked and a disliked row whose P(Yes) are closer than `rounding`, which may change places."""
    liked, disliked = ([p for record, p in zip(records, p_yes) if record["output"] == answer] for answer in ANSWERS)
    near = sum(abs(one - other) < rounding for one in liked for other in disliked)
    return near / (len(liked) * len(disliked))


def one_auc(box):
    """evaluate.py gives each adapter the AUC that its tuning saw."""
    said = []
    for name, rounding in ROUNDING.items():
        if not (box.folder / name / "run.json").exists():
            continue  # its tuning has failed, or is not among the checks
        then = best(box.results(name))["eval_auc"]
        metrics, p_yes = box.evaluate(f"{name}-scored", name)
        now, tied = metrics["auc"], nearly_tied(read(box.movie / "valid.json"), p_yes, rounding)
        said.append(f"{name} {now:.4f} (during tuning {then:.4f})")
        demand(abs(now - then) <= tied + 1e-3, f"{name}: {now}, during tuning {then}; rounding explains {tied}")
    return ", ".join(said)


def like_the_cpu(box):
    """float32 on the GPU is float32 on the CPU."""
    flags = ["auto", "--dtype", "float32"]
    _, gpu = box.evaluate("float32-gpu", *flags, rows="test")
    _, cpu = box.evaluate("float32-cpu", *flags, "--device", "cpu", rows="test")
    demand(largest(gpu, cpu) < 1e-4, f"P(Yes) differs by up to {largest(gpu, cpu)}")
    return f"P(Yes) of {len(gpu)} rows differs by at most {largest(gpu, cpu):.1e}"


def ranking(box):
    """Ranking among 20 items."""
    paths = ["--test_data_path", box.movie / "test.json", "--output_dir", box.folder / "ranked"]
    out = box.run("evaluate.py", "--base_model", box.base, "--lora_weights", box.folder / "auto", *paths, "--rank", 20)
    found = read(box.folder / "ranked" / "ranking.json")
    said = [line for line in out.splitlines() if line.startswith("ranking:")]
    return f"{' '.join(said[:1])} {len(found)} entries".strip()


def too_little_memory(box):
    """With less memory than a scoring pass takes it is halved, to the same scores."""
    import torch

    from tlrec.data.records import read_records
    from tlrec.model import base_models
    from tlrec.model.prompts import load_frame
    from tlrec.scoring.records import Scorer

    model = base_models.load_base_model(box.base, torch.device("cuda"), torch.float32)
    records = read_records(box.movie / "test.json") * (1 if box.pretend else 20)
    scorer = Scorer(base_models.load_tokenizer(POCKET), records, load_frame("alpaca"), 256)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    whole = scorer.score(model)
    needed = torch.cuda.max_memory_allocated() - held
    torch.cuda.empty_cache()
    total, out = torch.cuda.get_device_properties(0).total_memory, io.StringIO()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() or held) / total + needed / 2 / total)
        with contextlib.redirect_stdout(out):
            halved = scorer.score(model)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    demand("out of memory: continuing" in out.getvalue(), "memory did not run out")
    difference = largest(whole.p_yes, halved.p_yes)
    demand(difference < 1e-4, f"P(Yes) differs by up to {difference}")
    return f"{out.getvalue().strip().splitlines()[-1]}; P(Yes) differs by at most {difference:.1e}"


def two_gpus(box):
    """Two processes, and FSDP, tune as one does; both are evaluated."""
    import torch

    if box.pretend or torch.cuda.device_count() < 2:
        return SKIPPED + "one GPU"
    flags = ["--dtype", "float32", "--lora_dropout", 0]
    one, said = best(box.tune("one-gpu", *flags))["eval_loss"], []
    configuration = REPOSITORY / "shell" / "accelerate" / "fsdp.yaml"
    for name, how in (("ddp", ["--multi_gpu"]), ("fsdp", ["--config_file", configuration])):
        command = box.tuning(f"two-gpus-{name}", *flags)
        launch = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", 2, "--gpu_ids", "all"]
        made = subprocess.run([*map(str, launch + command)], cwd=REPOSITORY, capture_output=True, text=True)
        demand(made.returncode == 0, f"{name}: {(made.stderr.strip() or '?').splitlines()[-1]}")
        loss = best(box.results(f"two-gpus-{name}"))["eval_loss"]
        metrics, _ = box.evaluate(f"{name}-scored", f"two-gpus-{name}")
        demand(abs(loss - one) < 1e-3, f"{name}: validation loss {loss}, on one GPU {one}")
        said.append(f"{name}: loss {loss:.4f} (one GPU {one:.4f}), AUC {metrics['auc']:.4f}")
    return "; ".join(said)


def write_random_model(folder, shape, device):
    """A random LLaMA of this shape, in 16 bits, with the tokenizer of pocket-llama."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.models import llama_config

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(llama_config(shape), dtype=torch.float16)
    model.to("cpu").save_pretrained(folder)
    for file in POCKET.glob("*token*"):
        shutil.copy(file, folder)


def like_llama_7b(box):
    """A step and a scoring pass of a random model of 7B shape, beside the memory table."""
    import torch

    from benchmarks.memory_table import SHAPES, scored, total

    shape = TINY if box.pretend else SHAPES["LLaMA-7B"]
    room = shutil.disk_usage(box.folder).free
    if not box.pretend and room < 16e9:
        return SKIPPED + f"its weights take 14 GB, and the disk has {room / 1e9:.0f}; give another --output_dir"
    large = Box(box.folder, box.pretend, box.folder / "random-7b")
    # on a CPU, random numbers for 7B weights take minutes
    write_random_model(large.base, shape, "cpu" if box.pretend else "cuda")
    torch.cuda.empty_cache()
    said = []
    try:
        for quantization in ("none", "8bit"):
            flags = ["--dtype", "float16", "--quantization", quantization, "--gradient_checkpointing"]
            flags += ["--max_train_samples", BATCH, "--micro_batch_size", 1, "--max_val_samples", 8]
            results = large.tune(f"7b-{quantization}", *flags)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            large.evaluate(f"7b-{quantization}-scored", f"7b-{quantization}")
            found = results["peak_memory_gb"], torch.cuda.max_memory_allocated() / 1e9
            counted = total(shape, 256, quantization, True) / 1e9, scored(shape, 256, quantization) / 1e9
            said.append(
                f"{quantization}: a step {found[0]:.2f} GB (counted {counted[0]:.2f}), scoring {found[1]:.2f} GB (counted "
                f"{counted[1]:.2f} for one row)"
            )
    finally:
        shutil.rmtree(large.base)
    return "; ".join(said)


SKIPPED = "not done: "
CHECKS = [
    machine,
    *map(tuning_in, ("", "--dtype float16", "--quantization 8bit", "--quantization 4bit")),
    stopped_and_resumed,
    one_auc,
    like_the_cpu,
    ranking,
    too_little_memory,
    two_gpus,
    like_llama_7b,
]


def run_checks(box):
    """[{"check", "passed" (None: not done), "found", "seconds"}], each printed as soon as it is known."""
    results = []
    for check in CHECKS:
        started, passed = time.perf_counter(), True
        try:
            found = check(box)
            passed = None if found.startswith(SKIPPED) else True
        except Exception as error:  # whatever a GPU box comes up with is what this program is for
            passed, found = False, f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
            (box.folder / "errors.txt").open("a").write(f"{check.__doc__}\n{traceback.format_exc()}\n")
        seconds = round(time.perf_counter() - started, 1)
        results.append({"check": check.__doc__, "passed": passed, "found": found, "seconds": seconds})
        word = {True: "pass", False: "FAIL", None: "-"}[passed]
        print(f"{word:<5}{seconds:>6.1f} s  {check.__doc__}\n{'':15}{found}", flush=True)
    return results


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", default=".", help="folder of gpu_check.json (default: this one)")
    parser.add_argument("--pretend", action="store_true", help="on a pretended GPU, to check this program")
    args = parser.parse_args(arguments)
    from tlrec.demo.workspace import make_workspace

    output = Path(args.output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir {output}: cannot be made: {error.strerror}") from None
    pretended = contextlib.nullcontext()
    if args.pretend:
        from tests.support.fake_cuda import FakeCuda

        pretended = FakeCuda()
    with tempfile.TemporaryDirectory(dir=output, prefix=".gpu_check-") as folder, pretended:
        box = Box(Path(folder), args.pretend, POCKET)
        if args.pretend:  # where each operation takes long, whatever its size
            box.base = box.folder / "tiny"
            write_random_model(box.base, TINY, "cpu")
        sizes = {"train": 2 * BATCH if args.pretend else ROWS, "valid": 12, "test": 24}
        few = dict.fromkeys(sizes, 12)
        domains = {"netflix": few, "amazon-book": few, "movie": sizes, "book": few}
        make_workspace(box.folder / "records", 0, domains)
        results = run_checks(box)
        if (errors := box.folder / "errors.txt").exists():
            errors.replace(output / "gpu_check_errors.txt")
    write_json(output / "gpu_check.json", {"pretended": args.pretend, "checks": results})
    failed = sum(result["passed"] is False for result in results)
    print(f"{failed} of {len(results)} checks failed; {output / 'gpu_check.json'}")
    return 1 if failed else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
