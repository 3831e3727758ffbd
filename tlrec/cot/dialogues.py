"""Dialogues with a chat model: calls in flight, failures counted by kind, and a limit on the cost.

A *sample* is a dialogue of several *stages*; each stage's prompt contains the earlier answers. Every answer is written
to the journal on disk before the next stage is asked, so a run may end at any moment and the next one asks only what is
missing. The `openai` client retries errors that may pass (429 with its Retry-After, 5xx, lost connections, time-outs);
the others are handled here.
"""

import asyncio
import signal
import sys

from tlrec.cot.client import ServiceError
from tlrec.cot.journal import read_completion

DRAIN_SECONDS = 30  # how long a stopping run waits for calls in flight, which are paid for
FAILURES_IN_A_ROW = 20  # samples; then the service is taken to be down


class Budget:
    """What the journal's answers have cost, in USD, and what may still be spent.

    price_in, price_out: USD per million tokens, or None; batches cost half. max_cost: USD for all answers in the
    journal together, or None. Each call reserves its worst case, one token for each byte of the prompt and
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
        """USD for these numbers of tokens."""
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
        """Whether this much more fits under the limit, on top of what is reserved."""
        return self.max_cost is None or self.spent() + self.reserved + usd <= self.max_cost


class Stopped(Exception):
    """The run ended early, for a `reason` in words; `interrupted` if the user or the system asked for it."""

    def __init__(self, reason, interrupted=False):
        super().__init__(reason)
        self.interrupted = interrupted


def run_dialogues(service, request, pids, next_prompt, journal, budget, concurrency, report):
    """Ask every missing question, for at most `concurrency` samples at a time.

    service:     a `Service`; it is closed at the end.
    request:     dict of all fields of a chat request except the messages.
    next_prompt: function of (pid, texts of the answers so far) to the next prompt, or None when the dialogue is over.
    report:      called with a list of pids whenever the journal has grown for them.
    Raises ServiceError or Stopped, once the calls in flight have ended and their answers are in the journal.
    """
    asyncio.run(_Run(service, request, iter(pids), next_prompt, journal, budget, concurrency, report).run())


class _Run:
    def __init__(self, service, request, pids, next_prompt, journal, budget, concurrency, report):
        self.service, self.request, self.pids, self.next_prompt = service, request, pids, next_prompt
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
            await self.service.close()
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
            with self.service.errors():
                completion, request_id = await self.service.post(
                    "/chat/completions", {**self.request, "messages": [{"role": "user", "content": prompt}]}
                )
            answer = read_completion(pid, stage, completion, request_id)
        except ServiceError as error:
            self._stop(error)
            return False
        except (openai.OpenAIError, ValueError) as error:
            kind, message = self.service.describe_failure(error)
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
            self.budget.reserved = self.budget.reserved - worst if self.in_flight else 0.0  # drops rounding errors
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
            self.settled.notify_all()  # wakes the calls that wait for budget
        print(
            f"\nstopping: {self.end}; waiting up to {DRAIN_SECONDS} s for the calls in flight (Ctrl-C: stop at once)",
            file=sys.stderr,
            flush=True,
        )
        hurry = asyncio.create_task(self.hurry.wait())
        ready = asyncio.create_task(asyncio.wait(workers))
        await asyncio.wait({hurry, ready}, timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        ready.cancel()
