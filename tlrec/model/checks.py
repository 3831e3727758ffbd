"""Checks of model and adapter folders that need no torch: that they exist, are complete, and fit."""

import re
import sys
from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import read_json
from tlrec.runs import ADAPTER_CONFIG, adapter_weights, read_run

MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Architectures with a table of positions, which limits the length of a text, and the key of its length in config.json.
# The others compute positions (rotary, ALiBi, sinusoids), and also take texts longer than those they were trained on.
TABLES_OF_POSITIONS = {
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gptj", "codegen", "openai-gpt", "ctrl"), "n_positions"),
    **dict.fromkeys(("opt", "gpt_neo", "biogpt"), "max_position_embeddings"),
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_base_model(path, cutoff_len=None):
    """Raise InputError unless `path` is a folder with configuration, weights and tokenizer, or a hub name, and the
    model takes `cutoff_len` tokens. Print a warning if it takes them but was trained on fewer.

    A hub name is `owner/name` if there is no folder `owner` here; it is not checked, and transformers downloads it.
    """
    folder = Path(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not folder.parent.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--base_model {path}: no such folder; base_model/README.md tells how to place a model there")
    for what, names in (("configuration", ("config.json",)), ("weights", MODEL_WEIGHTS), ("tokenizer", TOKENIZERS)):
        if not any((folder / name).exists() for name in names):
            raise InputError(f"--base_model {path}: no {what} in this folder (looked for {', '.join(names)})")
    config = read_json(folder / "config.json")
    if cutoff_len is not None:
        _check_positions(config, path, cutoff_len)


def _check_positions(config, path, cutoff_len):
    table = config.get(TABLES_OF_POSITIONS.get(config.get("model_type")))
    if isinstance(table, int) and cutoff_len > table:
        raise InputError(
            f"--cutoff_len {cutoff_len}: --base_model {path} has {table} positions; give --cutoff_len {table} or less"
        )
    trained = config.get("max_position_embeddings")
    if isinstance(trained, int) and cutoff_len > trained:
        print(
            f"warning: --cutoff_len {cutoff_len}: --base_model {path} was trained on texts of {trained} tokens at "
            "most; its results on longer ones are uncertain",
            file=sys.stderr,
        )


def check_adapter(path, flag):
    """Raise InputError, naming `flag`, unless `path` holds a LoRA adapter; return its configuration as a dict."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{flag} {path}: no such adapter folder")
    if not (folder / ADAPTER_CONFIG).exists():
        raise InputError(f"{flag} {path}: no {ADAPTER_CONFIG} in this folder; was the run that should make it stopped?")
    adapter_weights(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{flag} {path}: a LoRA adapter is needed, this is {config.get('peft_type')!r}")
    return config


def tuned_on_another(adapter, base_model, identity):
    """A message if the adapter's run.json says that it was tuned on another base model than this one; else None.

    identity: `base_identity` of the base model.
    """
    if not (Path(adapter) / "run.json").exists():
        return None  # not made by these scripts
    run = read_run(adapter)
    base, then = run.get("base"), run.get("base_model")
    if base and identity and (parts := [part for part in base if base[part] != identity[part]]):
        return (
            f"{adapter}: was tuned on another base model (then {then}), which differs from {base_model} in its "
            f"{', '.join(parts)}"
        )
    return None


def check_lora_weights(adapter, base_model, identity, other_base):
    """Raise InputError unless `--lora_weights` is an adapter that was tuned on this base model; with `other_base`
    another base model is only a warning. identity: `base_identity` of the base model."""
    check_adapter(adapter, "--lora_weights")
    if other := tuned_on_another(adapter, base_model, identity):
        if not other_base:
            raise InputError(
                f"--lora_weights {other}; give its own base model, or --other_base to score it on this one"
            )
        print(f"warning: --lora_weights {other}", file=sys.stderr)


def check_same_lora(config, path, flag, lora_r, lora_alpha, lora_target_modules):
    """Raise InputError unless the start adapter's configuration is the one that the flags of this run ask for.

    `lora_target_modules` None and ["all-linear"] depend on the architecture, and are compared later, once it is known.
    """
    asked = {"r": ("--lora_r", lora_r), "lora_alpha": ("--lora_alpha", lora_alpha)}
    for key, (name, value) in asked.items():
        if config.get(key) != value:
            raise InputError(
                f"{flag} {path}: the adapter has {key} {config.get(key)}, this run asks for {value}; "
                f"give {name} {config.get(key)} or another start adapter"
            )
    targets = config.get("target_modules")
    if (
        lora_target_modules not in (None, ["all-linear"])
        and isinstance(targets, list)
        and set(targets) != set(lora_target_modules)
    ):
        raise InputError(
            f"{flag} {path}: the adapter has target modules {' '.join(sorted(targets))}, this run asks for "
            f"{' '.join(sorted(lora_target_modules))}; give --lora_target_modules {' '.join(sorted(targets))}"
        )
