"""Speed and safety of cot_data/generate_data.py: the real command, connected to the offline teacher.

    python benchmarks/bench_generation.py --json bench_generation.json

speed     160 samples, 16 in flight, a server that takes 0.5 s for an answer: seconds from the first call to the last
          answer, compared with the ideal of ten rounds of three answers (target: within 10 %), and of the whole
          command.
failures  160 samples while 30 % of the calls fail in mixed ways: starts needed until nothing is missing, and prompts
          asked again after they were answered (target: none).
kills     the command is killed (kill -9) at 20 random moments and started again: stage123.json must be the same, byte
          for byte, as without kills, and no answer may be in the journal twice.
memory    peak memory of the whole command for 1,000 samples (target: under 300 MiB).
The records come from the demo world. Run it on an idle machine: it measures wall time, and the teacher runs here too.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES, IN_FLIGHT, DELAY = 160, 16, 0.5
MIXED_FAILURES = (
    "--rate_limited 0.1 --retry_after 0.2 --server_error 0.08 --dropped 0.06 --timed_out 0.04 --garbled 0.02"
)


@contextmanager
def teacher(root, flags=""):
    """Run the offline teacher with a new log; yields the environment that points to it."""
    url, log = root / "teacher.url", root / "teacher.log"
    url.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tlrec.demo.teacher", "--url_file", url, "--log", log, *flags.split()]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        while not url.exists():
            time.sleep(0.02)
        yield {**os.environ, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": url.read_text()}
    finally:
        process.terminate()
        process.wait()


def start(root, environment, flags):
    """Start the real command; its output goes to files below root."""
    command = [sys.executable, REPOSITORY / "cot_data" / "generate_data.py", "--root_path", root]
    command += ["--model", "tlrec-offline-teacher", *flags.split()]
    with open(root / "output", "w") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)


def finish(process, root):
    """Wait for the command; (status, peak memory in MiB)."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        sys.exit((root / "output").read_text())
    return process.returncode, usage.ru_maxrss / 1024


def journal(root):
    return root / "cot_data" / "netflix" / "three_stages.jsonl"


def answers(root):
    """(pid, stage) of the whole answers in the journal."""
    lines = journal(root).read_bytes().splitlines(keepends=True)[1:] if journal(root).exists() else []
    entries = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [(entry["pid"], entry["stage"]) for entry in entries if "text" in entry]


def asked_again(root):
    """Prompts that were sent to the teacher again after it had answered them."""
    answered, again = set(), 0
    for entry in map(json.loads, (root / "teacher.log").read_text().splitlines()):
        again += entry["prompt"] in answered
        if entry["fate"] == "answered":
            answered.add(entry["prompt"])
    return again


def stage123(root):
    command = [sys.executable, REPOSITORY / "cot_data" / "preprocess_data.py", "--root_path", root, "--overwrite"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (root / "cot_data" / "stage123.json").read_bytes()


def clear(root):
    shutil.rmtree(root / "cot_data", ignore_errors=True)


def measure_speed(root):
    with teacher(root, f"--delay {DELAY}") as environment:
        begin = time.perf_counter()
        process = start(root, environment, f"--max_samples {SAMPLES} --concurrency {IN_FLIGHT}")
        while not journal(root).exists():  # made just before the first call
            time.sleep(0.002)
        first_call = time.perf_counter()
        while len(answers(root)) < 3 * SAMPLES:
            time.sleep(0.02)
        seconds = time.perf_counter() - first_call
        finish(process, root)
        whole = time.perf_counter() - begin
    ideal = SAMPLES / IN_FLIGHT * 3 * DELAY
    share = round(seconds / ideal - 1, 3)
    return {"seconds": round(seconds, 2), "ideal": ideal, "over_ideal": share, "whole_command": round(whole, 2)}


def measure_failures(root):
    starts, status = 0, 1
    with teacher(root, MIXED_FAILURES + " --hang 3") as environment:
        while status:
            status, _ = finish(start(root, environment, f"--max_samples {SAMPLES} --timeout 2"), root)
            starts += 1
        fates = Counter(json.loads(line)["fate"] for line in (root / "teacher.log").read_text().splitlines())
    failed = 1 - fates["answered"] / fates.total()
    return {"calls": fates.total(), "failed": round(failed, 3), "starts": starts, "asked_again": asked_again(root)}


def measure_kills(root, kills, seed):
    with teacher(root) as environment:
        finish(start(root, environment, f"--max_samples {SAMPLES}"), root)
        undisturbed = stage123(root)
        clear(root)
    moments, again = [], 0
    with teacher(root, "--delay 0.05") as environment:
        flags = f"--max_samples {SAMPLES} --concurrency 4"
        pause = random.Random(seed)
        for _ in range(kills):
            before, process = len(answers(root)), start(root, environment, flags)
            while len(answers(root)) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(pause.random() * 0.3)
            process.kill()
            process.wait()
            moments.append(len(answers(root)))
        finish(start(root, environment, flags), root)
    again = sum(count - 1 for count in Counter(answers(root)).values())
    return {"answers_at_kills": moments, "journal_holds_twice": again, "same_bytes": stage123(root) == undisturbed}


def measure_memory(root):
    with teacher(root) as environment:
        status, peak = finish(start(root, environment, "--max_samples 1000"), root)
    samples = int(re.search(r"(\d+) samples complete", (root / "output").read_text())[1])
    return {"samples": samples, "peak_mib": round(peak)}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--parts", nargs="+", default=["speed", "failures", "kills", "memory"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()

    parts = {
        "speed": measure_speed,
        "failures": measure_failures,
        "kills": lambda root: measure_kills(root, args.kills, args.seed),
        "memory": measure_memory,
    }
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        command = [sys.executable, "-m", "tlrec.demo.workspace", root, "--netflix_train", "4000"]
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        for name in args.parts:
            clear(root)
            results[name] = {**parts[name](root), "load": round(os.getloadavg()[0], 1)}
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
