"""An offline teacher inside the test's process, and a source domain small enough to ask all of it."""

import threading
from contextlib import contextmanager

import numpy as np

from tlrec.data.preferences import build_record
from tlrec.data.records import write_records
from tlrec.demo.teacher import MODEL, Handler, Teacher, parse_arguments
from tlrec.demo.world import DOMAINS, make_catalogue, make_examples


class CountingHandler(Handler):
    """Tells its teacher when a chat request is in hand and when its answer leaves."""

    def _chat(self, body):
        self.server.begin()
        try:
            if self.server.may_answer():
                super()._chat(body)
            else:
                self.close_connection = True  # its client was killed while it waited
        finally:
            self.server.end()

    def _send(self, *answer, **fields):
        self.server.leave()
        super()._send(*answer, **fields)


class CountingTeacher(Teacher):
    """A teacher that also knows how many chat requests were in its hands at once, and which prompts it answered.

    together: it answers nothing before so many requests have been in its hands at once, or waits a minute for them.
    `allow` bounds the answers from then on (None: no bound).
    """

    def __init__(self, settings, together=1):
        super().__init__(settings)
        self.RequestHandlerClass = CountingHandler
        self.together = together
        self.in_flight = self.most_in_flight = 0
        self._changed = threading.Condition(self.lock)
        self._mine = threading.local()  # of a request's thread: whether it is in flight, and has no fate yet
        self._unsettled = 0  # requests of which `fates` does not tell yet
        self._fates = []
        self._left, self._round = None, 0

    def begin(self):
        with self._changed:
            self._mine.counted = self._mine.unsettled = True
            self._unsettled += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most_in_flight >= self.together, timeout=60)

    def may_answer(self):
        """Wait until an answer is allowed; False if all that waited were dropped."""
        with self._changed:
            now = self._round
            self._changed.wait_for(lambda: self._round != now or self._left is None or self._left > 0)
            if self._round == now and self._left is not None:
                self._left -= 1
            return self._round == now

    def allow(self, answers):
        with self._changed:
            self._left = answers
            self._changed.notify_all()

    def drop_waiting(self):
        """Leave the requests that wait to be allowed without an answer: their client is dead."""
        with self._changed:
            self._round += 1
            self._changed.notify_all()

    def leave(self):
        """The answer of this thread's request is about to be sent: from here on its client may ask the next."""
        with self._changed:
            if getattr(self._mine, "counted", False):
                self._mine.counted = False
                self.in_flight -= 1

    def note(self, digest, fate):
        super().note(digest, fate)
        with self._changed:
            self._fates.append((digest, fate))
            self._settle()

    def end(self):
        self.leave()
        with self._changed:
            self._settle()

    def _settle(self):
        if getattr(self._mine, "unsettled", False):
            self._mine.unsettled = False
            self._unsettled -= 1
        self._changed.notify_all()

    def wait_for(self, answers, in_flight):
        """Return once so many answers have been sent, and so many further requests are in hand."""

        def reached():
            return len(self._answered()) >= answers and self.in_flight >= in_flight

        with self._changed:
            if not self._changed.wait_for(reached, timeout=60):
                raise TimeoutError(f"after a minute: {len(self._answered())} answers, {self.in_flight} in flight")

    @property
    def fates(self):
        """(digest of the prompt, what became of it) of all requests so far, once each of them has its fate: an answer
        reaches its client a moment before it is noted here."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._unsettled, timeout=60):
                raise TimeoutError(f"{self._unsettled} requests are still in hand after a minute")
            return list(self._fates)

    def answered_prompts(self):
        """Digests of the prompts of all answers that were sent."""
        return [digest for digest, fate in self.fates if fate == "answered"]

    def _answered(self):
        return [digest for digest, fate in self._fates if fate == "answered"]


@contextmanager
def teaching(*flags, together=1):
    """Run a teacher with command line flags; yields it."""
    teacher = CountingTeacher(parse_arguments([str(flag) for flag in flags]), together)
    thread = threading.Thread(target=teacher.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield teacher
    finally:
        teacher.allow(None)
        teacher.shutdown()
        thread.join()
        teacher.server_close()


def make_source(root, name="netflix", rows=150, seed=0):
    """`instruction_data/<name>/train.json` below root, of the demo world with few items: many samples of few rows."""
    domain = DOMAINS[name]
    catalogue = make_catalogue(np.random.default_rng([seed, 0]), domain, items_per_theme=12)
    examples = make_examples(np.random.default_rng([seed, 1]), domain, catalogue, rows)
    path = root / "instruction_data" / name / "train.json"
    write_records(path, [build_record(example.preference, example.liked) for example in examples])
    return path


__all__ = ["MODEL", "CountingTeacher", "make_source", "teaching"]
