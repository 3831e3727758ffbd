"""shell/score_with_vllm.sh, with a stand-in for vLLM's server that answers by the exported model.

1. One command leaves the metrics.json of evaluate.py: the same AUC, the same probabilities; the server is stopped.
2. The server is started as vLLM's module, with the exported folder in its number type, on this machine alone.
3. A server that stops, Ctrl-C while it starts, and SIGTERM while rows are scored leave no server; mistakes are one line.
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tlrec.evaluation.results import read_evaluation

pytestmark = pytest.mark.slow
STAND_IN = """
import os, sys, time
from pathlib import Path
folder, arguments = Path({folder!r}), sys.argv[1:]
(folder / "server").write_text(str(os.getpid()))
(folder / "arguments").write_text(" ".join(arguments))
how = (folder / "how").read_text()
if how == "stops":
    sys.exit("CUDA out of memory")
if how == "waits":
    time.sleep(300)
from transformers import AutoModelForCausalLM
from tests.support.hostile import serving
from tests.support.served import like_vllm
options = dict(zip(arguments[2::2], arguments[3::2]))
answer = like_vllm(AutoModelForCausalLM.from_pretrained(options["--model"]).eval())
def hang(handler):
    if handler.path != "/v1/models":
        (folder / "asked").touch()
        time.sleep(300)
    answer(handler)
with serving(hang if how == "hangs" else answer, int(options["--port"])):
    time.sleep(300)
"""
# Stands for Python where the export is not what is looked at
EXPORTED = """#!/bin/sh
case "$1" in *export_model.py) exec cp -r "{merged}" "$EXPORT" ;; esac
exec "{python}" "$@"
"""


@pytest.fixture
def score(tiny_llama, tiny_adapter, tiny_workspace, merged_folder, tmp_path):
    """score(how the server behaves) starts the launcher in a process group of its own."""
    (tmp_path / "exported").write_text(EXPORTED.format(merged=merged_folder, python=sys.executable))
    (tmp_path / "exported").chmod(0o755)
    (tmp_path / "stand_in.py").write_text(STAND_IN.format(folder=str(tmp_path)))
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" "{tmp_path}/stand_in.py" "$@"\n')
    python.chmod(0o755)

    def start(how="serves", **environment):
        (tmp_path / "how").write_text(how)
        python = sys.executable if how == "serves" else str(tmp_path / "exported")
        own = {"PYTHON": python, "BASE_MODEL": str(tiny_llama), "VLLM": str(tmp_path / "vllm")}
        own |= {"EXPORT": str(tmp_path / "merged"), "OUTPUT_DIR": str(tmp_path / "out")}
        test = tiny_workspace / "rec_data" / "movie" / "test.json"
        return subprocess.Popen(
            ["bash", REPOSITORY / "shell" / "score_with_vllm.sh", "cpu", tiny_adapter, test],
            env=os.environ | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored below a shell's background job
        )

    return start


def assert_no_server(folder):
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "server").read_text()), 0)


def test_it_leaves_what_evaluate_leaves(score, run_script, tiny_llama, tiny_adapter, tiny_workspace, tmp_path):
    process = score()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert_no_server(tmp_path)
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    flags = ["--base_model", tiny_llama, "--lora_weights", tiny_adapter, "--test_data_path", test, "--device", "cpu"]
    assert run_script("evaluate.py", *flags, "--output_dir", tmp_path / "local")[0] == 0
    (served, theirs), (local, ours) = (read_evaluation(tmp_path / name) for name in ("out", "local"))
    assert served["auc"] == local["auc"] and set(served) == set(local)
    np.testing.assert_allclose(theirs["p_yes"], ours["p_yes"], rtol=1e-4)
    assert f"===== auc: {local['auc']} =====" in out
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith(
        f"-m vllm.entrypoints.openai.api_server --model {tmp_path}/merged --host 127.0.0.1 --port "
    )
    assert "--dtype float32 --generation-config vllm" in arguments


def test_a_server_that_stops_is_one_line(score, tmp_path):
    process = score("stops")
    _, err = process.communicate(timeout=400)
    said = f"error: vLLM's server stopped: CUDA out of memory (all of it: {tmp_path / 'merged.log'})"
    assert (process.returncode, err.splitlines()[-1]) == (2, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("how", "number", "status"), [("waits", signal.SIGINT, 130), ("hangs", signal.SIGTERM, 143)])
def test_it_stops_the_server_whatever_happens(score, tmp_path, how, number, status):
    process = score(how)
    sign, until = tmp_path / ("arguments" if how == "waits" else "asked"), time.monotonic() + 120
    while not sign.exists() and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, number)  # as a terminal, or a batch system, does
    assert process.wait(timeout=60) == status
    assert_no_server(tmp_path)


def test_mistakes_are_one_line(score, tmp_path):
    process = score(VLLM=str(tmp_path))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.count("\n") == 1
    assert f"error: VLLM '{tmp_path}': name an environment with vLLM; bash benchmarks/peers.sh vllm makes" in err
