"""The same dialogues through OpenAI's Batches interface: half the price, answers within a day.

Each round asks the next question of every sample in one batch (in several where the service's limits ask for it),
waits, and puts what has come into the journal. What a batch left open, because it expired or a request failed, goes
into the next round; so a run without failures is one batch a stage. A run may be stopped at any moment and called
again: which batches are out is kept in a file beside the journal, written before and after a batch is made:

    {"parts": [{"calls": ["pid-stage", ...], "batch": id or null, "status": what it ended with or null}, ...]}
"""

import json
import time
from pathlib import Path

from tlrec.cot.client import FATAL_CODES, ServiceError, describe_failure, service_errors
from tlrec.cot.dialogues import Stopped
from tlrec.cot.journal import read_completion
from tlrec.files import read_json, write_json

ENDPOINT = "/v1/chat/completions"
MAX_REQUESTS, MAX_BYTES = 50_000, 200_000_000  # of one batch, as the service has it
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
TOO_MUCH_ENQUEUED = "token_limit_exceeded"


def run_batches(client, request, pids, next_prompt, journal, budget, state_path, poll_seconds, report):
    """Ask all that is missing, batch by batch, until nothing is.

    client: `openai.OpenAI` from `open_client`. state_path: the file described above. report: called with a list of pids
    and a text on the batch. The rest as in `run_dialogues`.
    Raises ServiceError or Stopped; what has come in until then is in the journal.
    """
    import openai

    try:
        with service_errors(client):
            _Batches(client, request, pids, next_prompt, journal, budget, Path(state_path), poll_seconds, report).run()
    except openai.OpenAIError as error:
        raise Stopped("{}: {}".format(*describe_failure(error, client))) from None
    except KeyboardInterrupt:
        raise Stopped("interrupted; the service goes on with its batches", interrupted=True) from None


class _Batches:
    def __init__(self, client, request, pids, next_prompt, journal, budget, state_path, poll_seconds, report):
        self.client, self.request, self.pids, self.next_prompt = client, request, list(pids), next_prompt
        self.journal, self.budget, self.poll_seconds, self.report = journal, budget, poll_seconds, report
        self.state_path = state_path
        self.state = read_json(state_path, ["parts"]) if state_path.exists() else {"parts": []}
        self.most_requests = MAX_REQUESTS
        self.one_at_a_time = False

    def run(self):
        self._find_lost()
        while True:
            gained = self._settle()
            if gained == 0:
                raise Stopped("a round of batches brought no answer; start again to try once more")
            calls, left_out = self._missing()
            if not calls:
                if left_out:
                    raise Stopped(f"--max_cost {self.budget.max_cost:g} would be exceeded by the next call")
                return
            parts = list(self._split(calls))
            for part in parts[:1] if self.one_at_a_time else parts:
                self._submit(part)

    def _missing(self):
        """The next (call id, request line) of every sample that the budget allows, and how many it does not."""
        calls, left_out, worst = [], 0, 0.0
        for pid in self.pids:
            texts = self.journal.texts(pid)
            prompt = None if self.journal.flaw(pid) else self.next_prompt(pid, texts)
            if prompt is None:
                continue
            cost = self.budget.worst_case(prompt, batch=True)
            if not self.budget.allows(worst + cost):
                left_out += 1
                continue
            worst += cost
            call = f"{pid}-{len(texts) + 1}"
            body = {**self.request, "messages": [{"role": "user", "content": prompt}]}
            line = json.dumps({"custom_id": call, "method": "POST", "url": ENDPOINT, "body": body}) + "\n"
            calls.append((call, line.encode()))
        return calls, left_out

    def _split(self, calls):
        """Cut calls into batches within the service's limits."""
        part, size = [], 0
        for call, line in calls:
            if part and (len(part) == self.most_requests or size + len(line) > MAX_BYTES):
                yield part
                part, size = [], 0
            part.append((call, line))
            size += len(line)
        yield part

    def _submit(self, part):
        number = len(self.state["parts"])
        entry = {"calls": [call for call, _ in part], "batch": None, "status": None}
        self.state["parts"].append(entry)
        self._save()
        file = self.client.files.create(file=("calls.jsonl", b"".join(line for _, line in part)), purpose="batch")
        batch = self.client.batches.create(
            input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata=self._label(number)
        )
        entry["batch"] = batch.id
        self._save()

    def _label(self, number):
        return {"tlrec_journal": self.journal.id, "part": str(number)}

    def _find_lost(self):
        """Recognise batches that were made just before a run was killed; what was not made is forgotten."""
        lost = [number for number, part in enumerate(self.state["parts"]) if not part["batch"] and not part["status"]]
        if not lost:
            return
        labels = {tuple(sorted(self._label(number).items())): number for number in lost}
        for batch in self.client.batches.list(limit=100):
            number = labels.get(tuple(sorted((batch.metadata or {}).items())))
            if number is not None:
                self.state["parts"][number]["batch"] = batch.id
        for number in lost:
            if not self.state["parts"][number]["batch"]:
                self.state["parts"][number]["status"] = "never made"
        self._save()

    def _settle(self):
        """Wait for the batches that are out and journal what they bring.

        Returns the number of new answers, or None where none was due: nothing was out, or batches have to be smaller.
        """
        out = [part for part in self.state["parts"] if not part["status"]]
        gained = None
        while out:
            for part in list(out):
                batch = self.client.batches.retrieve(part["batch"])
                if batch.status in RUNNING:
                    counts = batch.request_counts
                    done = f", {counts.completed + counts.failed} of {counts.total} calls" if counts else ""
                    self.report([], f"batch {batch.id} {batch.status}{done}")
                    continue
                if batch.status == "failed":
                    self._shrink_or_stop(part, batch)
                else:
                    gained = (gained or 0) + self._collect(part, batch)
                part["status"] = batch.status
                self._save()
                out.remove(part)
                self.report([int(call.split("-")[0]) for call in part["calls"]], f"batch {batch.id} {batch.status}")
            if out:
                time.sleep(self.poll_seconds)
        return gained

    def _shrink_or_stop(self, part, batch):
        """A batch that was refused as a whole: smaller ones, one by one, if it was only too large at this time."""
        errors = (batch.errors.data if batch.errors else None) or []
        message = "; ".join(f"{error.code}: {error.message}" for error in errors[:3]) or "no reason given"
        if len(part["calls"]) > 1 and any(error.code == TOO_MUCH_ENQUEUED for error in errors):
            self.most_requests, self.one_at_a_time = len(part["calls"]) // 2, True
            return
        part["status"] = batch.status
        self._save()
        raise ServiceError(f"the service refused batch {batch.id}: {message}")

    def _collect(self, part, batch):
        """Journal a batch's answers and failures; returns the number of answers."""
        answers, failures, fatal = [], {}, None
        for entry in self._entries(batch.output_file_id) + self._entries(batch.error_file_id):
            pid, stage = map(int, entry["custom_id"].split("-"))
            response = entry.get("response") or {}
            body = response.get("body") or {}
            try:
                if response.get("status_code") != 200:
                    error = entry.get("error") or body.get("error") or {}
                    kind = error.get("code") or f"status {response.get('status_code')}"
                    failures[pid] = (pid, stage, kind, error.get("message") or "")
                    fatal = fatal or (error.get("message") if error.get("code") in FATAL_CODES else None)
                else:
                    answers.append(read_completion(pid, stage, body, response.get("request_id"), batch=True))
            except ValueError as error:
                failures[pid] = (pid, stage, "malformed response", str(error))
        told = {answer.pid for answer in answers} | set(failures)
        for call in part["calls"]:
            pid, stage = map(int, call.split("-"))
            if pid not in told:
                failures[pid] = (pid, stage, f"batch {batch.status}", "the batch holds no answer")
        self.journal.add(answers)
        self.journal.add_failures(list(failures.values()))
        if fatal:
            part["status"] = batch.status
            self._save()
            raise ServiceError(fatal)
        return len(answers)

    def _entries(self, file_id):
        if not file_id:
            return []
        return [json.loads(line) for line in self.client.files.content(file_id).text.splitlines() if line]

    def _save(self):
        write_json(self.state_path, self.state)
