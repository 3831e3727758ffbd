"""An offline teacher inside the test's process, with faults on demand, and a source domain small enough to ask all of it."""

import hashlib
import json
import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np

from tlrec.data.preferences import build_record
from tlrec.data.records import write_records
from tlrec.demo.teacher import Handler, Teacher, error
from tlrec.demo.world import DOMAINS, make_catalogue, make_examples

CALL_FAULTS = ("rate_limited", "server_error", "dropped", "garbled")  # another draw for each attempt
ANSWER_FAULTS = ("empty", "cut_off", "malformed", "refused")  # the same whenever a prompt is asked


class CountingHandler(Handler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        teacher = self.server
        if self.path == "/v1/chat/completions":
            self.chat(json.loads(body))
            return
        with teacher.lock:
            if self.path == "/v1/files":  # a form
                lines = [line for line in body.splitlines(keepends=True) if line.startswith(b'{"custom_id"')]
                self.send(200, {"id": teacher.keep(b"".join(lines))})
            else:
                self.send(200, teacher.create_batch(json.loads(body)))

    def do_GET(self):
        teacher, path = self.server, urlsplit(self.path).path
        name = path.removesuffix("/content").rpartition("/")[2]
        with teacher.lock:
            if path == "/v1/batches":
                batches = [teacher.look_at_batch(name) for name in reversed(teacher.batches)]
                self.send(200, {"data": batches, "has_more": False})
            else:
                self.send(200, teacher.files[name] if name in teacher.files else teacher.look_at_batch(name))

    def chat(self, body):
        teacher = self.server
        answering = teacher.begin()
        status, answer = teacher.complete(body) if answering else (None, None)
        time.sleep(teacher.delay)
        with teacher.changed:  # from here on its client may ask the next
            teacher.in_flight -= 1
            teacher.changed.notify_all()
        if status is None:
            self.close_connection = True
        else:
            self.send(status, answer, **({"Retry_After": 0.02} if status == 429 else {}))


class CountingTeacher(Teacher):
    """A teacher that knows how many chat requests are in its hands, and in `fates` (digest of the prompt, what became of
    it) of each; with files and batches, and with faults.

    together:    it answers nothing before so many requests have been in its hands at once, or waits a minute for them.
    delay:       seconds before each answer.
    quota:       answers until the quota is exhausted.
    enqueued:    larger batches fail.
    expired:     share of a batch's calls that expire.
    shares:      share of calls that meet each of CALL_FAULTS, and of prompts that get each of ANSWER_FAULTS.
    `allow` bounds the answers from then on (None: no bound).
    """

    def __init__(self, together=1, delay=0.0, quota=None, enqueued=None, expired=0.0, **shares):
        super().__init__(handler=CountingHandler)
        self.together, self.delay, self.quota, self.enqueued, self.expired = together, delay, quota, enqueued, expired
        self.shares = shares
        self.in_flight = self.most_in_flight = 0
        self.fates, self.asked = [], Counter()
        self.files, self.batches = {}, {}
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._left, self._round = None, 0

    def begin(self):
        """Take a request in hand, and wait until its answer is allowed; False if all that waited were dropped."""
        with self.changed:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most_in_flight >= self.together, timeout=60)
            now = self._round
            self.changed.wait_for(lambda: self._round != now or self._left is None or self._left > 0)
            if self._round == now and self._left is not None:
                self._left -= 1
            return self._round == now

    def allow(self, answers):
        with self.changed:
            self._left = answers
            self.changed.notify_all()

    def drop_waiting(self):
        """Leave the requests that wait to be allowed without an answer: their client is dead."""
        with self.changed:
            self._round += 1
            self.changed.notify_all()

    def wait_for(self, answers, in_flight):
        """Return once so many answers have been given, and so many further requests are in hand."""
        with self.changed:
            if not self.changed.wait_for(
                lambda: len(self.answered_prompts()) >= answers and self.in_flight >= in_flight, timeout=60
            ):
                raise TimeoutError(f"{len(self.answered_prompts())} answers, {self.in_flight} in flight")

    def answered_prompts(self):
        """Digests of the prompts of all answers that were given."""
        return [digest for digest, fate in self.fates if fate == "answered"]

    def complete(self, body):
        """(status, answer) for a chat request, direct or in a batch; no status: the connection is to be closed."""
        digest = hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()
        with self.changed:
            self.asked[digest] += 1
            fault = self._draw(f"{digest} {self.asked[digest]}", CALL_FAULTS)
            if not fault and self.quota is not None and len(self.answered_prompts()) >= self.quota:
                fault = "quota"
            self.fates.append((digest, fault or "answered"))
            self.changed.notify_all()
        replies = {
            "rate_limited": (429, error("Rate limit reached.", "rate_limit_exceeded")),
            "server_error": (500, error("The server had an error.", "server_error")),
            "dropped": (None, None),
            "garbled": (200, b'{"id": "chatcmpl-broken", "choices": ['),
            "quota": (429, error("You exceeded your current quota, please check it.", "insufficient_quota")),
        }
        if fault:
            return replies[fault]
        status, answer = super().complete(body)
        if status == 200 and (flaw := self._draw(digest, ANSWER_FAULTS)):
            choice = answer["choices"][0]
            text = choice["message"]["content"]
            weather = "I would rather talk about the weather: it is fine, and there is nothing to list."
            choice["message"]["content"] = {"cut_off": text[: len(text) // 2], "malformed": weather}.get(flaw, "")
            choice["finish_reason"] = "length" if flaw == "cut_off" else "stop"
            choice["message"]["refusal"] = "I cannot help with that." if flaw == "refused" else None
        return status, answer

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

    def _draw(self, name, faults):
        """The fault that a name meets, or None."""
        chance = random.Random(name).random()
        for fault in faults:
            chance -= self.shares.get(fault, 0)
            if chance < 0:
                return fault
        return None


@contextmanager
def teaching(change=None, **faults):
    """Run a CountingTeacher; yields it. change: function of (request, status, answer) to the (status, answer) sent."""
    teacher = CountingTeacher(**faults)
    if change:
        complete = teacher.complete
        teacher.complete = lambda body: change(body, *complete(body))
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
