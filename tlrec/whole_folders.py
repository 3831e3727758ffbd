"""Folders that appear whole or not at all."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path


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
