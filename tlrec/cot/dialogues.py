"""Dialogues with a chat model: calls in flight, what becomes of those that fail, and a limit on the cost.

A *sample* is a dialogue of several *stages*; each stage's prompt contains the earlier answers. Every answer is written
to the journal on disk before the next stage is asked, so a run may end at any moment and the next one asks only what is
missing. The `openai` client retries errors that may pass (429 with its Retry-After, 5xx, lost connections, time-outs);
the others are handled here.
"""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tqdm import tqdm

from tlrec.cot.failures import Failure
from tlrec.cot.journal import Journal
from tlrec.cot.reply import read_completion

DRAIN_SECONDS = 30  # how long a stopping run waits for calls in flight, which are paid for
IN_A_ROW = 20  # samples without a usable answer; then the run ends
MORE_TOKENS = "give a larger --max_tokens than {}, which the thoughts of a reasoning model count towards"
MENDS = {"cut off": MORE_TOKENS, "empty": MORE_TOKENS, "thoughts without an answer": MORE_TOKENS}  # by flaw


class Stopped(Exception):
    """The run ended early, for a `reason` in words. mend: what to do now; interrupted: somebody asked for it."""

    def __init__(self, reason, mend="the same command continues", interrupted=False):
        super().__init__(reason)
        self.mend, self.interrupted = mend, interrupted


class ServiceError(Stopped):
    """The service refuses every call: wrong key, unknown model, exhausted quota. The message is one line."""


class Budget:
    """What the journal's answers have cost, in USD, and what may still be spent.

    price_in, price_out: USD per million tokens, or None; batches cost half. max_cost: USD for all answers in the
    journal together, or None. A call is made if the worst case of all calls in flight fits, one token for each byte of
    the prompt and max_tokens of answer, so the limit is kept whatever the answers are.
    """

    def __init__(self, journal, price_in, price_out, max_cost, max_tokens):
        self.journal = journal
        self.price_in, self.price_out, self.max_cost, self.max_tokens = price_in, price_out, max_cost, max_tokens

    def cost(self, prompt_tokens, completion_tokens):
        """USD for these numbers of tokens."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6

    def spent(self):
        """USD of all answers in the journal; None without prices."""
        billed = self.journal.billed
        return None if self.price_in is None else self.cost(billed["prompt"], billed["completion"])

    def worst_case(self, prompt):
        """USD that a call can cost at most; 0 without a limit."""
        return 0.0 if self.max_cost is None else self.cost(len(prompt.encode()) + 16, self.max_tokens)

    def allows(self, usd):
        """Whether this much more fits under the limit."""
        return self.max_cost is None or self.spent() + usd <= self.max_cost

    def exceeded(self):
        """What ends a run that the limit does not let go on."""
        return Stopped(f"--max_cost {self.max_cost:g} would be exceeded by the next call")


@dataclass
class Work:
    """What is asked, and what has come of it: for one call after the other here, and in batches.

    service:     a tlrec.cot.client.Service, closed at the end.
    request:     all fields of a chat request except the messages.
    pids:        the samples.
    next_prompt: function of (pid, texts of the answers so far) to the next prompt, or None when the dialogue is over.
    report:      called with a list of pids whenever the journal has grown for them, and perhaps a text on a batch.
    refused:     {pid: (stage, Failure)} of prompts that the service perhaps refuses for good: `settle`.
    """

    service: object
    request: dict
    pids: list[int]
    next_prompt: Callable
    journal: Journal
    budget: Budget
    report: Callable
    refused: dict = field(default_factory=dict)
    _told: set = field(default_factory=set)  # kinds of failure whose first reason was printed
    _unusable: int = 0  # samples in a row without a usable answer
    _last: str = ""  # what became of the last of them

    def prompt(self, pid):
        """The next prompt of a sample; None if it is over, or if its answers cannot be used."""
        return None if self.journal.flaw(pid) else self.next_prompt(pid, self.journal.texts(pid))

    def body(self, prompt):
        return {**self.request, "messages": [{"role": "user", "content": prompt}]}

    def answered(self, answers):
        """Write answers to the journal, and return once they are on the disk."""
        self.journal.add(answers)
        for answer in answers:
            self.count(answer.flaw)

    def failed(self, failures):
        """Write down calls that failed, (pid, stage, Failure) each."""
        self.journal.add_failures(failures)
        for pid, stage, failure in failures:
            if failure.reach == "every call":
                raise ServiceError(failure.message)
            if failure.kind not in self._told:
                self._told.add(failure.kind)
                tqdm.write(f"first {failure.kind}: {failure.message}", file=sys.stderr)
            if failure.reach == "this prompt":
                self.refused[pid] = stage, failure

    def settle(self, pids):
        """Write down that the prompts of these samples were refused for good: the service has answered others since."""
        refused = [(pid, *self.refused.pop(pid)) for pid in list(pids) if pid in self.refused]
        self.journal.add_verdicts(refused)
        self.report([pid for pid, *_ in refused])

    def count(self, flaw):
        """Count samples in a row without a usable answer; flaw: what became of the next one, None if it is usable."""
        self._unusable, self._last = (self._unusable + 1, flaw) if flaw else (0, "")

    def hopeless(self, in_a_row):
        """What ends the run because so many samples in a row have no usable answer, or None."""
        if self._unusable < in_a_row:
            return None
        reason = f"{self._unusable} samples in a row without a usable answer, the last one for: {self._last}"
        mend = MENDS.get(self._last, "the same command continues")
        return Stopped(reason, mend.format(self.budget.max_tokens))


def run_dialogues(work, concurrency):
    """Ask every missing question of a `Work`, for at most `concurrency` samples at a time.

    Raises Stopped, once the calls in flight have ended and their answers are in the journal.
    """
    asyncio.run(_Run(work, concurrency).run())


class _Run:
    def __init__(self, work, concurrency):
        self.work, self.concurrency = work, concurrency
        self.waiting = deque(work.pids)  # whose next question is to be asked; the foremost sample is the next
        self.calls = {}  # task of a call in flight -> (pid, stage, worst case in USD, prompts refused before)
        self.end = None  # the exception that ends the run

    async def run(self):
        loop = asyncio.get_running_loop()
        self.interrupted = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            while not self.end and self._ask():
                await self._settle()
            await self._drain()
        finally:
            for call in self.calls:
                call.cancel()
            await asyncio.gather(*self.calls, return_exceptions=True)
            await self.work.service.close()
        if self.end:
            raise self.end
        if self.work.journal.n_answers:
            self.work.settle(self.work.refused)

    def _ask(self):
        """Ask as many of the next questions as the limits on calls in flight and cost allow; whether any is in flight."""
        work, budget = self.work, self.work.budget
        while self.waiting and len(self.calls) < self.concurrency:
            pid = self.waiting[0]
            if (prompt := work.prompt(pid)) is not None:
                worst = budget.worst_case(prompt)
                if not budget.allows(worst + sum(reserved for _, _, reserved, _ in self.calls.values())):
                    self.end = None if self.calls else budget.exceeded()
                    break
                stage = len(work.journal.texts(pid)) + 1
                call = asyncio.create_task(self._call(pid, stage, prompt))
                self.calls[call] = pid, stage, worst, list(work.refused)
            self.waiting.popleft()
        return bool(self.calls)

    async def _call(self, pid, stage, prompt):
        """The Answer, or the Failure that came instead."""
        try:
            completion, request_id = await self.work.service.post("/chat/completions", self.work.body(prompt))
        except Failure as failure:
            return failure
        return read_completion(pid, stage, completion, request_id)

    async def _settle(self):
        """Wait for a call, or a signal, and write down what came of each call that has ended."""
        signals = [] if self.end else [self.interrupted]
        done, _ = await asyncio.wait([*self.calls, *signals], return_when=asyncio.FIRST_COMPLETED)
        for call in [call for call in self.calls if call in done]:
            pid, stage, _, refused_before = self.calls.pop(call)
            if call.cancelled():  # by a second signal
                continue
            try:
                self._write_down(pid, stage, call.result(), refused_before)
            except ServiceError as error:
                self.end = self.end or error
            self.end = self.end or self.work.hopeless(max(IN_A_ROW, self.concurrency))
            self.work.report([pid])

    def _write_down(self, pid, stage, outcome, refused_before):
        if isinstance(outcome, Failure):
            self.work.failed([(pid, stage, outcome)])
            self.work.count(outcome.kind)
        else:
            self.work.answered([outcome])
            self.work.settle(refused_before)
            self.waiting.appendleft(pid)

    def _interrupt(self):
        if self.end:  # the second signal: wait no longer
            for call in self.calls:
                call.cancel()
        else:
            self.end = Stopped("interrupted", interrupted=True)
            self.interrupted.set_result(None)

    async def _drain(self):
        """Wait for the calls in flight: they are paid for."""
        if self.calls:
            reason = ": interrupted" if self.end.interrupted else ""
            wait = f"waiting up to {DRAIN_SECONDS} s for the calls in flight (Ctrl-C: stop at once)"
            print(f"\nstopping{reason}; {wait}", file=sys.stderr, flush=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self.calls:
                    await self._settle()
