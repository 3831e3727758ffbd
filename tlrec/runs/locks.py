"""Only one process at a time writes to a folder. A second one stops with an error that names the first."""

import os
import platform
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tlrec.errors import InputError

LOCK = ".lock"  # in the folder while a process works there: its number and machine
PATIENCE = 1.0  # seconds to wait: a process that only looks at the lock also holds it for an instant


@contextmanager
def locked(folders, active=True):
    """Inside the block these folders belong to this process; InputError if one belongs to another.

    The lock ends with the process, even if it is killed. active: False locks nothing, as in all but the first of
    several processes that make one run together.
    """
    with ExitStack() as stack:
        if active:
            for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):
                stack.enter_context(_locked(folder))
        yield


def check_unlocked(folder):
    """Raise InputError if another process works in `folder`, which may not exist yet."""
    if (Path(folder) / LOCK).exists():
        with _held(Path(folder)):
            pass


@contextmanager
def _locked(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        (folder / LOCK).write_text(f"{os.getpid()} on {platform.node()}", encoding="utf-8")
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)


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
