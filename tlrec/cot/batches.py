"""The same dialogues through OpenAI's Batches interface: half the price, answers within a day.

Each round asks the next question of every sample in one batch (or several, if the service's limits require it), waits,
and writes the answers to the journal. Calls that expired or failed go into the next round, so a run without failures is
one batch per stage. A run may be stopped at any moment and started again: a file beside the journal, written before and
after each batch is made, lists the batches:

    {"parts": [{"calls": ["pid-stage", ...], "batch": id or null, "status": what it ended with or null}, ...]}
"""

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

from tlrec.cot.client import FATAL_CODES, ServiceError
from tlrec.cot.dialogues import Stopped
from tlrec.cot.journal import Answer, read_completion
from tlrec.files import read_json, write_json

ENDPOINT = "/v1/chat/completions"
MAX_REQUESTS, MAX_BYTES = 50_000, 200_000_000  # per batch, the service's limits
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
TOO_MUCH_ENQUEUED = "token_limit_exceeded"
MOST_PAGES = 1000  # of the service's list of batches


def run_batches(service, request, pids, next_prompt, journal, budget, state_path, poll_seconds, report):
    """Ask every missing question, batch by batch.

    service: a `Service`; it is closed at the end. state_path: the file described above. report: called with a list of
    pids and a text on the batch. The other arguments are those of `run_dialogues`.
    Raises ServiceError or Stopped; answers received until then are in the journal.
    """
    import openai

    batches = _Batches(service, request, pids, next_prompt, journal, budget, Path(state_path), poll_seconds, report)
    try:
        with service.errors():
            asyncio.run(batches.run())
    except (openai.OpenAIError, ValueError) as error:
        raise Stopped("{}: {}".format(*service.describe_failure(error))) from None
    except KeyboardInterrupt:
        raise Stopped("interrupted; the service continues with its batches", interrupted=True) from None


class _Batches:
    def __init__(self, service, request, pids, next_prompt, journal, budget, state_path, poll_seconds, report):
        self.service, self.request, self.pids, self.next_prompt = service, request, list(pids), next_prompt
        self.journal, self.budget, self.poll_seconds, self.report = journal, budget, poll_seconds, report
        self.state_path = state_path
        self.state = read_json(state_path, ["parts"]) if state_path.exists() else {"parts": []}
        self.most_requests = MAX_REQUESTS
        self.one_at_a_time = False

    async def run(self):
        try:
            await self._find_lost()
            await self._ask_all()
        finally:
            await self.service.close()

    async def _ask_all(self):
        while True:
            gained = await self._settle()
            if gained == 0:
                raise Stopped("a round of batches brought no answer; start again to try once more")
            calls, left_out = self._missing()
            if not calls:
                if left_out:
                    raise Stopped(f"--max_cost {self.budget.max_cost:g} would be exceeded by the next call")
                return
            parts = list(self._split(calls))
            for part in parts[:1] if self.one_at_a_time else parts:
                await self._submit(part)

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

    async def _submit(self, part):
        number = len(self.state["parts"])
        entry = {"calls": [call for call, _ in part], "batch": None, "status": None}
        self.state["parts"].append(entry)
        self._save()
        file = await self.service.upload("calls.jsonl", b"".join(line for _, line in part))
        body = {
            "input_file_id": _text(file, "id"),
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": self._label(number),
        }
        batch, _ = await self.service.post("/batches", body)
        entry["batch"] = _text(batch, "id")
        self._save()

    def _label(self, number):
        return {"tlrec_journal": self.journal.id, "part": str(number)}

    async def _find_lost(self):
        """Find batches that were made just before a run was killed; forget those that were not made."""
        lost = [number for number, part in enumerate(self.state["parts"]) if not part["batch"] and not part["status"]]
        if not lost:
            return
        labels = {tuple(sorted(self._label(number).items())): number for number in lost}
        async for batch in self._all_batches():
            label = batch.get("metadata")
            number = labels.get(tuple(sorted(label.items()))) if isinstance(label, dict) else None
            if number is not None:
                self.state["parts"][number]["batch"] = _text(batch, "id")
        for number in lost:
            if not self.state["parts"][number]["batch"]:
                self.state["parts"][number]["status"] = "never made"
        self._save()

    async def _all_batches(self):
        """The service's batches, newest first."""
        after = {}
        for _ in range(MOST_PAGES):
            page = await self.service.get("/batches", limit=100, **after)
            batches = page.get("data") if isinstance(page, dict) else None
            if not isinstance(batches, list) or not all(isinstance(batch, dict) for batch in batches):
                raise ValueError("not a list of batches")
            for batch in batches:
                yield batch
            if not batches or not page.get("has_more"):
                return
            after = {"after": _text(batches[-1], "id")}

    async def _settle(self):
        """Wait for the batches that are out and journal their answers.

        Returns the number of new answers, or None if none was due: nothing was out, or batches have to be smaller.
        """
        out = [part for part in self.state["parts"] if not part["status"]]
        gained = None
        while out:
            for part in list(out):
                batch = await self.service.get(f"/batches/{quote(part['batch'], safe='')}")
                status = _text(batch, "status")
                if status in RUNNING:
                    self.report([], self.service.hide(f"batch {part['batch']} {status}{_done(batch)}"))
                    continue
                if status == "failed":
                    self._shrink_or_stop(part, batch)
                else:
                    gained = (gained or 0) + await self._collect(part, batch)
                part["status"] = self.service.hide(status)
                self._save()
                out.remove(part)
                pids = [int(call.split("-")[0]) for call in part["calls"]]
                self.report(pids, self.service.hide(f"batch {part['batch']} {status}"))
            if out:
                await asyncio.sleep(self.poll_seconds)
        return gained

    def _shrink_or_stop(self, part, batch):
        """After a batch was refused as a whole: send smaller ones, one at a time, if it was only too large for now."""
        errors = batch.get("errors")
        errors = errors.get("data") if isinstance(errors, dict) else None
        errors = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        told = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors[:3]) or "no reason given"
        if len(part["calls"]) > 1 and any(error.get("code") == TOO_MUCH_ENQUEUED for error in errors):
            self.most_requests, self.one_at_a_time = len(part["calls"]) // 2, True
            return
        part["status"] = "failed"
        self._save()
        raise ServiceError(self.service.hide(f"the service refused batch {part['batch']}: {told}"))

    async def _collect(self, part, batch):
        """Journal a batch's answers and failures; returns the number of answers."""
        answers, failures, fatal, n_lines = {}, {}, None, 0
        try:
            for file_id in filter(None, (batch.get("output_file_id"), batch.get("error_file_id"))):
                async for line in self.service.lines(file_id):
                    n_lines += 1
                    if n_lines > 2 * len(part["calls"]):
                        raise ValueError("the files of a batch hold more lines than it has calls")
                    call, outcome = self._read_entry(line, part["calls"])
                    if isinstance(outcome, Answer):
                        answers.setdefault(call, outcome)
                    elif call:
                        kind, message, code = outcome
                        failures[call] = (*_pid_and_stage(call), kind, message)
                        fatal = fatal or (message if code in FATAL_CODES else None)
        finally:
            self.journal.add(list(answers.values()))  # they are paid for, even if the rest cannot be read
        for call in part["calls"]:
            if call not in answers and call not in failures:
                status = self.service.hide(f"batch {batch['status']}")
                failures[call] = (*_pid_and_stage(call), status, "the batch holds no answer")
        self.journal.add_failures([failure for call, failure in failures.items() if call not in answers])
        if fatal:
            part["status"] = self.service.hide(batch["status"])
            self._save()
            raise ServiceError(fatal)
        return len(answers)

    def _read_entry(self, line, calls):
        """(call id, its Answer, or (kind, message, code) of its failure); None as id if the line belongs to no call."""
        try:
            entry = self.service.read_json(line)
        except ValueError:
            return None, None
        call = entry.get("custom_id") if isinstance(entry, dict) else None
        if call not in calls:
            return None, None
        response = _object(entry, "response")
        if response.get("status_code") == 200:
            try:
                request_id = response.get("request_id")
                return call, read_completion(*_pid_and_stage(call), response.get("body"), request_id, batch=True)
            except ValueError as error:
                return call, ("malformed response", self.service.hide(error), None)
        error = _object(entry, "error") or _object(_object(response, "body"), "error")
        code = error.get("code")
        kind = self.service.hide(code or f"status {response.get('status_code')}")
        return call, (kind, self.service.hide(error.get("message") or ""), code)

    def _save(self):
        write_json(self.state_path, self.state)


def _pid_and_stage(call):
    pid, stage = call.split("-")
    return int(pid), int(stage)


def _object(value, key):
    """The JSON object under a key, or an empty one."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _text(value, key):
    """The text under a key of the service's answer."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str) or not found:
        raise ValueError(f"the answer on a batch or file has no {key!r}")
    return found


def _done(batch):
    """ ", 3 of 20 calls" of a running batch, if the service gives the numbers."""
    counts = batch.get("request_counts")
    try:
        return f", {counts['completed'] + counts['failed']} of {counts['total']} calls"
    except (TypeError, KeyError):
        return ""
