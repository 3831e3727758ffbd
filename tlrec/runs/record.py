"""How a result was made: described, written as `run.json` and read again. `metrics.json` has the same facts about an
evaluation under "run"; its format is in tlrec/evaluation/formats.py.
"""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import digest_of, plain_json, read_json, sha256, validate, write_json

RUN = "run.json"
FORMAT = 1  # of run.json and metrics.json
FRAME_FILE = "prompt_frame.json"  # in the folder of an adapter or exported model: the frame that it was made with
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_weights(folder):
    """The adapter's weight file, safetensors before .bin; InputError if there is none."""
    for name in ADAPTER_WEIGHTS:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise InputError(f"{folder}: an adapter without weights (looked for {' and '.join(ADAPTER_WEIGHTS)})")


PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "sentencepiece",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "openai",
)
_STARTED = datetime.now(UTC)  # this module is imported when a script begins


def write_run(folder, script, arguments, data, results, started=None, **facts):
    """Write `run.json` whole into `folder` (the format: tlrec/runs/schema.py) and return its content.

    arguments: dict of flag values. data: {name: path of a record file, or what `describe_data` returned when the file
    was read}. results: dict of numbers. started: aware datetime, by default the start of the process.
    """
    run = {"format": FORMAT, **describe_run(script, arguments, data, results, started, **facts)}
    write_json(Path(folder) / RUN, run)
    return run


def describe_run(script, arguments, data, results=None, started=None, **facts):
    """The content of a `run.json` as a dict of plain JSON values; `evaluate.py` keeps it in `metrics.json`."""
    started, ended = started or _STARTED, datetime.now(UTC)
    return plain_json(
        {
            "script": script,
            "arguments": arguments,
            "started": started.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
            "seconds": round((ended - started).total_seconds(), 1),
            "git": git_revision(),
            "versions": _versions(),
            "platform": {"system": platform.platform(), "cpus": os.cpu_count()},
            "data": {name: file if isinstance(file, dict) else describe_data(file) for name, file in data.items()},
            **facts,
            "results": results or {},
        }
    )


def describe_data(path, rows=None, digest=None):
    """{"path" as given, "sha256", "rows"} of a record file; give `rows` and `digest` if they are already known."""
    if rows is None:
        with open(path, encoding="utf-8") as file:
            rows = len(json.load(file))
    return {"path": str(path), "sha256": digest or sha256(path), "rows": rows}


def describe_records(file):
    """What `describe_data` returns, for a RecordSet or EvaluationSet, which already knows rows and digest."""
    return {"path": str(file.path), "sha256": file.sha256, "rows": len(file)}


def read_run(folder):
    """The content of `folder/run.json`. Raises InputError if it is missing, damaged, or not in its format."""
    from tlrec.runs.schema import Run  # imports pydantic; not at the top, so that --help is quick

    path = Path(folder) / RUN
    return validate(check_format(read_json(path), path), Run, path)


def check_format(content, path):
    """Return the content of a run.json or metrics.json; InputError unless it is in today's format."""
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: is in format {content.get('format')}, not {FORMAT}; make the folder again")
    return content


def describe_adapter(folder):
    """{"path" as given, "sha256" of its weights, "config_sha256" of its configuration, "run": its run.json, None if these
    scripts did not make it}; None for no adapter (None or "")."""
    if not folder:
        return None
    run = read_run(folder) if (Path(folder) / RUN).exists() else None
    config = {}
    if (Path(folder) / ADAPTER_CONFIG).exists():
        config = read_json(Path(folder) / ADAPTER_CONFIG)
        config.pop("base_model_name_or_path", None)  # bases move, and are known by content
    digests = {"sha256": sha256(adapter_weights(folder)), "config_sha256": digest_of(config)}
    return {"path": str(folder), **digests, "run": run}


def base_said(folder, base_model):
    """The identity of the base model of this hub name as `folder/run.json` has it, for one that is not downloaded here
    any more; None if the run had another one, or there is none."""
    if not (Path(folder) / RUN).exists():
        return None
    run = read_run(folder)
    return run.get("base") if run.get("base_model") == str(base_model) else None


@cache
def _versions():
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@cache  # as it was at the first call
def git_revision():
    """Revision and dirty flag of the checkout this file belongs to; None if it is not in its own checkout."""
    repository = Path(__file__).resolve().parents[2]

    def git(*words):
        command = ["git", "-C", str(repository), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != repository:
            return None  # installed inside another project's checkout
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return None
