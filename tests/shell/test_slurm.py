"""The SLURM example, as SLURM runs it: a copy of the file elsewhere, under bash, with SLURM's variables.

1. bash parses it, its flags for sbatch stand before its first command, and without a target or a GPU it stops.
2. It starts few_shot.sh with the task's number for a seed and the task's GPU, and ends as the tuner ends.
3. Before its time is up it stops the tuner with SIGTERM, waits until that has saved, and puts its own task back into the
   queue; cancelled, it stops the tuner and does not come back.
"""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "shell" / "slurm_few_shot.sbatch"
# Stands for Python: notes GPU and arguments, then works until SIGTERM; what it saves then takes longer than a launcher lives.
TUNER = """#!/usr/bin/env bash
trap 'sleep 0.5; echo saved >> "$LOG"; exit 143' TERM
echo "GPU=$CUDA_VISIBLE_DEVICES $*" >> "$LOG"
[ -z "${ENDS:-}" ] || exit "$ENDS"
for _ in $(seq 2000); do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$LOG"
"""


@pytest.fixture
def submit(tmp_path, root):
    """submit(*arguments, **environment) -> Popen of a task as SLURM starts it."""
    for path, text in ((tmp_path / "bin" / "scontrol", SCONTROL), (tmp_path / "tuner", TUNER)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    copy = shutil.copy(SCRIPT, tmp_path / "slurm_script")
    known = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "LOG": str(tmp_path / "log")}
    known |= {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}
    known |= {"CUDA_VISIBLE_DEVICES": "2", "ROOT_PATH": str(root), "PYTHON": str(tmp_path / "tuner")}
    known["INSTRUCTION_ADAPTER"] = "none"

    def start(*arguments, **environment):
        command = ["bash", copy, *arguments]
        return subprocess.Popen(command, env=known | environment, cwd=tmp_path, text=True, stderr=subprocess.PIPE)

    return start


@pytest.fixture
def log(tmp_path):
    """log(lines) waits until so many lines are there, and returns all."""

    def lines(count):
        path, until = tmp_path / "log", time.monotonic() + 60
        while (len(path.read_text().splitlines()) if path.exists() else 0) < count and time.monotonic() < until:
            time.sleep(0.02)
        return path.read_text().splitlines()

    return lines


def test_bash_parses_it_and_sbatch_finds_its_flags():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    lines = SCRIPT.read_text().splitlines()
    flags = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert all(not line or line.startswith("#") for line in lines[: flags[-1]])  # sbatch stops at the first command
    given = dict(re.match(r"#SBATCH --([\w-]+)=?(\S*)", lines[number]).groups() for number in flags)
    assert given["array"] == "0-4" and given["signal"] == "B:USR1@120" and given["requeue"] == ""


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        ([], {}, "usage: sbatch shell/slurm_few_shot.sbatch TARGET "),
        (
            ["movie"],
            {"CUDA_VISIBLE_DEVICES": ""},
            "error: SLURM has given this task no GPU (CUDA_VISIBLE_DEVICES is empty)",
        ),
    ],
)
def test_a_mistake_is_one_line(submit, arguments, environment, message):
    task = submit(*arguments, **environment)
    _, err = task.communicate()
    assert task.returncode == 2 and err.startswith(message) and err.count("\n") == 1


@pytest.mark.parametrize("status", [0, 2])
def test_a_task_is_one_seed_of_the_launcher(submit, log, status):
    task = submit("movie", "--num_epochs", "10", SHOTS="16 64", ENDS=str(status))
    assert task.wait(60) == status
    (line,) = log(1)
    assert line.startswith(f"GPU=2 {REPOSITORY}/rec_tuning.py --base_model ")
    assert "--sample 16 64 --seed 3 --device cuda " in line and line.endswith("--target movie --num_epochs 10")


@pytest.mark.parametrize("sent, last", [(signal.SIGUSR1, ["scontrol requeue 77_3"]), (signal.SIGTERM, [])], ids=str)
@pytest.mark.slow
def test_a_task_that_is_stopped_saves_first(submit, log, sent, last):
    task = submit("movie")
    assert len(log(1)) == 1
    task.send_signal(sent)
    assert task.wait(60) > 128
    assert log(2 + len(last))[1:] == ["saved", *last]
