"""shell/score_with_vllm.sh, with stand-ins for the export and for vLLM's server, which answers by the exported model.

1. One command exports, serves as vLLM's module on this machine alone, in the export's number type, and leaves metrics.json
   and predictions.jsonl; the server is stopped.
2. A server that stops is one line; Ctrl-C and SIGTERM leave no server.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import REPOSITORY
from tests.shell.conftest import program
from tlrec.evaluation.results import read_evaluation

pytestmark = pytest.mark.slow
SERVER = """
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
with serving(answer, int(options["--port"])):
    time.sleep(300)
"""
PYTHON = """
case "$1" in *export_model.py) echo "$*" > "{folder}/export"; exec cp -r "{merged}" "{folder}/merged" ;; esac
exec "{python}" "$@"
"""


@pytest.fixture
def score(tiny_llama, tiny_adapter, tiny_workspace, merged_folder, tmp_path):
    """score(how the server behaves) starts the launcher in a process group of its own."""
    python = program(tmp_path / "python", PYTHON.format(merged=merged_folder, python=sys.executable, folder=tmp_path))
    (tmp_path / "server.py").write_text(SERVER.format(folder=str(tmp_path)))
    vllm = f'PYTHONPATH="{REPOSITORY}" exec "{sys.executable}" "{tmp_path}/server.py" "$@"\n'
    program(tmp_path / "vllm" / "bin" / "python", vllm)
    own = {"PYTHON": python, "BASE_MODEL": str(tiny_llama), "VLLM": str(tmp_path / "vllm")}
    own |= {"EXPORT": str(tmp_path / "merged"), "OUTPUT_DIR": str(tmp_path / "out")}
    test = tiny_workspace / "rec_data" / "movie" / "test.json"

    def start(how, **environment):
        (tmp_path / "how").write_text(how)
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


def test_one_command_leaves_the_metrics(score, tiny_llama, tiny_adapter, tmp_path):
    process = score("serves")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "server").read_text()), 0)
    metrics, predictions = read_evaluation(tmp_path / "out")
    assert len(predictions["p_yes"]) == metrics["n"] == 24 and f"===== auc: {metrics['auc']} =====" in out
    flags = f"--base_model {tiny_llama} --lora_weights {tiny_adapter} --output_dir {tmp_path}/merged --device cpu --overwrite"
    assert (tmp_path / "export").read_text() == f"{REPOSITORY}/base_model/export_model.py {flags}\n"
    served = (tmp_path / "arguments").read_text()
    module = "-m vllm.entrypoints.openai.api_server"
    assert served.startswith(f"{module} --model {tmp_path}/merged --host 127.0.0.1 --port ")
    assert "--dtype float32 --generation-config vllm" in served


def test_a_server_that_stops_is_one_line(score, tmp_path):
    process = score("stops")
    _, err = process.communicate(timeout=400)
    said = f"error: vLLM's server stopped: CUDA out of memory (all of it: {tmp_path / 'merged.log'})"
    assert (process.returncode, err.splitlines()[-1]) == (2, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_stops_the_server_whatever_happens(score, tmp_path, number, status):
    process, until = score("waits"), time.monotonic() + 120
    while not (tmp_path / "arguments").exists() and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, number)  # as a terminal, or a batch system, does
    assert process.wait(timeout=60) == status
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "server").read_text()), 0)
