"""The journal of chat answers: append-only, written to disk before the next call, so each answer is paid for once.

JSON lines. The first line says what the answers belong to; then one line for each answer, failure or verdict:
    {"journal": version, "id": random name of this journal, "parameters": {...}}
    {"pid", "stage", "text", "finish_reason", "refusal", "model", "prompt_tokens", "completion_tokens", "request_id",
     "batch"}
    {"pid", "stage", "failure": kind, "message"}
    {"pid", "stage", "verdict": kind}, after which the sample is not asked about again
A further first line says that other parameters hold from there on. What was unusable before it is asked again.
"""

import errno
import json
import os
import uuid
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path

from pydantic_core import from_json

from tlrec.cot.reply import Answer
from tlrec.errors import InputError
from tlrec.runs.same import differences

JOURNAL_VERSION = 1
LIMITS = ("--max_tokens",)  # parameters that no answer depends on which has ended by itself


class Journal:
    """The answers of all samples, in memory and in an append-only file; one process at a time (the caller sees to it).

    path: the file, created if it does not exist. parameters: a flat dict of everything that affects the answers. A
    journal with usable answers to other values is refused with an InputError that names them; LIMITS may change.
    `repairs` lists, in words, what had to be repaired while reading. `verdicts`: {pid: why it is not asked about};
    `failed`: {pid: kind of the failure that stopped it in this run}.
    """

    def __init__(self, path, parameters):
        self.path = Path(path)
        self.repairs = []
        self.tokens = Counter()  # prompt and completion
        self.billed = Counter()  # the same; those in batches, which cost half the price, count half
        self.n_answers = 0  # paid for, including those that a damaged line has made useless
        self.verdicts, self.failed = {}, {}
        self.answers = defaultdict(list)  # pid -> its Answers, in order of stages
        self._head = None  # (version, id, parameters) that hold at the end
        self._end = 0  # bytes of whole lines
        try:
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            self.id = self._read(parameters)
        except BaseException:
            self.close()
            raise

    def texts(self, pid):
        """The answers of a sample without thoughts."""
        return [answer.answer or "" for answer in self.answers[pid]]

    def flaw(self, pid):
        """Why a sample cannot go on (see Answer.flaw), or None. Only the last answer of a sample can be flawed."""
        return self.verdicts.get(pid) or next((answer.flaw for answer in self.answers[pid] if answer.flaw), None)

    def add(self, answers):
        """Write answers, and return once they are on disk. Answers that are already known are skipped."""
        new = [answer for answer in answers if answer.stage > len(self.answers[answer.pid])]
        self._append(map(asdict, new))
        for answer in new:
            self._keep(answer)

    def add_failures(self, failures):
        """Record why calls were given up: (pid, stage, Failure) each."""
        self._append({"pid": p, "stage": s, "failure": why.kind, "message": why.message} for p, s, why in failures)
        self.failed |= {pid: failure.kind for pid, _, failure in failures}

    def add_verdicts(self, refused):
        """Record that samples cannot be answered; the same triples."""
        self._append({"pid": pid, "stage": stage, "verdict": why.kind} for pid, stage, why in refused)
        for pid, _, failure in refused:
            self.verdicts[pid] = failure.kind
            self.failed.pop(pid, None)

    def close(self):
        self._file.close()

    def _keep(self, answer):
        known = self.answers[answer.pid]
        if 1 <= answer.stage <= len(known) + 1:  # else an earlier one, which its prompt held, is lost in a damaged line
            known[answer.stage - 1 :] = [answer]
        self.n_answers += 1
        for kind, count in (("prompt", answer.prompt_tokens), ("completion", answer.completion_tokens)):
            self.tokens[kind] += count
            self.billed[kind] += count / 2 if answer.batch else count
        self.failed.pop(answer.pid, None)

    def _append(self, entries):
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        if not data:
            return
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            raise InputError(f"{self.path}: cannot be written: {error.strerror}; its contents are kept") from None
        self._end += len(data)

    def _read(self, parameters):
        """Read the file into memory and return the journal's name."""
        torn = 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    torn = len(line)
                    break
                self._end += len(line)
                try:
                    self._read_entry(from_json(line))
                except (ValueError, TypeError, KeyError):
                    if number == 1:
                        raise InputError(
                            f"{self.path}: row 1: not a journal; move it away, or give another folder"
                        ) from None
                    self.repairs.append(f"{self.path}: row {number} is damaged; an answer in it is asked for again")
        if self._head:
            self._check_head(parameters)
        if torn:
            self.repairs.append(f"{self.path}: the last line was incomplete; its {torn} bytes are removed")
            self._file.truncate(self._end)
        name = self._head[1] if self._head else uuid.uuid4().hex
        if not self._head or self._head[2] != parameters:
            self._drop_unusable()
            self._append([{"journal": JOURNAL_VERSION, "id": name, "parameters": parameters}])
        return name

    def _read_entry(self, entry):
        if not self._head or "journal" in entry:
            self._head = entry["journal"], entry["id"], dict(entry["parameters"])
            self._drop_unusable()
        elif "verdict" in entry:
            pid, kind = entry["pid"], entry["verdict"]
            if type(pid) is not int or not isinstance(kind, str):
                raise ValueError("not a verdict")
            self.verdicts[pid] = kind
        elif "failure" not in entry:
            self._keep(Answer(**entry))

    def _check_head(self, parameters):
        """Raise InputError unless the usable answers of the journal were made with these parameters."""
        version, _, made = self._head
        if version != JOURNAL_VERSION:
            raise InputError(f"{self.path}: journal version {version!r}, this program reads {JOURNAL_VERSION}")
        made, now = ({k: v for k, v in of.items() if k not in LIMITS} for of in (made, parameters))
        usable = any(not answer.flaw for answers in self.answers.values() for answer in answers)
        if usable and (differing := differences(made, now)):
            told = " ".join("; ".join(differing).split())  # a damaged key may hold line breaks
            raise InputError(
                f"{self.path}: was made with other parameters ({told}); give those, or another --output_path"
            )

    def _drop_unusable(self):
        """Forget unusable answers and verdicts, but not what they cost: other parameters may bring better ones."""
        for pid, answers in self.answers.items():
            self.answers[pid] = list(takewhile(lambda answer: not answer.flaw, answers))
        self.verdicts.clear()
