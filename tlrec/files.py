"""Files that appear whole or not at all, and the digests by which runs recognise their data."""

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path


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
