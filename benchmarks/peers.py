"""Programs that TLRec is compared with, each in an environment of its own, which `bash benchmarks/peers.sh` makes."""

import atexit
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import models
from tlrec.errors import InputError

PEERS = models.REPOSITORY.parent / "tlrec-peers"
WORKER = Path(__file__).parent / "vllm_worker.py"


class Vllm:
    """A running vLLM with one model and an empty prefix cache for each request.

    environment: folder that peers.sh made; model: folder of a Hugging Face model; dtype: float32, bfloat16 or float16;
    prompt_tokens: of the longest prompt. It gets `threads` threads and ends with this process. Raises InputError if
    there is no such environment, or vLLM does not start.
    """

    def __init__(self, environment, model, dtype, prompt_tokens, threads):
        environment = Path(environment)
        python = environment / "bin" / "python"
        if not python.exists():
            raise InputError(
                f"{environment}: no vLLM there; PEERS={environment.parent} bash benchmarks/peers.sh makes it"
            )
        variables = os.environ | {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_KVCACHE_SPACE": "2"}
        if (library := environment / "lib" / "libiomp5.so").exists():
            variables["LD_PRELOAD"] = str(library)  # as vLLM's manual asks for on the CPU
        self.log = tempfile.NamedTemporaryFile("w+", prefix="vllm", suffix=".log")
        command = [str(python), str(WORKER), str(model), dtype, str(prompt_tokens)]
        self.process = subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        atexit.register(self.close)
        self.facts = self._read()  # {"vllm": version, "settings": {...}}
        self.cached_tokens = 0  # of the last request

    def log_p(self, prompts, answer_ids):
        """(n, 2) log-probabilities of both answers behind each of n prompts, lists of token ids."""
        self.process.stdin.write(json.dumps({"prompts": prompts, "answer_ids": answer_ids}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        self.cached_tokens = answer["cached_tokens"]
        return np.array(answer["log_p"])

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            lines = Path(self.log.name).read_text().splitlines()
            raise InputError(f"vLLM stopped: {lines[-1] if lines else 'it said nothing'}")
        return json.loads(line)

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()  # its loop ends
            self.process.wait()
