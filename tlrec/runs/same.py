"""Was this made from the same inputs by the same settings?

A result keeps its identity: a flat dict {name as the user knows it: JSON value} of everything that determines the result,
files by the digest of their content and never by their path. Two results are the same if their identities are.
"""

import re

# Flags that change no result, and those whose contents are in the identity under another name
BOOKKEEPING = {"check_only", "output_dir", "overwrite", "report_to", "resume"}
BY_CONTENT = {"base_model", "lora_weights", "prompt_frame", "resume_from_checkpoint"}
# Flags that say how a machine computes it. A run that was out of memory goes on with other ones.
MACHINE = {
    "attention",
    "device",
    "gradient_checkpointing",
    "micro_batch_size",
    "token_budget",
    "torch_compile",
    "trust_remote_code",
}


def flags_of(arguments):
    """The part of an identity that comes from a script's flags: {"--seed": 0, ...}. What is not given (None, False) is
    left out, so that a flag that comes later makes no other runs of the earlier ones."""
    left_out = BOOKKEEPING | BY_CONTENT | MACHINE
    given = {name: value for name, value in arguments.items() if value is not None and value is not False}
    return {f"--{name}": v for name, v in given.items() if name not in left_out and not name.endswith("_path")}


def base_parts(base):
    """The part of an identity that a base model is; base: its `tlrec.model.identity.base_identity`, None if not known."""
    return {f"{part} of the base model": base and base[part] for part in ("config", "tokenizer", "weights")}


def adapter_parts(adapter, name):
    """The part of an identity that an adapter is; adapter: what `describe_adapter` returned; name: what it is here."""
    return {name: adapter and adapter["sha256"], f"configuration of the {name}": adapter and adapter["config_sha256"]}


def differences(found, wanted):
    """How two identities differ, a phrase for each setting with both values, such as "--seed 1, not 0"; [] if they do
    not. found: of what is there; wanted: of what would be made now."""
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    return [f"{name} {_shown(found.get(name))}, not {_shown(wanted.get(name))}" for name in names]


def _shown(value):
    """A value in a message: on one line, digests and long texts cut."""
    text = " ".join(str(value).split())
    if re.fullmatch("[0-9a-f]{64}", text):
        return text[:12]
    return text if len(text) <= 80 else text[:77] + "..."
