"""Whether a folder holds this run, finished or stopped, or another run. Contents of files are compared, never paths."""

import shutil
import tempfile
from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import plain_json, read_json, write_json
from tlrec.runs import ADAPTER_CONFIG, describe_adapter, other_parts, read_run

CHECKPOINTS = "checkpoints"  # of the Trainer, inside an output folder until its run is complete
STARTED = "started.json"  # beside the checkpoints of a run that has not ended: which run it is
BOOKKEEPING = {  # flags that do not change an adapter, and those whose contents are compared instead
    "base_model",
    "check_only",
    "output_dir",
    "overwrite",
    "report_to",
    "resume",
    "resume_from_checkpoint",
    "test_data_path",
}


# Flags that were added later, with the value that all earlier runs used.
LATER_FLAGS = {"max_val_samples": -1, "prompt_loss_weight": 1.0}


def describe(arguments, data, start_adapter=None, base=None):
    """What identifies a run, in the form of its run.json.

    arguments: dict of flag values. data: {name: what `describe_data` returned}. start_adapter: its folder or None.
    base: identity of the base model, None if it is not known or there is none.
    """
    adapter = describe_adapter(start_adapter)
    return plain_json({"arguments": arguments, "data": data, "start_adapter": adapter, "base": base})


def differences(found, wanted):
    """How two runs differ, in words such as "--seed (1, not 0)"; [] for the same run.

    found: the content of a run.json or started.json, or the "run" of a metrics.json. wanted: what `describe` returned.
    """

    def flags(run):
        given = {**LATER_FLAGS, **run["arguments"]}
        if "train_on_inputs" in given:  # what --prompt_loss_weight was called
            given["prompt_loss_weight"] = float(given.pop("train_on_inputs"))
        return {
            f"--{key}": value for key, value in given.items() if key not in BOOKKEEPING and not key.endswith("_path")
        }

    def contents(run):
        adapter = run.get("start_adapter")
        return {f"{name} data": file["sha256"] for name, file in run["data"].items()} | {
            "start adapter": adapter and adapter.get("sha256")
        }

    had, has = flags(found), flags(wanted)
    words = [
        f"{name} ({had.get(name)}, not {has.get(name)})" for name in {**has, **had} if had.get(name) != has.get(name)
    ]
    had, has = contents(found), contents(wanted)
    words += [name for name in {**has, **had} if had.get(name) != has.get(name)]
    words += [f"{name} of the base model" for name in other_parts(found.get("base"), wanted["base"])]
    if not (found.get("base") and wanted["base"]):  # an old run.json, or a model not downloaded yet: compare the names
        had, has = (Path(run["arguments"].get("base_model") or "").name for run in (found, wanted))
        words += [f"--base_model ({had}, not {has})"] * (had != has)
    return words


def finished_run(folder):
    """The run.json of the finished run in `folder`, None if there is none."""
    folder = Path(folder)
    return read_run(folder) if (folder / "run.json").exists() and (folder / ADAPTER_CONFIG).exists() else None


def is_complete(folder, wanted):
    """Whether `folder` holds the finished result of the run that `describe` described.

    With --overwrite, a result counts only if it was itself made with --overwrite: the old one is replaced, once.
    """
    found = finished_run(folder)
    return found is not None and _may_be_ours(found, wanted) and not differences(found, wanted)


def write_start(folder, wanted):
    """Write into `folder/checkpoints` which run these checkpoints belong to."""
    write_json(Path(folder) / CHECKPOINTS / STARTED, wanted)


def checkpoint_of(folder, wanted):
    """The last complete checkpoint of this run in `folder`, None if there is none.

    Raises InputError if a different run was stopped there, saying how it differs, unless this run overwrites it; and if
    the checkpoint of its best validation is gone.
    """
    started = Path(folder) / CHECKPOINTS / STARTED
    if not started.exists():
        return None
    found = read_json(started, ("arguments", "data"))
    other = differences(found, wanted)
    if wanted["arguments"].get("overwrite") and (other or not _may_be_ours(found, wanted)):
        return None
    if other:
        raise InputError(
            f"--output_dir {folder}: a run with different {', '.join(other)} was stopped there; "
            "give the same, or --overwrite to start again"
        )
    checkpoint = last_checkpoint(started.parent)
    if checkpoint and not best_of(checkpoint).exists():
        raise InputError(
            f"--output_dir {folder}: {best_of(checkpoint).name}, the checkpoint of the best validation, is gone, so "
            f"the run that was stopped there cannot continue; remove {started.parent} to start again"
        )
    return checkpoint


def _may_be_ours(found, wanted):
    """With --overwrite, only a run that was started with --overwrite can be this one."""
    return bool(found["arguments"].get("overwrite") or not wanted["arguments"].get("overwrite"))


def last_checkpoint(folder):
    """The newest complete checkpoint of the Trainer in `folder`, as a string; None if there is none.

    The Trainer writes trainer_state.json last, so a checkpoint whose state can be read is complete.
    """
    for path in sorted(Path(folder).glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
        try:
            read_json(path / "trainer_state.json")
        except InputError:
            continue
        return str(path)
    return None


def best_of(checkpoint):
    """The checkpoint of the best validation so far, in the same folder; `checkpoint` itself if there was none yet."""
    step = read_json(Path(checkpoint) / "trainer_state.json").get("best_global_step")
    return Path(checkpoint).with_name(f"checkpoint-{step}") if step else Path(checkpoint)


def remove_checkpoints(folder):
    """Remove the Trainer's checkpoints from the folder of a run that is complete. TensorBoard's logs, which are among
    them in `runs`, are first copied to `folder/runs`."""
    logs = Path(folder) / CHECKPOINTS / "runs"
    if logs.exists():
        shutil.copytree(logs, Path(folder) / "runs", dirs_exist_ok=True)
    shutil.rmtree(Path(folder) / CHECKPOINTS)


def check_output_dir(path, overwrite, other=()):
    """Raise InputError if `path` holds another run's adapter (unless `overwrite`) or cannot be written to. other: how
    that run differs, for the message.

    An adapter beside Trainer checkpoints but without run.json is from a run that was stopped just before its end; it is
    made again.
    """
    folder = Path(path)
    stopped = (folder / CHECKPOINTS).exists() and not (folder / "run.json").exists()
    if (folder / ADAPTER_CONFIG).exists() and not stopped and not overwrite:
        made = f", made with different {', '.join(other)}" if other else ""
        raise InputError(f"--output_dir {path}: holds another run's adapter{made}; give --overwrite or another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # has no name, because several processes of one run do this at once
    except OSError as error:
        raise InputError(f"--output_dir {path}: cannot be written to: {error.strerror}") from None
    if shutil.disk_usage(folder).free < 100e6:
        raise InputError(f"--output_dir {path}: less than 100 MB are free on this disk")
