"""A folder and the run whose result belongs there: is it there already, was it stopped there, may it be made there."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import plain_json, read_json, validate, write_json
from tlrec.runs.locks import check_unlocked, locked
from tlrec.runs.record import ADAPTER_CONFIG, RUN, git_revision, read_run
from tlrec.runs.same import differences

CHECKPOINTS = "checkpoints"  # what a run that was stopped goes on from; gone once it is complete
STARTED = "started.json"  # in there: which run it is


class RunFolder:
    """The folder of one run.

    path: the folder, which need not exist. identity: what determines the run's result, see tlrec.runs.same. overwrite:
    whether another run's result may be replaced, once: what a run with --overwrite has made or begun is its own. result,
    output: names of the file that describes the run, written last, and of another one that is there with it.

    Raises InputError if another process works in the folder.
    """

    def __init__(self, path, identity, overwrite=False, result=RUN, output=ADAPTER_CONFIG):
        self.path, self.identity, self.overwrite = Path(path), plain_json(identity), overwrite
        self.result, self.output = result, output
        check_unlocked(self.path)
        self._before = self.found()

    def found(self):
        """The description of the run whose result is here, None if there is none."""
        if not all((self.path / name).exists() for name in (self.result, self.output)):
            return None
        if self.result == RUN:
            return read_run(self.path)
        from tlrec.runs.schema import RunFacts  # imports pydantic; not at the top, so that --help is quick

        path = self.path / self.result
        return validate(read_json(path, ("run",))["run"], RunFacts, path)

    def is_complete(self):
        """Whether this run's result is here."""
        found = self.found()
        return bool(found and self._may_be_ours(found["arguments"]) and not self.differences(found))

    def complete_already(self):
        """The line that says so, with the revision that made the result if it is not today's."""
        then, now = self.found()["git"], git_revision()
        by = f" (made by revision {_words(then)}, this is {_words(now)})" if then != now else ""
        return f"complete already: {self.path}{by}"

    def differences(self, found):
        """How a run that was found differs from this one, in words; [] if it is the same."""
        return differences(found.get("identity", {}), self.identity)

    def check_free(self):
        """Raise InputError if the folder holds another run's result (unless `overwrite`), or cannot be written to.

        A result without its description beside `checkpoints` is of a run that was stopped just before its end.
        """
        stopped = self.checkpoints.exists() and not (self.path / self.result).exists()
        if (self.path / self.output).exists() and not stopped and not self.overwrite:
            found = self.found()
            made = f": {', '.join(self.differences(found))}" if found else ""
            raise InputError(
                f"--output_dir {self.path}: holds another run's result{made}; give --overwrite or another folder "
                "(to a launcher: EXP_NAME)"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()  # has no name: several processes of one run do this at once
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: cannot be written to: {error.strerror}") from None
        if shutil.disk_usage(self.path).free < 100e6:
            raise InputError(f"--output_dir {self.path}: less than 100 MB are free on this disk")

    @contextmanager
    def locked(self, first=True):
        """Inside the block the folder belongs to this process. first: whether it is the first of the processes that make
        the run together; the others lock nothing. Raises InputError if another process works there, or has worked there
        since it was looked at."""
        if not first:
            yield
            return
        with locked(self.path):
            if self.found() != self._before:
                raise InputError(f"{self.path}: another process has just worked there; run the same command again")
            yield

    # ------------------------------------------------------------------------------------------ runs that were stopped

    @property
    def checkpoints(self):
        """The folder of checkpoints."""
        return self.path / CHECKPOINTS

    def was_stopped(self):
        """Whether this run was stopped here and may go on. Raises InputError if another run was stopped here, saying how
        it differs, unless this one overwrites it."""
        if not (self.checkpoints / STARTED).exists():
            return False
        started = read_json(self.checkpoints / STARTED, ("identity", "overwrite"))
        other = self.differences(started)
        if self.overwrite and (other or not self._may_be_ours(started)):
            return False
        if other:
            raise InputError(
                f"--output_dir {self.path}: another run was stopped there: {', '.join(other)}; "
                "give the same, or --overwrite to start again"
            )
        return True

    def begin(self):
        """Remove what another stopped run has left, and note that this one has begun."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        write_json(self.checkpoints / STARTED, {"identity": self.identity, "overwrite": self.overwrite})

    def _may_be_ours(self, arguments):
        """With --overwrite, only a run that was started with --overwrite can be this one."""
        return bool(arguments.get("overwrite") or not self.overwrite)


def _words(git):
    return f"{git['revision'][:12]}{' with changes' * git['dirty']}" if git else "unknown"
