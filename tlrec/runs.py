"""What made a result: `run.json` beside every output, written by the scripts and read by the report.

Its format stands in tlrec/run_format.py; that of `metrics.json`, which holds the same facts of an evaluation under "run",
in tlrec/evaluation/formats.py.
"""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import plain_json, read_json, sha256, validate, write_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CHECKPOINTS = "checkpoints"  # of the Trainer, inside an output folder until its run is complete


def adapter_weights(folder):
    """The adapter's weight file, safetensors before .bin; InputError if there is none."""
    for name in ADAPTER_WEIGHTS:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise InputError(f"{folder}: an adapter without weights (looked for {' and '.join(ADAPTER_WEIGHTS)})")


def check_output_dir(path, overwrite):
    """Raise InputError if `path` holds an adapter already (unless `overwrite`) or cannot be written to.

    An adapter without run.json beside trainer checkpoints is a run of ours that was stopped while it finished; it is
    made anew.
    """
    folder = Path(path)
    stopped = (folder / CHECKPOINTS).exists() and not (folder / "run.json").exists()
    if (folder / ADAPTER_CONFIG).exists() and not stopped and not overwrite:
        raise InputError(f"--output_dir {path}: holds another run's adapter; give --overwrite or another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--output_dir {path}: cannot be written to: {error.strerror}") from None
    if shutil.disk_usage(folder).free < 100e6:
        raise InputError(f"--output_dir {path}: less than 100 MB are free on this disk")


def last_checkpoint(folder):
    """The newest complete one of the Trainer's checkpoints in `folder`, as a string; None if there is none.

    The Trainer writes trainer_state.json last, so a checkpoint whose state can be read is complete.
    """
    for path in sorted(Path(folder).glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
        try:
            read_json(path / "trainer_state.json")
        except InputError:
            continue
        return str(path)
    return None


def remove_checkpoints(folder):
    """Remove the Trainer's checkpoints from the folder of a run that is complete. The logs that TensorBoard reads lie
    among them, in `runs`; they move up into `folder`."""
    logs = Path(folder) / CHECKPOINTS / "runs"
    if logs.exists():
        shutil.copytree(logs, Path(folder) / "runs", dirs_exist_ok=True)
    shutil.rmtree(Path(folder) / CHECKPOINTS)


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
_STARTED = datetime.now(UTC)  # this room is imported when a script begins


def write_run(folder, script, arguments, data, results, started=None, **facts):
    """Write `run.json` whole into `folder` (the format: tlrec/run_format.py) and return its content.

    arguments: dict of flag values. data: {name: path of a record file, or what `describe_data` returned when the file
    was read}. results: dict of numbers. started: aware datetime, by default the start of the process.
    """
    run = describe_run(script, arguments, data, results, started, **facts)
    write_json(Path(folder) / "run.json", run)
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
            "git": _git_revision(),
            "versions": _versions(),
            "platform": {"system": platform.platform(), "cpus": os.cpu_count()},
            "data": {name: file if isinstance(file, dict) else describe_data(file) for name, file in data.items()},
            **facts,
            "results": results or {},
        }
    )


def describe_data(path, rows=None, digest=None):
    """{"path" as given, "sha256", "rows"} of a record file; give `rows` and `digest` where they are already known."""
    if rows is None:
        with open(path, encoding="utf-8") as file:
            rows = len(json.load(file))
    return {"path": str(path), "sha256": digest or sha256(path), "rows": rows}


def describe_records(file):
    """What `describe_data` returns, of a RecordFile or EvaluationSet, which has counted and hashed its file already."""
    return {"path": str(file.path), "sha256": file.sha256, "rows": len(file)}


def read_run(folder):
    """The content of `folder/run.json`. Raises InputError if it is missing, damaged, or not the file of a run."""
    from tlrec.run_format import Run  # with pydantic, and so not at the top: --help is quick

    path = Path(folder) / "run.json"
    return validate(read_json(path), Run, path)


def describe_adapter(folder):
    """{"path" as given, "sha256" of its weights, "run": its run.json, None if no script of ours made it}; None for no
    adapter (None or "")."""
    if not folder:
        return None
    run = read_run(folder) if (Path(folder) / "run.json").exists() else None
    return {"path": str(folder), "sha256": sha256(adapter_weights(folder)), "run": run}


def frame_of(*folders):
    """Name of the prompt frame of the first of these that says it: adapters, or models with an adapter merged into them,
    name in run.json the frame they were tuned with. None for folders that are none (None or "") or do not say."""
    for folder in folders:
        if folder and (Path(folder) / "run.json").exists() and (frame := read_run(folder).get("frame")):
            return frame
    return None


BOOKKEEPING = {  # flags that do not change an adapter
    "check_only",
    "output_dir",
    "overwrite",
    "report_to",
    "resume",
    "test_data_path",
}
STARTED = "started.json"  # beside the checkpoints of a run that has not ended: what run it is


def is_complete(folder, arguments, data, start_adapter):
    """Whether `folder` holds the finished result of this very run: same flags, same data, same start adapter.

    arguments: dict of flag values. data: {name: what `describe_data` returned}. start_adapter: its folder or None.
    """
    if not ((Path(folder) / "run.json").exists() and (Path(folder) / "adapter_config.json").exists()):
        return False
    return same_run(read_run(folder), arguments, data, start_adapter)


def same_run(run, arguments, data, start_adapter=None):
    """Whether `run`, the content of a run.json or the "run" of a metrics.json, has these flags, data and start adapter;
    see `is_complete`. Flags that say where things lie may differ: contents are compared."""
    return not _differences(run, arguments, data, start_adapter)


def write_start(folder, arguments, data, start_adapter):
    """Say in `folder/checkpoints` which run these checkpoints belong to."""
    started = {"arguments": arguments, "data": data, "start_adapter": describe_adapter(start_adapter)}
    write_json(Path(folder) / CHECKPOINTS / STARTED, plain_json(started))


def checkpoint_of(folder, arguments, data, start_adapter):
    """The last complete checkpoint of this very run in `folder`, None if there is none.

    Raises InputError if the run that was stopped there is another one, and says in what.
    """
    started = Path(folder) / CHECKPOINTS / STARTED
    if not started.exists():
        return None
    if differences := _differences(read_json(started, ("arguments", "data")), arguments, data, start_adapter):
        raise InputError(
            f"--output_dir {folder}: a run with other {', '.join(differences)} was stopped there; "
            "give what it had, or --overwrite to begin anew"
        )
    return last_checkpoint(started.parent)


def _differences(run, arguments, data, start_adapter):
    """Names of the flags and files in which a run differs from what is asked for."""

    def identity(arguments, data, adapter):
        flags = {
            f"--{key}": value
            for key, value in arguments.items()
            if key not in BOOKKEEPING and not key.endswith("_path") and key != "resume_from_checkpoint"
        }
        files = {f"{name} data": file["sha256"] for name, file in data.items()}
        return flags | files | {"start adapter": adapter and adapter.get("sha256")}

    wanted = identity(plain_json(arguments), data, describe_adapter(start_adapter))
    found = identity(run["arguments"], run["data"], run.get("start_adapter"))
    return [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]


def _versions():
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@cache  # as it was when the process first asked
def _git_revision():
    """Revision and dirty flag of the checkout this file belongs to; None if it is not in one of its own."""
    repository = Path(__file__).resolve().parent.parent

    def git(*words):
        command = ["git", "-C", str(repository), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != repository:
            return None  # installed below some other project's checkout
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return None
