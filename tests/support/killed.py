"""Runs scripts of the project in forked processes, which it kills at random moments and starts again until they end.

    python tests/support/killed.py SEED KILLS MEAN_SECONDS COMMANDS.json

COMMANDS.json: a list of command lines, ["ins_tuning.py", "--flag", ...], one after the other. Prints how many processes
were killed. Forking after torch is imported makes a start cost a fraction of a second.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY))

from tlrec.errors import one_line_errors  # noqa: E402
from tlrec.model import base_models, scoring  # noqa: E402, F401  # imported by all children once
from tlrec.tuning import trainer  # noqa: E402, F401


def run(command):
    """The script's main in a new process; returns its number."""
    if child := os.fork():
        return child
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, sys.stdout.fileno())
    spec = importlib.util.spec_from_file_location("script", REPOSITORY / command[0])
    script = importlib.util.module_from_spec(spec)
    sys.argv = command
    status = 1
    try:
        spec.loader.exec_module(script)
        with one_line_errors():
            script.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        os._exit(status)


def main():
    seed, kills, mean, commands = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), json.load(open(sys.argv[4]))
    moments, killed = random.Random(seed), 0
    for command in commands:
        while True:
            child = run(command)
            if killed < kills:
                time.sleep(moments.expovariate(1 / mean))
                os.kill(child, signal.SIGKILL)  # which finds a process that has ended unreaped, and does nothing to it
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed += 1
                continue
            if os.WEXITSTATUS(status):
                sys.exit(f"{command[0]} ended with status {os.WEXITSTATUS(status)}")
            break
    print(killed)


if __name__ == "__main__":
    main()
