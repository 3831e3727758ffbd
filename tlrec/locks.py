"""Only one run at a time writes to a folder. A second one stops with an error that names the first."""

import fcntl
import os
import platform
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tlrec.errors import InputError

LOCK = ".lock"  # in the folder while a run works there: its process and machine
PATIENCE = 1.0  # seconds to wait: a process that only checks the lock also holds it for an instant


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
    try:
        with open(Path(folder) / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(folder) from None
    except OSError:
        return  # no such file, or a file system without locks, about which `locked` warns


@contextmanager
def _locked(folder):
    folder.mkdir(parents=True, exist_ok=True)
    path, end = folder / LOCK, time.monotonic() + PATIENCE
    while True:
        file = open(path, "a+b", buffering=0)  # "a" does not empty the file, which may name another process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() > end:
                raise _taken(folder) from None
            time.sleep(0.05)
            continue
        except OSError as error:
            print(f"warning: {folder}: this file system has no locks ({error.strerror}); do not start a run twice")
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its holder ended and removed it after it was opened here; try again
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _taken(folder):
    try:
        holder = (Path(folder) / LOCK).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        holder = ""
    return InputError(
        f"{folder}: process {holder or 'of another run'} is writing there; wait for its end, or give another folder"
    )
