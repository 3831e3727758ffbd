"""Checks of model and adapter folders that need no torch: that they exist, are complete, and fit."""

import json
import re
import sys
from pathlib import Path

from tlrec.errors import InputError, first_line
from tlrec.files import read_json
from tlrec.runs import ADAPTER_CONFIG, FRAME_FILE, adapter_weights, read_run

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

# Fields of adapter_config.json that PEFT and every way of use here carry out, whatever their value ...
CARRIED_OUT = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias"),
    *("lora_dropout", "fan_in_fan_out", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("target_parameters", "modules_to_save", "trainable_token_indices", "ensure_weight_tying"),
}
# ... and those that say nothing about the function: where it came from, and settings of what is switched off
SAYS_NOTHING = {
    *("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "runtime_config"),
    *("megatron_core", "qalora_group_size", "eva_config", "corda_config", "lora_ga_config"),
}
# The others may have these values. Each initialisation here leaves the base as it is or changes it in the same way each
# time; those of CorDA, LoftQ, LoRA-GA and pissa_niter_N depend on data, on a quantiser or on random numbers.
MAY_BE = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "pissa", "olora"),
}


def is_hub_name(path):
    """Whether this is `owner/name` of a model or adapter on the Hugging Face hub: there is no folder `owner` here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))) and not Path(path).parent.exists()


def check_base_model(path, cutoff_len=None):
    """Raise InputError unless `path` is a folder with configuration, weights and tokenizer, or a hub name, and the
    model takes `cutoff_len` tokens. Print a warning if it takes them but was trained on fewer.

    A hub name is not checked, and transformers downloads it.
    """
    folder = Path(path)
    if is_hub_name(path):
        return
    if not folder.is_dir():
        raise InputError(f"--base_model {path}: no such folder; base_model/README.md tells how to place a model there")
    for what, names in (("configuration", ("config.json",)), ("weights", MODEL_WEIGHTS), ("tokenizer", TOKENIZERS)):
        if not any((folder / name).exists() for name in names):
            raise InputError(f"--base_model {path}: no {what} in this folder (looked for {', '.join(names)})")
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(
            f"--base_model {path}: there is an adapter in this folder too ({ADAPTER_CONFIG}), which transformers would "
            "put on the model; move it to a folder of its own"
        )
    if cutoff_len is not None:
        _check_positions(read_json(folder / "config.json"), path, cutoff_len)


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


def adapter_folder(name, flag):
    """The folder of an adapter: `name`, or for a hub name the one in the cache of huggingface_hub, fetched if need be; None
    for none. Raises InputError, naming `flag`, if it cannot be fetched."""
    if not name or not is_hub_name(name):
        return name
    from huggingface_hub import snapshot_download  # not at the top, so that --help is quick

    try:
        return snapshot_download(name, allow_patterns=[ADAPTER_CONFIG, "adapter_model.*", FRAME_FILE, "run.json"])
    except Exception as error:  # of the network, the hub or its client
        raise InputError(
            f"{flag} {name}: no such folder here, and it cannot be fetched from the hub: {first_line(error)}"
        ) from None


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
    for field, value in config.items():
        off = value in MAY_BE.get(field, (None, False, "", [], {}))
        if not off and field not in CARRIED_OUT | SAYS_NOTHING:
            raise InputError(
                f"{flag} {path}: {ADAPTER_CONFIG} has {field} {json.dumps(value)}, which TLRec does not carry out, so "
                "the adapter would be another function here"
            )
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
    """Raise InputError if flags that were given (not None) ask for another LoRA than the start adapter's configuration.

    `lora_target_modules` ["all-linear"] depends on the architecture, and is compared later, once it is known.
    """
    targets = config.get("target_modules")
    asked = [("r", config.get("r"), "--lora_r", lora_r)]
    asked += [("lora_alpha", config.get("lora_alpha"), "--lora_alpha", lora_alpha)]
    if isinstance(targets, list) and lora_target_modules not in (None, ["all-linear"]):
        has, wanted = (" ".join(sorted(set(names))) for names in (targets, lora_target_modules))
        asked += [("target modules", has, "--lora_target_modules", wanted)]
    for name, has, option, wanted in asked:
        if wanted is not None and wanted != has:
            raise InputError(
                f"{flag} {path}: the adapter has {name} {has}, this run asks for {wanted}; give {option} {has} or "
                "another start adapter"
            )
