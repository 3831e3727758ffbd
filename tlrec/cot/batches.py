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
from typing import Annotated
from urllib.parse import quote

from pydantic import Field
from typing_extensions import TypedDict  # pydantic takes this one

from tlrec.cot.dialogues import IN_A_ROW, ServiceError, Stopped
from tlrec.cot.failures import Failure
from tlrec.cot.reply import Answer, read_completion
from tlrec.files import read_json, validate, write_json

ENDPOINT = "/v1/chat/completions"
MAX_REQUESTS, MAX_BYTES = 50_000, 200_000_000  # per batch, the service's limits
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
TOO_MUCH_ENQUEUED = "token_limit_exceeded"
MOST_PAGES = 1000  # of the service's list of batches


class Part(TypedDict):
    calls: list[Annotated[str, Field(pattern=r"^\d+-\d+$")]]
    batch: str | None
    status: str | None


class State(TypedDict):
    """The file beside the journal."""

    parts: list[Part]


def run_batches(work, state_path, poll_seconds):
    """Ask every missing question of a `Work`, batch by batch.

    state_path: the file described above. Raises Stopped; answers received until then are in the journal.
    """
    try:
        asyncio.run(_Batches(work, Path(state_path), poll_seconds).run())
    except Failure as failure:
        if failure.reach == "every call":
            raise ServiceError(failure.message) from None
        raise Stopped(f"{failure.kind}: {failure.message}") from None
    except KeyboardInterrupt:
        raise Stopped("interrupted; the service continues with its batches", interrupted=True) from None


class _Batches:
    def __init__(self, work, state_path, poll_seconds):
        self.work, self.service, self.state_path, self.poll_seconds = work, work.service, state_path, poll_seconds
        self.state = {"parts": []}
        if state_path.exists():
            self.state = validate(read_json(state_path), State, state_path)
        self.most_requests = MAX_REQUESTS
        self.one_at_a_time = False

    async def run(self):
        try:
            await self._find_lost()
            while True:
                out = [part for part in self.state["parts"] if not part["status"]]
                if out and not any([await self._settle(part) for part in out]):
                    raise Stopped("a round of batches brought no answer; start again to try once more")
                if end := self.work.hopeless(IN_A_ROW):
                    raise end
                parts = list(self._split(self._missing()))
                for part in parts[:1] if self.one_at_a_time else parts:
                    await self._submit(part)
                if not parts:
                    return
        finally:
            await self.service.close()

    def _missing(self):
        """The next (call id, request line) of every sample that the budget allows."""
        budget, calls, worst, too_much = self.work.budget, [], 0.0, False
        for pid in self.work.pids:
            if (prompt := self.work.prompt(pid)) is None:
                continue
            cost = budget.worst_case(prompt) / 2  # the price of batches
            if not budget.allows(worst + cost):
                too_much = True
                continue
            worst += cost
            call = f"{pid}-{len(self.work.journal.texts(pid)) + 1}"
            line = {"custom_id": call, "method": "POST", "url": ENDPOINT, "body": self.work.body(prompt)}
            calls.append((call, (json.dumps(line) + "\n").encode()))
        if too_much and not calls:
            raise budget.exceeded()
        return calls

    def _split(self, calls):
        """Cut calls into batches within the service's limits."""
        part, size = [], 0
        for call, line in calls:
            if part and (len(part) == self.most_requests or size + len(line) > MAX_BYTES):
                yield part
                part, size = [], 0
            part.append((call, line))
            size += len(line)
        if part:
            yield part

    async def _submit(self, calls):
        part = {"calls": [call for call, _ in calls], "batch": None, "status": None}
        self.state["parts"].append(part)
        self._save()
        file = await self.service.upload(b"".join(line for _, line in calls))
        body = {"input_file_id": _field(file, "id"), "endpoint": ENDPOINT, "completion_window": "24h"}
        batch, _ = await self.service.post("/batches", {**body, "metadata": self._label(part)})
        part["batch"] = _field(batch, "id")
        self._save()

    def _label(self, part):
        return {"tlrec_journal": self.work.journal.id, "part": str(self.state["parts"].index(part))}

    async def _find_lost(self):
        """Find batches that were made just before a run was killed; forget those that were not made."""
        lost = [part for part in self.state["parts"] if not part["batch"] and not part["status"]]
        if not lost:
            return
        after = {}
        for _ in range(MOST_PAGES):  # newest first
            page = await self.service.get("/batches", limit=100, **after)
            found = _field(page, "data", list)
            for batch in found:
                for part in lost:
                    if _field(batch, "metadata", dict, {}) == self._label(part):
                        part["batch"] = _field(batch, "id")
            if not found or not page.get("has_more"):
                break
            after = {"after": _field(found[-1], "id")}
        for part in lost:
            part["status"] = None if part["batch"] else "never made"
        self._save()

    async def _settle(self, part):
        """Wait for a batch and journal its answers; False if it was of no use."""
        while True:
            batch = await self.service.get(f"/batches/{quote(part['batch'], safe='')}")
            status = self.service.hide(_field(batch, "status"))
            counts = _field(batch, "request_counts", dict, {})
            done = f", {counts.get('completed')} of {counts.get('total')} calls" if counts else ""
            self.work.report([], self.service.hide(f"batch {part['batch']} {status}{done}"))
            if status not in RUNNING:
                break
            await asyncio.sleep(self.poll_seconds)
        outcomes = {} if status == "failed" else await self._collect(part, batch)
        part["status"] = status
        self._save()
        if status == "failed":
            return self._send_smaller(part, batch)
        nothing = Failure(f"batch {status}", "the batch holds no answer")
        failures = [(*_pid_and_stage(call), outcomes.get(call, nothing)) for call in part["calls"]]
        failures = [each for each in failures if isinstance(each[2], Failure)]
        self.work.failed(failures)
        useful = len(part["calls"]) - len(failures)
        if useful or (len(part["calls"]) < IN_A_ROW and self.work.journal.n_answers):
            useful += len(self.work.refused)
            self.work.settle(self.work.refused)
        self.work.refused.clear()
        self.work.report([_pid_and_stage(call)[0] for call in part["calls"]])
        return useful > 0

    def _send_smaller(self, part, batch):
        """After a batch was refused as a whole: send smaller ones, one at a time, if it was only too large for now."""
        errors = _field(_field(batch, "errors", dict, {}), "data", list, [])
        errors = [error for error in errors if isinstance(error, dict)]
        if len(part["calls"]) > 1 and any(error.get("code") == TOO_MUCH_ENQUEUED for error in errors):
            self.most_requests, self.one_at_a_time = len(part["calls"]) // 2, True
            return True
        told = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors[:3]) or "no reason given"
        raise ServiceError(self.service.hide(f"the service refused batch {part['batch']}: {told}"))

    async def _collect(self, part, batch):
        """{call: its Answer or Failure} from a batch's files; the answers are in the journal."""
        outcomes, n_lines, calls = {}, 0, set(part["calls"])
        try:
            for file_id in filter(None, [batch.get("output_file_id"), batch.get("error_file_id")]):
                async for line in self.service.lines(file_id):
                    n_lines += 1
                    if n_lines > 2 * len(calls):
                        raise Failure("malformed response", "the files of a batch hold more lines than it has calls")
                    call, outcome = self._read_entry(line, calls)
                    if call and not isinstance(outcomes.get(call), Answer):
                        outcomes[call] = outcome
        finally:  # they are paid for, even if the rest cannot be read
            self.work.answered([outcome for outcome in outcomes.values() if isinstance(outcome, Answer)])
        return outcomes

    def _read_entry(self, line, calls):
        """(call id, its Answer or Failure) of a line; (None, None) if it belongs to no call."""
        try:
            entry = self.service.read_json(line)
            if (call := entry["custom_id"]) not in calls:
                raise ValueError
        except (ValueError, TypeError, LookupError):
            return None, None
        response = _field(entry, "response", dict, {})
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return call, read_completion(*_pid_and_stage(call), body, response.get("request_id"), batch=True)
        if status is not None:
            return call, self.service.refusal(status, body)
        error = _field(entry, "error", dict, {})
        kind = self.service.hide(error.get("code") or "no answer")
        return call, Failure(kind, self.service.hide(error.get("message") or kind))

    def _save(self):
        write_json(self.state_path, self.state)


def _pid_and_stage(call):
    pid, stage = call.split("-")
    return int(pid), int(stage)


def _field(value, key, kind=str, default=None):
    """What an object of the service's answer holds under a key, of the kind it has to be; else the default, or Failure."""
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, kind) and (found or kind is not str):
        return found
    if default is None or not isinstance(value, dict):
        raise Failure("malformed response", f"the answer on a batch or file has no {key!r}")
    return default
