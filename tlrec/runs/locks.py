"""Only one process at a time writes to a folder. A second one stops with an error that names the first."""

import os
import platform
from contextlib import contextmanager
from pathlib import Path

from tlrec.errors import InputError

LOCK = ".lock"  # in the folder while a process works there: its number and machine
PATIENCE = 1.0  # seconds to wait: a process that only looks at the lock also holds it for an instant


@contextmanager
def locked(folder):
    """Inside the block the folder, which is made if need be, belongs to this process; InputError if it belongs to another.

    The lock ends with the process, even if it is killed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    with _held(folder):
        (folder / LOCK).write_text(f"{os.getpid()} on {platform.node()}", encoding="utf-8")
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


def check_unlocked(folder):
    """Raise InputError if another process works in `folder`, which may not exist yet."""
    if (Path(folder) / LOCK).exists():
        with _held(Path(folder)):
            pass


@contextmanager
def _held(folder):
    from filelock import FileLock, Timeout  # not at the top, so that --help is quick

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InputError(
            f"{folder}: process {_holder(folder)} is writing there; wait for its end, or give another folder"
        ) from None
    except OSError as error:
        print(f"warning: {folder}: this file system has no locks ({error.strerror}); do not start a run twice")
    try:
        yield
    finally:
        lock.release()


def _holder(folder):
    try:
        return (folder / LOCK).read_text(encoding="utf-8", errors="replace").strip() or "of another run"
    except OSError:
        return "of another run"
