"""What all workers share: a worker loads a model once and then answers requests, each with the seconds that it took.

Only the standard library, because every worker runs in an environment of its own. A worker is started with its settings
as JSON, `python benchmarks/workers/trl_worker.py '{"model": "folder", ...}'`. It reads a request from standard input, a
line of JSON, and writes the answer to standard output, a line of JSON: what the work returned, "seconds" and "cpu_seconds"
(of all threads). Its first line tells what it is: versions and settings.
"""

import json
import os
import sys
import time
from contextlib import suppress
from importlib import metadata


def serve(load):
    """Answer requests until standard input ends.

    load(**settings) returns (facts, prepare). prepare(**request) is not timed and returns the work, a function without
    arguments, which is timed. The work returns a dict; with "seconds" in it, if it times a part of itself.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output
    facts, prepare = load(**json.loads(sys.argv[1]))
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        work = prepare(**json.loads(line))
        print(json.dumps(_timed(work)), file=answers, flush=True)


def versions(*names):
    """{name: version} of those of the packages that are installed."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _timed(work):
    import torch  # the worker has imported it

    begin, cpu_begin = time.perf_counter(), time.process_time()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu_begin} | result
