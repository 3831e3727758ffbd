"""An offline teacher inside the test's process, with faults on demand, and a source domain small enough to ask all of it."""

import hashlib
import json
import random
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np

from tests.support.hostile import serving
from tlrec.data.preferences import build_record
from tlrec.data.records import write_records
from tlrec.demo.teacher import complete, error
from tlrec.demo.world import DOMAINS, make_catalogue, make_examples


class CountingTeacher:
    """The demo's teacher, which knows how many chat requests are in its hands, and of which prompts (digests) it was
    `asked`, and has `answered` them; with files and batches, and with faults.

    change:      function of (request, status, answer) to the (status, answer) that is sent.
    together:    it answers nothing before so many requests have been in its hands at once, or waits a minute for them.
    delay:       seconds before each answer.
    quota:       answers until the quota is exhausted.
    enqueued:    larger batches fail.
    expired:     share of a batch's calls that expire.
    `allow` bounds the answers from then on (None: no bound).
    """

    def __init__(self, change=None, together=1, delay=0.0, quota=None, enqueued=None, expired=0.0):
        self.change = change or (lambda body, *answer: answer)
        self.together, self.delay, self.quota, self.enqueued, self.expired = together, delay, quota, enqueued, expired
        self.in_flight = self.most_in_flight = 0
        self.asked, self.answered = [], []
        self.files, self.batches = {}, {}
        self.changed = threading.Condition(threading.RLock())
        self._left = None

    def respond(self, handler):
        """Answer a request to any address: chat, files and batches."""
        path = urlsplit(handler.path).path
        if path == "/v1/chat/completions":
            self.chat(handler)
            return
        name = path.removesuffix("/content").rpartition("/")[2]
        with self.changed:
            if path == "/v1/files":  # a form
                lines = [line for line in handler.body.splitlines(keepends=True) if line.startswith(b'{"custom_id"')]
                handler.reply({"id": self.keep(b"".join(lines))})
            elif handler.command == "POST":
                handler.reply(self.create_batch(json.loads(handler.body)))
            elif path == "/v1/batches":
                handler.reply({"data": list(map(self.look_at_batch, reversed(self.batches))), "has_more": False})
            else:
                handler.reply(self.files[name] if name in self.files else self.look_at_batch(name))

    def chat(self, handler):
        self.begin()
        time.sleep(self.delay)
        with self.changed:  # what is answered is no longer in hand: its client may ask the next
            status, answer = self.complete(json.loads(handler.body))
            self.in_flight -= 1
            self.changed.notify_all()
        handler.reply(answer, status, x_request_id=f"req_{time.time_ns()}")

    def begin(self):
        """Take a request in hand, and wait until its answer is allowed."""
        with self.changed:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most_in_flight >= self.together, timeout=60)
            self.changed.wait_for(lambda: self._left is None or self._left > 0)
            if self._left is not None:
                self._left -= 1

    def allow(self, answers):
        with self.changed:
            self._left = answers
            self.changed.notify_all()

    def wait_for(self, answers, in_flight=0):
        """Return once so many answers have been given, and so many further requests are in hand."""
        with self.changed:
            if not self.changed.wait_for(
                lambda: len(self.answered) >= answers and self.in_flight >= in_flight, timeout=60
            ):
                raise TimeoutError(f"{len(self.answered)} answers, {self.in_flight} in flight")

    def complete(self, body):
        """(status, answer) for a chat request, direct or in a batch."""
        digest = hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()
        with self.changed:
            self.asked.append(digest)
            if len(self.answered) == self.quota:
                return 429, error("You exceeded your current quota, please check it.", "insufficient_quota")
            self.answered.append(digest)
            self.changed.notify_all()
        return self.change(body, *complete(body))

    def keep(self, content):
        """A new file; its name."""
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return name

    def create_batch(self, body):
        """A new batch; it is answered when it is first looked at."""
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        counts = {"total": len(lines), "completed": 0, "failed": 0}
        batch = {"id": f"batch_{len(self.batches) + 1}", "status": "in_progress", "request_counts": counts, **body}
        self.batches[batch["id"]] = batch, lines
        return dict(batch)

    def look_at_batch(self, name):
        batch, lines = self.batches[name]
        if batch["status"] == "in_progress":
            self.finish(batch, lines)
        return batch

    def finish(self, batch, lines):
        if self.enqueued and len(lines) > self.enqueued:
            errors = [{"code": "token_limit_exceeded", "message": f"Enqueued token limit reached: {len(lines)}"}]
            batch |= {"status": "failed", "errors": {"object": "list", "data": errors}}
            return
        entries = {"output_file_id": [], "error_file_id": []}
        for entry in map(self.entry, lines):
            answered = entry["response"] and entry["response"]["status_code"] == 200
            entries["output_file_id" if answered else "error_file_id"].append(json.dumps(entry).encode() + b"\n")
        batch |= {key: self.keep(b"".join(lines)) for key, lines in entries.items() if lines}
        batch["status"] = "expired" if self.expired else "completed"

    def entry(self, line):
        """The line of a batch's file that answers a line of its request."""
        name = line["custom_id"]
        if random.Random(f"{len(self.batches)} {name}").random() < self.expired:
            lost = {"code": "batch_expired", "message": "This request could not be executed in time."}
            return {"custom_id": name, "response": None, "error": lost}
        status, answer = self.complete(line["body"])
        response = {"status_code": status, "request_id": f"req_{name}", "body": answer}
        return {"custom_id": name, "response": response, "error": None}


@contextmanager
def teaching(change=None, **faults):
    """Serve a CountingTeacher; yields it, with its `url`."""
    teacher = CountingTeacher(change, **faults)
    with serving(teacher.respond) as server:
        teacher.url = server.url
        try:
            yield teacher
        finally:
            teacher.allow(None)


def make_source(root, name="netflix", rows=150, seed=0):
    """`instruction_data/<name>/train.json` below root, of the demo world with few items: many samples of few rows."""
    domain = DOMAINS[name]
    catalogue = make_catalogue(np.random.default_rng([seed, 0]), domain, items_per_theme=12)
    examples = make_examples(np.random.default_rng([seed, 1]), domain, catalogue, rows)
    path = root / "instruction_data" / name / "train.json"
    write_records(path, [build_record(example.preference, example.liked) for example in examples])
    return path
