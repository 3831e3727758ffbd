"""The journal of chat answers: append-only, written to disk before the next call, so each answer is paid for once.

JSON lines. The first line says what the answers belong to; then one line for each answer or failure:
    {"journal": version, "id": random name of this journal, "parameters": {...}}
    {"pid", "stage", "text", "finish_reason", "refusal", "model", "prompt_tokens", "completion_tokens", "request_id",
     "batch"}
    {"pid", "stage", "failure": kind, "message"}
"""

import fcntl
import json
import os
import threading
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tlrec.errors import InputError

JOURNAL_VERSION = 1
MOST_TOKENS = 10**12  # of one answer; a larger number is an error


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered call. `text` is "" if the service sent none; `batch` says that it cost half the price."""

    pid: int
    stage: int
    text: str
    finish_reason: str
    refusal: str | None
    model: str
    prompt_tokens: int
    completion_tokens: int
    request_id: str | None
    batch: bool

    def __post_init__(self):
        """ValueError for values of the wrong type or size, whether they come from a service or from the journal."""
        for name in ("text", "finish_reason", "refusal", "model", "request_id"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in ("refusal", "request_id")):
                raise ValueError(f"{name} is a {type(value).__name__}")
            if value and not value.isascii() and value.encode(errors="replace").decode() != value:
                raise ValueError(f"{name} holds half a character (a lone surrogate)")
        for name in ("pid", "stage", "prompt_tokens", "completion_tokens"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < MOST_TOKENS:
                raise ValueError(f"{name} is {value!r:.40}, not a count")
        if type(self.batch) is not bool:
            raise ValueError(f"batch is a {type(self.batch).__name__}")

    @property
    def flaw(self):
        """Why the answer is not usable: "refused", "cut off", "empty"; None if it is."""
        if self.refusal or self.finish_reason == "content_filter":
            return "refused"
        if self.finish_reason == "length":
            return "cut off"
        if not self.text.strip():
            return "empty"
        return None


def read_completion(pid, stage, completion, request_id, batch=False):
    """An Answer from a chat completion, read as JSON; ValueError if it is not one. null means not given."""

    def given(value, default):
        return default if value is None else value

    try:
        choice, usage = completion["choices"][0], given(completion.get("usage"), {})
        return Answer(
            pid=pid,
            stage=stage,
            text=given(choice["message"].get("content"), ""),
            finish_reason=given(choice.get("finish_reason"), ""),
            refusal=choice["message"].get("refusal"),
            model=given(completion.get("model"), ""),
            prompt_tokens=given(usage.get("prompt_tokens"), 0),
            completion_tokens=given(usage.get("completion_tokens"), 0),
            request_id=request_id,
            batch=batch,
        )
    except ValueError as error:
        raise ValueError(f"not a chat completion: {error}") from None
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion: {error!r}") from None


class Journal:
    """The answers of all samples, in memory and in an append-only file; one process at a time.

    path: the file, created if it does not exist. parameters: a flat dict of everything that affects the answers; a
    journal with other values is refused with an InputError that names them. `repairs` lists, in words, what had to be
    repaired while reading.
    """

    def __init__(self, path, parameters):
        self.path = Path(path)
        self.repairs = []
        self.failures = Counter()  # of this run, by kind
        self.tokens = Counter()  # prompt, completion, and each of them in batches
        self.n_answers = 0  # paid for, including those that a damaged line has made useless
        self._answers = {}  # pid -> {stage: Answer}
        self._failed = {}  # pid -> kind, of this run
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(f"{self.path}: another run is writing this journal; wait for it, or stop it") from None
        self._lock = threading.Lock()
        self._end = 0  # bytes of whole lines
        try:
            self.id = self._read(parameters)
        except BaseException:
            self._file.close()
            raise

    def texts(self, pid):
        """Texts of the answered stages of a sample, in order, from the first one on."""
        stages = self._answers.get(pid, {})
        return [stages[stage].text for stage in sorted(stages)]

    def answers(self, pid):
        """Answers of a sample, in order of stages."""
        return [answer for _, answer in sorted(self._answers.get(pid, {}).items())]

    def flaw(self, pid):
        """Why a sample cannot go on (see Answer.flaw), or None. Only the last answer of a sample can be flawed."""
        return next((answer.flaw for answer in self.answers(pid) if answer.flaw), None)

    def failure(self, pid):
        """Kind of the failure that stopped a sample in this run, or None."""
        return self._failed.get(pid)

    def add(self, answers):
        """Write answers, and return once they are on disk. Answers that are already known are skipped."""
        with self._lock:
            new = [answer for answer in answers if answer.stage not in self._answers.get(answer.pid, {})]
            self._append(map(asdict, new))
            for answer in new:
                self._keep(answer)

    def add_failures(self, failures):
        """Record why calls were given up: (pid, stage, kind, message) each."""
        with self._lock:
            for pid, _, kind, _ in failures:
                self.failures[kind] += 1
                self._failed[pid] = kind
            self._append(
                {"pid": pid, "stage": stage, "failure": kind, "message": message}
                for pid, stage, kind, message in failures
            )

    def close(self):
        """Release the journal for other processes."""
        self._file.close()

    def _keep(self, answer):
        stages = self._answers.setdefault(answer.pid, {})
        for later in [stage for stage in stages if stage > answer.stage]:
            del stages[later]  # it followed an earlier answer, now lost in a damaged line
        stages[answer.stage] = answer
        self.n_answers += 1
        price = "batch_" if answer.batch else ""
        self.tokens[f"{price}prompt"] += answer.prompt_tokens
        self.tokens[f"{price}completion"] += answer.completion_tokens
        self._failed.pop(answer.pid, None)

    def _append(self, entries):
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        try:
            for start in range(0, len(data), 1 << 20):
                written = self._file.write(data[start : start + (1 << 20)])
                if written < len(data[start : start + (1 << 20)]):
                    raise OSError(28, "No space left on device")
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            raise InputError(f"{self.path}: cannot be written: {error.strerror}; its contents are kept") from None
        self._end += len(data)

    def _read(self, parameters):
        """Read the file into memory and return the journal's name."""
        head, torn = None, 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    torn = len(line)
                    break
                self._end += len(line)
                try:
                    entry = json.loads(line)
                    if number == 1:
                        head = entry["journal"], entry["id"], dict(entry["parameters"])
                    elif "failure" not in entry:
                        self._keep(Answer(**entry))
                except (ValueError, TypeError, KeyError, RecursionError):
                    if number == 1:
                        raise InputError(
                            f"{self.path}: row 1: not a journal; move it away, or give another folder"
                        ) from None
                    self.repairs.append(f"{self.path}: row {number} is damaged; an answer in it is asked for again")
        self._drop_orphans()
        if head is not None:
            self._check_head(head, parameters)
        if torn:
            self.repairs.append(f"{self.path}: the last line was incomplete; its {torn} bytes are removed")
            self._file.truncate(self._end)
        if head is not None:
            return head[1]
        name = uuid.uuid4().hex
        self._append([{"journal": JOURNAL_VERSION, "id": name, "parameters": parameters}])
        return name

    def _check_head(self, head, parameters):
        """Raise InputError unless the journal, (version, id, parameters), was made with these parameters."""
        if head[0] != JOURNAL_VERSION:
            raise InputError(f"{self.path}: journal version {head[0]!r}, this program reads {JOURNAL_VERSION}")
        differing = [key for key in {**head[2], **parameters} if head[2].get(key) != parameters.get(key)]
        if differing:
            told = "; ".join(f"{key} {head[2].get(key)!r}, now {parameters.get(key)!r}" for key in differing)
            told = " ".join(told.split())  # a damaged key may hold line breaks
            raise InputError(
                f"{self.path}: was made with other parameters ({told}); give those, or another --output_path"
            )

    def _drop_orphans(self):
        """Forget answers after a missing one: their prompts contained an answer that a damaged line has lost."""
        for stages in self._answers.values():
            for stage in [stage for stage in stages if any(earlier not in stages for earlier in range(1, stage))]:
                del stages[stage]
