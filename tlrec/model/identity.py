"""Identifies a base model by digests of its folder's content, because the same path may later hold another model.

config      config.json, without the path that it was loaded from
tokenizer   the files of the tokenizer
weights     size, header and a sample of bytes of every weight file: 64 blocks of 4096 bytes each, whatever its size
"""

import hashlib
import json
import os
from functools import cache
from pathlib import Path

from tlrec.files import digest_of, sha256
from tlrec.model.folders import is_hub_name

WEIGHTS = ("*.safetensors", "*.bin")  # as transformers looks for them
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
BLOCKS, BLOCK = 64, 4096  # number and bytes of the blocks sampled from a weight file


def base_identity(base_model):
    """{"config", "tokenizer", "weights": SHA-256} of a base model, a folder or the name of one on the hub; None if it
    has not been downloaded yet."""
    folder = Path(base_model)
    if not folder.is_dir():
        folder = _fetched(str(base_model))
    if folder is None:
        return None
    return dict(_identity(folder, tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir()))))


def _fetched(name):
    """Folder of a model in the cache of huggingface_hub, or None."""
    if not is_hub_name(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


@cache
def _identity(folder, times):
    """base_identity of a folder; times: names and modification times of its files, for the cache."""
    config = json.loads((folder / "config.json").read_bytes())
    config.pop("_name_or_path", None)
    weights = next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    tokenizer = [folder / name for name in TOKENIZER if (folder / name).exists()]
    return {
        "config": digest_of(config),
        "tokenizer": digest_of({path.name: sha256(path) for path in tokenizer}),
        "weights": digest_of({path.name: _sample(path) for path in weights}),
    }


def _sample(path):
    """Digest of a weight file's size, its header, which names every tensor, and blocks spread evenly over the file."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little") if path.suffix == ".safetensors" else 0
        digest = hashlib.sha256(str(size).encode())
        digest.update(file.read(min(header, size, 100_000_000)))
        for block in range(BLOCKS):
            digest.update(os.pread(file.fileno(), BLOCK, max(0, size - BLOCK) * block // (BLOCKS - 1)))
    return digest.hexdigest()
