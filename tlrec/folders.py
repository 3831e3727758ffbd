"""What can be said about model and adapter folders before torch is imported: they are there, whole, and fit."""

import json
import re
import shutil
from pathlib import Path

from tlrec.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
CHECKPOINTS = "checkpoints"  # of the Trainer, inside an output folder until its run is complete
MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_base_model(path):
    """Raise InputError unless `path` is a folder with configuration, weights and tokenizer, or a hub name.

    A hub name is `owner/name` where no folder `owner` exists here; it is left to transformers to fetch.
    """
    folder = Path(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not folder.parent.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--base_model {path}: no such folder; base_model/README.md tells how to place a model there")
    for what, names in (("configuration", ("config.json",)), ("weights", MODEL_WEIGHTS), ("tokenizer", TOKENIZERS)):
        if not any((folder / name).exists() for name in names):
            raise InputError(f"--base_model {path}: no {what} in this folder (looked for {', '.join(names)})")
    read_json_object(folder / "config.json")


def check_adapter(path, flag):
    """Raise InputError, naming `flag`, unless `path` holds a LoRA adapter; return its configuration as a dict."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{flag} {path}: no such adapter folder")
    if not (folder / ADAPTER_CONFIG).exists():
        raise InputError(f"{flag} {path}: no {ADAPTER_CONFIG} in this folder; was the run that should make it stopped?")
    adapter_weights(folder)
    config = read_json_object(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{flag} {path}: a LoRA adapter is needed, this is {config.get('peft_type')!r}")
    return config


def check_same_lora(config, path, flag, lora_r, lora_alpha, lora_target_modules):
    """Raise InputError unless the start adapter's configuration is the one that the flags of this run ask for.

    `lora_target_modules` None stands for the architecture's own choice, which is compared once it is known.
    """
    asked = {"r": ("--lora_r", lora_r), "lora_alpha": ("--lora_alpha", lora_alpha)}
    for key, (name, value) in asked.items():
        if config.get(key) != value:
            raise InputError(
                f"{flag} {path}: the adapter has {key} {config.get(key)}, this run asks for {value}; "
                f"give {name} {config.get(key)} or another start adapter"
            )
    targets = config.get("target_modules")
    if lora_target_modules and isinstance(targets, list) and set(targets) != set(lora_target_modules):
        raise InputError(
            f"{flag} {path}: the adapter has target modules {' '.join(sorted(targets))}, this run asks for "
            f"{' '.join(sorted(lora_target_modules))}; give --lora_target_modules {' '.join(sorted(targets))}"
        )


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
            read_json_object(path / "trainer_state.json")
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


def read_json_object(path):
    """A JSON file's object; InputError, naming the file, for anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value
