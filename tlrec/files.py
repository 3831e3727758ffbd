"""Files and folders that appear whole or not at all, JSON that is checked when it is read, and SHA-256 digests of
files."""

import gzip
import hashlib
import json
import math
import os
import shutil
import stat
import zlib
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tlrec.errors import InputError


@contextmanager
def opened(path):
    """A file opened for reading bytes, decompressed if its name ends in .gz; InputError, naming it, if it is missing, is a
    folder or a pipe, or cannot be read inside the block."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe might never end
            raise InputError(f"{path}: is not a file")
        with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_bytes(path):
    """The content of a file, as `opened` opens it."""
    with opened(path) as file:
        return file.read()


def parse_json(text, where):
    """The value of a JSON document, str or bytes of UTF-8; InputError, beginning with `where`, if it is damaged or has
    numbers of thousands of digits, nesting deeper than 200, or lone surrogates."""
    from pydantic_core import from_json  # not at the top, so that --help is quick

    try:
        return from_json(text)
    except ValueError as error:
        raise InputError(f"{where}: damaged: {error}") from None


def read_json(path, required=()):
    """A JSON object with at least the keys `required`; InputError, naming the file, for anything else."""
    value = parse_json(read_bytes(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    for key in required:
        if key not in value:
            raise InputError(f"{path}: the key {key!r} is missing")
    return value


def validate(value, schema, where):
    """Return `value` unchanged if it matches `schema`, a TypedDict; else raise InputError, which begins with `where`
    and names the first wrong key. Keys that the schema does not name are allowed and kept."""
    from pydantic import ValidationError

    try:
        _validator(schema).validate_python(value, strict=True)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_context=False, include_input=False)
        key = ".".join(map(str, first["loc"]))[:200]
        missing = first["type"] == "missing"
        text = f"the key {key!r} is missing" if missing else f"{key!r}: {first['msg'].removeprefix('Input ')}"
        raise InputError(f"{where}: {text}" + (f" (and {len(others)} more)" if others else "")) from None
    return value


@cache
def _validator(schema):
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def printable(text):
    """`text` or a path with backslash escapes for control characters and bytes that are not UTF-8."""

    def escaped(character):
        if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8, as Python stores it
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape").decode("ascii")

    return "".join(c if c.isprintable() else escaped(c) for c in os.fspath(text))


def plain_json(value):
    """`value` in the types of JSON: paths become strings, numpy values Python's, NaN and infinity None."""
    import numpy as np  # not at the top, so that --help is quick

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


FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "file write failed",
)  # in the libraries' messages; the last is torch.save's


@contextmanager
def one_line_if_full(folder):
    """Inside the block a full disk raises InputError, whichever library notices it."""
    try:
        yield
    except Exception as error:  # every file format raises its own class
        if not any(words in str(error) for words in FULL):
            raise
        raise InputError(f"{folder}: the disk is full; free some space and run the same command again") from None


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
    """A folder to write into, beside `path`; it replaces `path` when the block ends without error."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors' files are readable by their owner only; labs share their models
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


def check_new_file(path, flag, overwrite=False):
    """Raise InputError, which names `flag`, unless a new file could be written to `path`."""
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"{flag} {path}: exists; give another {flag}, or --overwrite")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"{flag} {path}: {folder} cannot be written to")


def digest_of(value):
    """Hexadecimal SHA-256 of a value of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path):
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
