"""A user's mistake ends in one line on stderr and exit status 2, never in a stack trace."""

import errno
import os
import sys
from contextlib import contextmanager


class InputError(Exception):
    """Something the user gave is wrong. The message says what, where, and how to fix it."""


class Stopped(Exception):
    """A signal stopped the work; what was done so far is kept. The exit status is 128 + the signal's number."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


def first_line(error):
    """The first line of an exception's message, else its name."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def one_line_errors():
    """Wrap a script's `main()`: an InputError prints its message and exits with status 2, Ctrl-C with status 130."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.status)
    except KeyboardInterrupt:
        print("interrupted: finished work has been kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has closed the pipe
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error.filename or 'writing'}: {error.strerror}; finished work has been kept", file=sys.stderr)
        sys.exit(2)
