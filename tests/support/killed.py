"""Runs scripts of the project in forked processes, which it kills at random moments and starts again until they end.

    python tests/support/killed.py SEED MOST KILLS COMMANDS.json [KILLS COMMANDS.json ...]

COMMANDS.json: a list of command lines, ["ins_tuning.py", "--flag", ...], one after the other, all of which write below
the folder of that file. Each is killed KILLS times: a process dies a few milliseconds after it has touched files there
for the n-th time; n is drawn from 1 to MOST, anew for each process. So the moments are those at which something can be
lost, on a machine of any speed. Prints a line for each file: how many processes of each command were killed. Forking
after torch is imported makes a start cost a fraction of a second.
"""

import importlib.util
import json
import os
import random
import signal
import sys
from pathlib import Path

from tlrec.errors import one_line_errors
from tlrec.scoring import records as scoring  # noqa: F401  # imported by all children once
from tlrec.tuning import trainer  # noqa: F401

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TOUCHES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}  # events of sys.addaudithook


def die_at(folder, moment, seconds):
    """Let this process die `seconds` after something has happened to files below `folder` for the `moment`-th time.

    The alarm's default action ends the process as SIGKILL does, in the middle of whatever it does.
    """
    left = moment

    def look(event, arguments):
        nonlocal left
        if event in TOUCHES and folder in str(arguments[0]):
            left -= 1
            if left == 0:
                signal.setitimer(signal.ITIMER_REAL, seconds)

    sys.addaudithook(look)


def run(command, before):
    """The script's main in a new process, which calls `before` first; returns its number."""
    if child := os.fork():
        return child
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, sys.stdout.fileno())
    spec = importlib.util.spec_from_file_location("script", REPOSITORY / command[0])
    script = importlib.util.module_from_spec(spec)
    sys.argv = command
    status = 1
    try:
        before()
        spec.loader.exec_module(script)
        with one_line_errors():
            script.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        os._exit(status)


def main():
    draw, most = random.Random(int(sys.argv[1])), int(sys.argv[2])
    for kills, path in zip(sys.argv[3::2], sys.argv[4::2]):
        print(*kill_and_start_again(draw, most, int(kills), Path(path)))


def kill_and_start_again(draw, most, kills, path):
    """How many processes were killed of each command of the file at `path`."""
    commands = json.loads(path.read_text())
    killed = [0] * len(commands)
    for number, command in enumerate(commands):
        while True:  # until it ends
            moment, seconds = draw.randint(1, most), draw.uniform(1e-6, 0.02)
            to_kill = killed[number] < kills
            child = run(command, lambda: to_kill and die_at(str(path.parent), moment, seconds))
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed[number] += 1
                continue
            if os.WEXITSTATUS(status):
                sys.exit(f"{command[0]} ended with status {os.WEXITSTATUS(status)}")
            break
    return killed


if __name__ == "__main__":
    main()
