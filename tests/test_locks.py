"""One run at a time writes to a folder: tlrec/runs/locks.py.

1. Another process is refused in one line with the number of the first; what the block leaves is no trace.
2. The lock ends with its process, however it dies.
3. Looking whether a folder is free changes nothing.
"""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tlrec.errors import InputError
from tlrec.runs.locks import LOCK, check_unlocked, locked

HOLD = """
import sys
from tlrec.runs.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "run"; ends when its standard input does."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_refused(holder, tmp_path, monkeypatch):
    monkeypatch.setattr("tlrec.runs.locks.PATIENCE", 0.2)
    said = (
        re.escape(f"{tmp_path / 'run'}: process {holder.pid} on ")
        + r"\S+ is writing there; wait for its end, or give another"
    )
    for look in (check_unlocked, lambda folder: locked(folder).__enter__()):
        with pytest.raises(InputError, match=said):
            look(tmp_path / "run")
    holder.communicate()
    check_unlocked(tmp_path / "run")
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text().startswith(f"{os.getpid()} on ")
    assert list((tmp_path / "run").iterdir()) == []


def test_it_ends_with_its_process(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    check_unlocked(tmp_path / "run")
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_looking_changes_nothing(tmp_path):
    check_unlocked(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
