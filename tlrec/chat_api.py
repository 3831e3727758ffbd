"""Chat completions that are paid for once: a journal of answers, calls in flight, failures by kind, cost.

A *sample* is a dialogue of several *stages*; each stage's prompt holds the answers before it. Every answer is in the
journal, on the disk, before the next stage is asked, so a run may end at any moment and the next one asks only what is
missing. The `openai` client retries what may pass (429 with its Retry-After, 5xx, lost connections, time-outs); here is
what it leaves open. This room alone reads the environment, for OPENAI_API_KEY and OPENAI_BASE_URL.

Journal (JSON lines, append-only). The first line tells what the answers belong to; then a line an answer, or a failure:
    {"journal": version, "id": random name of this journal, "parameters": {...}}
    {"pid", "stage", "text", "finish_reason", "refusal", "model", "prompt_tokens", "completion_tokens", "request_id",
     "batch"}
    {"pid", "stage", "failure": kind, "message"}
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tlrec.errors import InputError

JOURNAL_VERSION = 1
DRAIN_SECONDS = 30  # what a stopping run waits for the calls in flight: they are paid for
FAILURES_IN_A_ROW = 20  # samples; then the service is down, and going on only burns time

# Errors that every further call would meet as well
FATAL_STATUS = (401, 403, 404)
FATAL_CODES = (
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated", "model_not_found",
    "invalid_api_key", "unsupported_parameter", "unsupported_value",
)  # fmt: skip


class ServiceError(Exception):
    """The service refuses every call: wrong key, unknown model, exhausted quota. The message is one line."""


# ------------------------------------------------------------------------------------------------------------ journal


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered call. `text` is "" where the service sent none; `batch` says that it was made at half price."""

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
    """An Answer from a chat completion in the form of a dict; ValueError if it has another form."""
    try:
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        return Answer(
            pid=pid,
            stage=stage,
            text=choice["message"].get("content") or "",
            finish_reason=choice.get("finish_reason") or "",
            refusal=choice["message"].get("refusal"),
            model=completion.get("model") or "",
            prompt_tokens=usage.get("prompt_tokens") or 0,
            completion_tokens=usage.get("completion_tokens") or 0,
            request_id=request_id,
            batch=batch,
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a chat completion: {error!r}") from None


class Journal:
    """The answers of all samples, in memory and in an append-only file; one process at a time.

    path: the file, made if need be. parameters: a flat dict of what shapes the answers; a journal with other values is
    refused by an InputError that names them. `repairs` lists, in words, what had to be mended while reading.
    """

    def __init__(self, path, parameters):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.repairs = []
        self.failures = Counter()  # of this start, by kind
        self.tokens = Counter()  # prompt, completion, and each of them in batches
        self.n_answers = 0  # paid for, those included that a damaged line has made useless
        self._answers = {}  # pid -> {stage: Answer}
        self._failed = {}  # pid -> kind, of this start
        self._file = open(self.path, "ab", buffering=0)
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
        """Kind of the failure that stopped a sample in this start, or None."""
        return self._failed.get(pid)

    def add(self, answers):
        """Write answers, and return once they are on the disk. An answer that is known already is left out."""
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
        """Let other processes have the journal."""
        self._file.close()

    def _keep(self, answer):
        stages = self._answers.setdefault(answer.pid, {})
        for later in [stage for stage in stages if stage > answer.stage]:
            del stages[later]  # it followed another answer, one that a damaged line has lost
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
            raise InputError(f"{self.path}: cannot be written: {error.strerror}; what it holds is kept") from None
        self._end += len(data)

    def _read(self, parameters):
        """Fill the memory from the file and return the journal's name."""
        head = None
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    self.repairs.append(f"{self.path}: the last line was torn, {len(line)} bytes are taken away")
                    self._file.truncate(self._end)
                    break
                self._end += len(line)
                try:
                    entry = json.loads(line)
                    if number == 1:
                        head = entry["journal"], entry["id"], entry["parameters"]
                    elif "failure" not in entry:
                        self._keep(Answer(**entry))
                except (ValueError, TypeError, KeyError):
                    if number == 1:
                        raise InputError(
                            f"{self.path}: row 1: no journal; move it away, or give another folder"
                        ) from None
                    self.repairs.append(f"{self.path}: row {number} is damaged; an answer in it is asked for again")
        self._drop_orphans()
        if head is None:
            name = uuid.uuid4().hex
            self._append([{"journal": JOURNAL_VERSION, "id": name, "parameters": parameters}])
            return name
        if head[0] != JOURNAL_VERSION:
            raise InputError(f"{self.path}: journal version {head[0]}, this program reads {JOURNAL_VERSION}")
        differing = [key for key in {**head[2], **parameters} if head[2].get(key) != parameters.get(key)]
        if differing:
            told = "; ".join(f"{key} {head[2].get(key)!r}, now {parameters.get(key)!r}" for key in differing)
            raise InputError(
                f"{self.path}: was made with other parameters ({told}); give those, or another --output_path"
            )
        return head[1]

    def _drop_orphans(self):
        """Forget answers behind a missing one: their prompts held an answer that a damaged line has lost."""
        for stages in self._answers.values():
            for stage in [stage for stage in stages if any(earlier not in stages for earlier in range(1, stage))]:
                del stages[stage]


# --------------------------------------------------------------------------------------------------------------- cost


class Budget:
    """What was spent by the journal's answers, in USD, and what may still be.

    price_in, price_out: USD per million tokens, or None; batches cost half. max_cost: USD for all answers in the
    journal together, or None. A call is reserved for at its worst case, a token for each byte of the prompt and
    max_tokens of answer, so the limit is kept whatever the answers are.
    """

    def __init__(self, journal, price_in, price_out, max_cost, max_tokens):
        self.journal = journal
        self.price_in, self.price_out, self.max_cost, self.max_tokens = price_in, price_out, max_cost, max_tokens
        self.reserved = 0.0

    @property
    def priced(self):
        return self.price_in is not None

    def cost(self, prompt_tokens, completion_tokens, batch=False):
        """USD for so many tokens."""
        usd = (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6
        return usd / 2 if batch else usd

    def spent(self):
        """USD of all answers in the journal."""
        tokens = self.journal.tokens
        live = self.cost(tokens["prompt"], tokens["completion"])
        return live + self.cost(tokens["batch_prompt"], tokens["batch_completion"], batch=True)

    def worst_case(self, prompt, batch=False):
        """USD that a call can cost at most; 0 without a limit."""
        return 0.0 if self.max_cost is None else self.cost(len(prompt.encode()) + 16, self.max_tokens, batch)

    def allows(self, usd):
        """Whether so much more fits below the limit, beside what is reserved."""
        return self.max_cost is None or self.spent() + self.reserved + usd <= self.max_cost


# ------------------------------------------------------------------------------------------------------------- client


def api_key():
    """The key from OPENAI_API_KEY; InputError if it is not set."""
    if key := os.environ.get("OPENAI_API_KEY", "").strip():
        return key
    raise InputError("OPENAI_API_KEY is not set; export it (for an offline test see tlrec/demo/teacher.py)")


def open_client(kind, base_url, timeout, attempts):
    """An `openai.AsyncOpenAI` or `openai.OpenAI` (that is `kind`, by name).

    base_url: None takes OPENAI_BASE_URL, else the service's own. timeout: seconds for one attempt. attempts: at most so
    many for one call. An exhausted quota, which comes as a 429 too, is not tried again.
    """
    import openai  # a second of import, which neither --help nor --dry_run has to wait for

    def give_up(response):
        if _error_of(response).get("code") in FATAL_CODES:
            response.headers["x-should-retry"] = "false"  # a header that the client obeys

    def hook(response):
        if response.status_code == 429:
            response.read()
            give_up(response)

    async def async_hook(response):
        if response.status_code == 429:
            await response.aread()
            give_up(response)

    http_client, hook = {
        "AsyncOpenAI": (openai.DefaultAsyncHttpxClient, async_hook),
        "OpenAI": (openai.DefaultHttpxClient, hook),
    }[kind]
    return getattr(openai, kind)(
        api_key=api_key(),
        base_url=base_url or os.environ.get("OPENAI_BASE_URL") or None,
        timeout=timeout,
        max_retries=attempts - 1,
        http_client=http_client(timeout=timeout, event_hooks={"response": [hook]}),
    )


def _error_of(response):
    try:
        error = response.json().get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, dict) else {}


@contextmanager
def service_errors(client):
    """Turn what every further call would meet as well into a ServiceError of one line."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        if error.status_code in FATAL_STATUS or error.code in FATAL_CODES:
            raise ServiceError(describe_failure(error, client)[1]) from None
        raise


def describe_failure(error, client):
    """(kind, message) of an exception of the client, the message in one line and without the key."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        kind, message = "time-out", f"no answer within {client.timeout:g} s"
    elif isinstance(error, openai.APIStatusError):
        told = _error_of(error.response).get("message") or error.response.text[:200] or error.response.reason_phrase
        kind = {429: "rate limit"}.get(error.status_code, "server error" if error.status_code >= 500 else "bad request")
        message = f"{error.status_code}: {told}"
    elif isinstance(error, openai.APIConnectionError):
        kind, message = "connection", f"{client.base_url}: {error.__cause__ or error}"
    else:
        kind, message = "malformed response", str(error)
    return kind, " ".join(message.split()).replace(client.api_key, "***")


# --------------------------------------------------------------------------------------------------- calls in flight


class Stopped(Exception):
    """The run ended before its time: `reason` in words, `interrupted` if the user or the system asked for it."""

    def __init__(self, reason, interrupted=False):
        super().__init__(reason)
        self.interrupted = interrupted


def run_dialogues(client, request, pids, next_prompt, journal, budget, concurrency, report):
    """Ask all that is missing, at most `concurrency` samples at a time.

    client:      AsyncOpenAI from `open_client`.
    request:     dict of all fields of a chat request but the messages.
    next_prompt: function of (pid, texts of the answers so far) to the next prompt, or None where the dialogue is over.
    report:      called with a list of pids whenever the journal has grown for them.
    Raises ServiceError or Stopped, once the calls in flight have come in, and what has come in is in the journal.
    """
    asyncio.run(_Run(client, request, iter(pids), next_prompt, journal, budget, concurrency, report).run())


class _Run:
    def __init__(self, client, request, pids, next_prompt, journal, budget, concurrency, report):
        self.client, self.request, self.pids, self.next_prompt = client, request, pids, next_prompt
        self.journal, self.budget, self.concurrency, self.report = journal, budget, concurrency, report
        self.in_flight = 0
        self.failed_in_a_row = 0
        self.end = None  # the exception that ends the run

    async def run(self):
        self.stopping, self.hurry, self.settled = asyncio.Event(), asyncio.Event(), asyncio.Condition()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        workers = {asyncio.create_task(self._work()) for _ in range(self.concurrency)}
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            while workers and not self.stopping.is_set():
                done, _ = await asyncio.wait(workers | {stopping}, return_when=asyncio.FIRST_COMPLETED)
                workers -= done
                for task in done - {stopping}:
                    task.result()
            if workers:
                await self._drain(workers)
        finally:
            for task in workers | {stopping}:
                task.cancel()
            await asyncio.gather(*workers, stopping, return_exceptions=True)
            await self.client.close()
        if self.end:
            raise self.end

    async def _work(self):
        """Take one sample after the other through its stages."""
        for pid in self.pids:  # shared by all workers
            while not self.stopping.is_set() and not self.journal.flaw(pid):
                texts = self.journal.texts(pid)
                prompt = self.next_prompt(pid, texts)
                if prompt is None or not await self._ask(pid, len(texts) + 1, prompt):
                    break
            if self.stopping.is_set():
                return

    async def _ask(self, pid, stage, prompt):
        """Ask one question and journal the answer; False if there is none."""
        import openai

        worst = self.budget.worst_case(prompt)
        async with self.settled:
            await self.settled.wait_for(
                lambda: self.stopping.is_set() or self.budget.allows(worst) or self.in_flight == 0
            )
            if self.stopping.is_set():
                return False
            if not self.budget.allows(worst):
                self._stop(Stopped(f"--max_cost {self.budget.max_cost:g} would be exceeded by the next call"))
                return False
            self.in_flight += 1
            self.budget.reserved += worst
        try:
            with service_errors(self.client):
                completion = await self.client.chat.completions.create(
                    messages=[{"role": "user", "content": prompt}], **self.request
                )
            if isinstance(completion, str):
                raise ValueError("the answer is no JSON")
            answer = read_completion(pid, stage, completion.to_dict(), completion._request_id)
        except ServiceError as error:
            self._stop(error)
            return False
        except (openai.OpenAIError, ValueError) as error:
            kind, message = describe_failure(error, self.client)
            await asyncio.to_thread(self.journal.add_failures, [(pid, stage, kind, message)])
            self.failed_in_a_row += 1
            if self.failed_in_a_row >= max(FAILURES_IN_A_ROW, self.concurrency):
                self._stop(
                    Stopped(f"{self.failed_in_a_row} samples in a row failed, the last one by {kind}: {message}")
                )
            return False
        else:
            await asyncio.to_thread(self.journal.add, [answer])  # the disk must not hold up the other calls
            self.failed_in_a_row = 0
            return True
        finally:
            self.in_flight -= 1
            self.budget.reserved = self.budget.reserved - worst if self.in_flight else 0.0  # no rounding is left over
            self.report([pid])
            async with self.settled:
                self.settled.notify_all()

    def _stop(self, end):
        if self.end is None:
            self.end = end
        self.stopping.set()

    def _interrupt(self):
        if self.stopping.is_set():
            self.hurry.set()
        self._stop(Stopped("interrupted", interrupted=True))

    async def _drain(self, workers):
        """Wait for the calls in flight: they are paid for. A second signal ends the waiting."""
        async with self.settled:
            self.settled.notify_all()  # those that wait for money see the end
        print(f"\nstopping: {self.end}; waiting up to {DRAIN_SECONDS} s for the calls in flight (Ctrl-C: not at all)",
              file=sys.stderr, flush=True)  # fmt: skip
        hurry = asyncio.create_task(self.hurry.wait())
        ready = asyncio.create_task(asyncio.wait(workers))
        await asyncio.wait({hurry, ready}, timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        ready.cancel()
