"""Programs that TLRec is compared with, each in an environment of its own, which `bash benchmarks/peers.sh` makes, and
run by a worker, benchmarks/workers/<name>_worker.py; TLRec itself runs in such a worker too."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import models
from tlrec.errors import InputError

PEERS = models.REPOSITORY.parent / "tlrec-peers"
WORKERS = Path(__file__).parent / "workers"


def python_of(name, environment):
    """The interpreter of a peer's environment, the folder that peers.sh made. Raises InputError if there is none."""
    python = Path(environment) / "bin" / "python"
    if not python.exists():
        made = f"PEERS={Path(environment).parent} bash benchmarks/peers.sh {name}"
        raise InputError(f"{environment}: no {name} there; {made} makes it")
    return python


class Worker:
    """A running worker with its model, which ends with this process or by `close`.

    name: ours, vllm, lm-eval, trl or llama-factory. environment: folder that peers.sh made; None: this environment.
    threads: of its calculations. settings: as in the worker's docstring. Raises InputError if there is no such
    environment, or the worker stops.

    facts: what it told about itself, versions above all. answer: the last one.
    """

    def __init__(self, name, environment, threads, **settings):
        python = sys.executable if environment is None else python_of(name, environment)
        variables = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
        if environment and (library := Path(environment) / "lib" / "libiomp5.so").exists():
            variables["LD_PRELOAD"] = str(library)  # as vLLM's manual asks for on the CPU
        self.name = name
        self.log = tempfile.NamedTemporaryFile("w+", prefix=name, suffix=".log")
        command = [str(python), str(WORKERS / f"{name.replace('-', '_')}_worker.py"), json.dumps(settings)]
        self.process = subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        atexit.register(self.close)
        self.answer, self.facts = None, self._read()

    def ask(self, **request):
        """The worker's answer to a request, a dict with its result, "seconds" and "cpu_seconds"."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.answer = self._read()
        return self.answer

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            lines = Path(self.log.name).read_text().splitlines()
            raise InputError(f"{self.name} stopped: {lines[-1] if lines else 'it said nothing'}")
        return json.loads(line)

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()  # its loop ends
            self.process.wait()
