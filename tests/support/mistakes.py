"""Mistakes on the command line: many of them, one after the other, in one process that starts without torch."""

import json
import subprocess
import sys

from tests.conftest import REPOSITORY

HEAVY = ("torch", "transformers", "peft", "accelerate", "pandas", "sklearn", "matplotlib", "datasets")
RUNNER = """
import contextlib, io, json, runpy, sys
results = []
for script, *arguments in json.load(sys.stdin):
    sys.argv, out, err, status = [script, *arguments], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        except Exception as error:
            status = repr(error)
    heavy = [name for name in HEAVY if name in sys.modules]
    results.append([status, out.getvalue(), err.getvalue(), heavy])
json.dump(results, sys.stdout)
""".replace("HEAVY", repr(HEAVY))


def run_all(commands):
    """[status, standard output, standard error, heavy modules imported so far] of each [script, argument, ...]."""
    given = json.dumps([[str(word) for word in command] for command in commands])
    words = [sys.executable, "-c", RUNNER]
    done = subprocess.run(words, input=given, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return json.loads(done.stdout)


def assert_mistakes(script, cases, *given):
    """cases: (flags, a list, or words in one string; how the error goes on behind "error: "), of a command line that
    begins with the `given` flags. Each must end in that one line and status 2, and none may import torch; --help comes
    first and must import none of HEAVY."""
    cases = [(flags.split() if isinstance(flags, str) else flags, message) for flags, message in cases]
    shown, *results = run_all([[script, "--help"], *([script, *given, *flags] for flags, _ in cases)])
    assert shown[0] == 0 and shown[3] == [], shown
    for (flags, message), (status, _, err, heavy) in zip(cases, results, strict=True):
        assert (status, err.count("\n")) == (2, 1) and err.startswith(f"error: {message}"), (flags, status, err)
        assert not {"torch", "transformers"} & set(heavy), flags
