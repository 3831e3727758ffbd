"""A user's mistake is one line on standard error and exit status 2, never a stack trace."""

import errno
import os
import sys
from contextlib import contextmanager


class InputError(Exception):
    """Something the user gave is wrong. The message says what, where, and how to mend it."""


class Stopped(Exception):
    """A signal ended the work, and what was done is kept. Ends the process as the signal would have: 128 + its number."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


def first_line(error):
    """The first line of an exception's message, else its name."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def one_line_errors():
    """Wrap a script's `main()`: an InputError ends in its message and exit status 2, Ctrl-C in status 130."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("interrupted: what was complete has been kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has seen enough
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: {error.filename or 'writing'}: {error.strerror}; what was complete has been kept", file=sys.stderr
        )
        sys.exit(2)
