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
from tests.support.served import Server
options = dict(zip(arguments[2::2], arguments[3::2]))
server = Server(AutoModelForCausalLM.from_pretrained(options["--model"]).eval(), port=int(options["--port"]))
if how == "hangs":
    server.answer = lambda *arguments: ((folder / "asked").touch(), time.sleep(300))
server.serve_forever()
"""


@pytest.fixture
def score(tiny_llama, tiny_adapter, tiny_workspace, tmp_path):
    """score(how the server behaves) starts the launcher in a process group of its own."""
    (tmp_path / "stand_in.py").write_text(STAND_IN.format(folder=str(tmp_path)))
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" "{tmp_path}/stand_in.py" "$@"\n')
    python.chmod(0o755)

    def start(how="serves", **environment):
        (tmp_path / "how").write_text(how)
        own = {"PYTHON": sys.executable, "BASE_MODEL": str(tiny_llama), "VLLM": str(tmp_path / "vllm")}
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
    log = tmp_path / "merged.log"
    assert process.returncode == 2 and err.splitlines()[-1] == (
        f"error: vLLM's server stopped: CUDA out of memory (all of it: {log})"
    )
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
