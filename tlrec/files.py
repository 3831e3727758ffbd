"""Files and folders that appear whole or not at all, and the digests by which runs recognise their data."""

import hashlib
import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from tlrec.errors import InputError


def read_json(path, required=()):
    """A JSON object with at least the keys `required`; InputError, naming the file, for anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    for key in required:
        if key not in value:
            raise InputError(f"{path}: the key {key!r} is missing")
    return value


def plain_json(value):
    """`value` in the types of JSON: paths become strings, numpy values Python's, NaN and infinity None."""
    import numpy as np  # not where only files are read, so that --help is quick

    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


@contextmanager
def whole_file(path, mode="w"):
    """Open `path` for writing under a temporary name; rename it into place when the block ends without error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path):
    """A folder to write into, beside `path`; it takes the place of `path` when the block ends without error."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner only; labs share their models
        if path.exists():
            before = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(before)
            temporary.rename(path)
            shutil.rmtree(before)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path, value, indent=2):
    """Write `value` as JSON with a final newline, whole or not at all."""
    with whole_file(path) as file:
        json.dump(value, file, indent=indent)
        file.write("\n")


def sha256(path):
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
