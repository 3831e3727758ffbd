"""An offline teacher inside the test's process, and a source domain small enough to ask all of it."""

import threading
from contextlib import contextmanager

import numpy as np

from tlrec.data.preferences import build_record
from tlrec.data.records import write_records
from tlrec.demo.teacher import MODEL, Teacher, parse_arguments
from tlrec.demo.world import DOMAINS, make_catalogue, make_examples


class CountingTeacher(Teacher):
    """A teacher that also knows how many chat requests were in its hands at once, and which prompts it answered."""

    def __init__(self, settings):
        super().__init__(settings)
        self.in_flight = self.most_in_flight = 0
        self.fates = []

    def complete(self, body, batched=False):
        with self.lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return super().complete(body, batched)

    def note(self, digest, fate):
        super().note(digest, fate)
        with self.lock:
            self.in_flight -= 1
            self.fates.append((digest, fate))

    def answered_prompts(self):
        """Digests of the prompts of all answers that were sent."""
        return [digest for digest, fate in self.fates if fate == "answered"]


@contextmanager
def teaching(*flags):
    """Run a teacher with command line flags; yields it."""
    teacher = CountingTeacher(parse_arguments([str(flag) for flag in flags]))
    thread = threading.Thread(target=teacher.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield teacher
    finally:
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
