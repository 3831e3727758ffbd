"""The SLURM example, as SLURM runs it: a copy of the file elsewhere, under bash, with SLURM's variables.

1. Its flags for sbatch stand before its first command, and without a target or a GPU it stops.
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
from tests.shell.conftest import program

SCRIPT = REPOSITORY / "shell" / "slurm_few_shot.sbatch"
# Stands for Python: notes GPU and arguments, then works until SIGTERM; what it saves then takes longer than a launcher lives.
TUNER = """
trap 'sleep 0.5; echo saved >> "$LOG"; exit 143' TERM
echo "GPU=$CUDA_VISIBLE_DEVICES $*" >> "$LOG"
[ -z "${ENDS:-}" ] || exit "$ENDS"
for _ in $(seq 2000); do sleep 0.05; done
"""


@pytest.fixture
def submit(tmp_path, root):
    """submit(*arguments, **environment) -> Popen of a task as SLURM starts it; what it does is noted in tmp_path/log."""
    program(tmp_path / "bin" / "scontrol", 'echo "scontrol $*" >> "$LOG"')
    copy = shutil.copy(SCRIPT, tmp_path / "slurm_script")
    known = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "LOG": str(tmp_path / "log")}
    known |= {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}
    known |= {"CUDA_VISIBLE_DEVICES": "2", "ROOT_PATH": str(root), "PYTHON": program(tmp_path / "tuner", TUNER)}
    known |= {"INSTRUCTION_ADAPTER": "none"}

    def start(*arguments, **environment):
        command = ["bash", copy, *arguments]
        return subprocess.Popen(command, env=known | environment, cwd=tmp_path, text=True, stderr=subprocess.PIPE)

    return start


def test_sbatch_finds_its_flags():
    head, _, _ = SCRIPT.read_text().partition("\nset -euo")  # sbatch stops at the first command
    assert all(not line or line.startswith("#") for line in head.splitlines())
    given = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", head, re.MULTILINE))
    assert (given["array"], given["signal"], given["requeue"]) == ("0-4", "B:USR1@120", "")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "usage: sbatch shell/slurm_few_shot.sbatch TARGET "),
        (["movie"], "error: SLURM has given this task no GPU ("),
    ],
)
def test_a_mistake_is_one_line(submit, arguments, message):
    task = submit(*arguments, CUDA_VISIBLE_DEVICES="")
    _, err = task.communicate()
    assert task.returncode == 2 and err.startswith(message) and err.count("\n") == 1


@pytest.mark.parametrize("status", [0, 2])
def test_a_task_is_one_seed_of_the_launcher(submit, tmp_path, status):
    task = submit("movie", "--num_epochs", "10", SHOTS="16 64", ENDS=str(status))
    assert task.wait(60) == status
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"GPU=2 {REPOSITORY}/rec_tuning.py --base_model ")
    assert "--sample 16 64 --seed 3 --device cuda " in line and line.endswith("--target movie --num_epochs 10")


@pytest.mark.parametrize("sent, last", [(signal.SIGUSR1, ["scontrol requeue 77_3"]), (signal.SIGTERM, [])], ids=str)
@pytest.mark.slow
def test_a_task_that_is_stopped_saves_first(submit, tmp_path, sent, last):
    task, log, until = submit("movie"), tmp_path / "log", time.monotonic() + 60
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < until
        time.sleep(0.02)
    task.send_signal(sent)
    assert task.wait(60) > 128
    assert log.read_text().splitlines()[1:] == ["saved", *last]
