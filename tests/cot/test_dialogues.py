"""Calls, journal, budget and batches, over the real client and the offline teacher.

Journal (tests/fuzz/test_fuzz_journal.py cuts and damages it anywhere)
1. Answers come back as they went in; a damaged line in the middle is reported and forgotten together with what followed
   it.
2. What was unusable binds no parameters and is asked again under other ones, but counts as paid.
3. A full disk is one line, and the journal stays whole.
Calls
4. Never more in flight than asked for; every stage's prompt holds the earlier answers, which are on the disk by then.
5. 429 (with its Retry-After), 5xx, dropped connections and time-outs are tried so often, and told by kind.
6. The budget is never exceeded, and a larger one goes on.
Batches
7. Expired requests go into further batches; if nothing comes back, the run ends.
8. A run that is killed between making a batch and noting it finds it again, on whatever page of the list.
9. Too large for the service's queue: smaller ones, one by one.
10. Limits on requests and bytes split a batch.
"""

import errno
import hashlib
import json
import os
import re
import time
from collections import Counter

import pytest

from tests.support.hostile import serving
from tests.support.teaching import teaching
from tlrec.cot import batches, dialogues
from tlrec.cot.client import Service
from tlrec.cot.dialogues import Budget, ServiceError, Stopped
from tlrec.cot.failures import Failure
from tlrec.cot.journal import Journal
from tlrec.cot.reply import Answer
from tlrec.demo.teacher import MODEL
from tlrec.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_retries")

PARAMETERS = {"model": MODEL, "temperature": 0.2}
REQUEST = {"model": MODEL, "temperature": 0.2, "max_tokens": 512}
PIDS = range(1, 21)


def answer(pid, stage, text="fine", **changes):
    facts = {"finish_reason": "stop", "refusal": None, "model": "m", "prompt_tokens": 7, "completion_tokens": 3}
    return Answer(pid=pid, stage=stage, text=text, **{**facts, "request_id": "r", "batch": False, **changes})


def question(pid, texts):
    """Three stages; the teacher answers anything, and every prompt is another one."""
    awkward = 'Title "It" {braces} {answer_1} % $HOME \\n 卧虎藏龙 LÃ©on \u2028 end'
    return f"sample {pid}, stage {len(texts) + 1}, so far {texts}, {awkward}" if len(texts) < 3 else None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "three_stages.jsonl"


def ask(url, path, pids=PIDS, concurrency=8, max_cost=None, attempts=8, timeout=30.0, prompt=question, batch=False):
    """Run the dialogues, one call after the other or in batches; the journal, closed."""
    journal = Journal(path, PARAMETERS)
    budget = Budget(journal, 10.0, 30.0, max_cost, 512)
    service = Service(url, timeout, attempts)
    work = dialogues.Work(service, REQUEST, pids, prompt, journal, budget, lambda pids, batch=None: None)
    try:
        if batch:
            batches.run_batches(work, path.with_name("batches.json"), 0.02)
        else:
            dialogues.run_dialogues(work, concurrency)
    finally:
        journal.close()
    return journal


def ask_batches(url, path, max_cost=None):
    """(journal, the parts of batches.json)"""
    journal = ask(url, path, attempts=4, max_cost=max_cost, batch=True)
    return journal, json.loads(path.with_name("batches.json").read_text())["parts"]


def assert_complete(journal):
    assert all(len(journal.texts(pid)) == 3 for pid in PIDS)


# ------------------------------------------------------------------------------------------------------------ journal


def test_journal_keeps_answers_and_what_they_cost(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "a", prompt_tokens=1000), answer(2, 1, "b \u2028 {x}\n", batch=True)])
    journal.add([answer(1, 2, "c"), answer(1, 1, "again")])
    journal.add_failures([(2, 2, Failure("time-out", "no answer"))])
    assert journal.failed == {2: "time-out"}
    journal.close()
    again = Journal(path, PARAMETERS)
    assert again.texts(1) == ["a", "c"] and again.texts(2) == ["b \u2028 {x}\n"] and again.texts(3) == []
    assert again.failed == {} and again.repairs == [] and again.id == journal.id and again.n_answers == 3
    budget = Budget(again, 30.0, 60.0, 1.0, 512)
    assert budget.spent() == pytest.approx((1007 * 30 + 6 * 60) / 1e6 + (7 * 30 + 3 * 60) / 1e6 / 2)
    assert budget.worst_case("ä" * 10) == pytest.approx((36 * 30 + 512 * 60) / 1e6)


def test_damaged_middle_line_is_reported_and_what_followed_it_is_asked_again(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "a"), answer(2, 1, "x"), answer(1, 2, "b")])
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:30] + b"\n"
    path.write_bytes(b"".join(lines) + b'{"pid": "2", "stage": 1, "verdict": null}\n')
    repaired = Journal(path, PARAMETERS)
    damaged = [f"{path}: row {row} is damaged; an answer in it is asked for again" for row in (2, 5)]
    assert repaired.repairs == damaged and repaired.verdicts == {}
    assert repaired.texts(1) == [] and repaired.texts(2) == ["x"]
    repaired.add([answer(1, 1, "new a")])
    repaired.close()
    assert Journal(path, PARAMETERS).texts(1) == ["new a"]  # and not the old second answer behind it


def test_unusable_answers_bind_no_parameters_and_count_as_paid(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "", prompt_tokens=70), answer(2, 1, "<think>a")])
    journal.add_verdicts([(3, 1, Failure("refused", "no"))])
    journal.close()
    for _ in range(2):  # the second time it is read from the file
        other = Journal(path, {"model": "gpt-4"})
        assert [other.flaw(pid) for pid in (1, 2, 3)] == [None] * 3 and other.texts(1) == []
        assert other.tokens["prompt"] == 77 and other.id == journal.id
        other.close()
    other = Journal(path, {"model": "gpt-4"})
    other.add([answer(1, 1, "fine")])
    other.close()
    with pytest.raises(InputError, match="model gpt-4, not tlrec-offline-teacher"):
        Journal(path, PARAMETERS)


def test_full_disk_is_one_line_and_leaves_the_journal_whole(path, monkeypatch):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1)])
    before = path.read_bytes()

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        journal.add([answer(1, 2)])
    assert path.read_bytes() == before and journal.texts(1) == ["fine"]
    with teaching() as teacher, pytest.raises(InputError, match="No space left on device"):
        ask(teacher.url, path)
    assert path.read_bytes() == before


# -------------------------------------------------------------------------------------------------------------- calls


def test_stages_in_order_with_at_most_so_many_in_flight(path):
    on_disk, asked = [], set()

    def prompt(pid, texts):
        if texts:
            whole = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
            on_disk.append([entry["text"] for entry in map(json.loads, whole) if entry.get("pid") == pid] == texts)
        if text := question(pid, texts):
            asked.add(hashlib.sha256(text.encode()).hexdigest())
        return text

    with teaching(delay=0.02, together=5) as teacher:  # long enough for a sixth to be seen
        assert_complete(ask(teacher.url, path, concurrency=5, prompt=prompt))
        assert teacher.most_in_flight == 5
        assert len(teacher.answered) == 60 and set(teacher.answered) == asked
    assert len(on_disk) == 60 and all(on_disk)
    head, *entries = map(json.loads, path.read_text().splitlines())
    assert set(head) == {"journal", "id", "parameters"} and head["parameters"] == PARAMETERS
    fields = "pid stage text finish_reason refusal model prompt_tokens completion_tokens request_id batch"
    assert list(entries[0]) == fields.split()
    assert all(entry["model"] == MODEL and entry["request_id"].startswith("req_") for entry in entries)


FAULTS = {
    "rate limit": ("429: Slow down.", lambda handler: handler.reply({"error": "Slow down."}, 429, Retry_After=0.3)),
    "server error": ("502: bad gateway", lambda handler: handler.reply(b"bad gateway", 502)),
    "connection": ("http://127.0.0.1:", lambda handler: None),
    "time-out": ("no answer within 0.3 s", lambda handler: handler.server.ending.wait()),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_failures_are_tried_again_and_told_by_kind(path, kind):
    message, reply = FAULTS[kind]
    start = time.perf_counter()
    with serving(reply) as server:
        journal = ask(server.url, path, [1], attempts=3, timeout=0.3 if kind == "time-out" else 30.0)
        assert len(server.requests) == 3
    assert kind != "rate limit" or time.perf_counter() - start >= 0.6
    assert journal.failed == {1: kind}
    failure = json.loads(path.read_text().splitlines()[-1])
    assert failure == {"pid": 1, "stage": 1, "failure": kind, "message": failure["message"]}
    assert failure["message"].startswith(message)


@pytest.mark.parametrize(("batch", "least", "most"), [(False, 0.01, 0.04), (True, 0.003, 0.014)])
def test_budget_is_never_exceeded_and_a_larger_one_goes_on(path, batch, least, most):
    with teaching() as teacher:
        with pytest.raises(Stopped, match=f"--max_cost {most} would be exceeded"):
            ask(teacher.url, path, max_cost=most, batch=batch)
        journal = Journal(path, PARAMETERS)
        assert least < Budget(journal, 10.0, 30.0, None, 512).spent() <= most
        assert 0 < journal.n_answers < 60
        journal.close()
        assert_complete(ask(teacher.url, path, max_cost=5.0, batch=batch))
        assert len(teacher.answered) == len(set(teacher.answered)) == 60


# ------------------------------------------------------------------------------------------------------------ batches


def test_expired_requests_go_into_further_batches(path):
    with teaching(expired=0.1) as teacher:
        journal, parts = ask_batches(teacher.url, path)
        assert max(Counter(teacher.answered).values()) == 1
        assert len(teacher.batches) > 3 and {part["status"] for part in parts} == {"expired"}
    assert_complete(journal)
    assert not journal.failed and set(re.findall('"failure": "([^"]+)"', path.read_text())) == {"batch_expired"}
    path.unlink()
    with teaching(expired=1) as teacher, pytest.raises(Stopped, match="brought no answer"):
        ask_batches(teacher.url, path)


@pytest.mark.parametrize("made", [True, False])
def test_a_batch_that_was_not_noted_is_found_again_if_it_was_made(path, monkeypatch, made):
    post = Service.post

    async def killed(*arguments):
        if made:
            await post(*arguments)
        raise KeyboardInterrupt

    with teaching() as teacher:
        with monkeypatch.context() as patch, pytest.raises(Stopped, match="interrupted") as stopped:
            patch.setattr(Service, "post", killed)
            ask_batches(teacher.url, path)
        assert stopped.value.interrupted
        assert json.loads(path.with_name("batches.json").read_text())["parts"][0]["batch"] is None
        journal, parts = ask_batches(teacher.url, path)
        assert len(teacher.batches) == 3 and max(Counter(teacher.answered).values()) == 1
    assert_complete(journal)
    assert [part["status"] for part in parts] == ([] if made else ["never made"]) + ["completed"] * 3


def test_the_list_of_batches_has_pages(path):
    label = {"tlrec_journal": Journal(path, PARAMETERS).id, "part": "0"}
    path.with_name("batches.json").write_text('{"parts": [{"calls": ["1-1"], "batch": null, "status": null}]}')

    def reply(handler):
        if "after=b7" in handler.path:
            handler.reply({"data": [{"id": "b3", "metadata": label}], "has_more": False})
        elif handler.path.startswith("/v1/batches?"):
            handler.reply({"data": [{"id": "b9", "metadata": None}, {"id": "b7"}], "has_more": True})
        else:
            handler.reply({"id": "b3", "status": "failed"})

    with serving(reply) as server, pytest.raises(ServiceError, match="the service refused batch b3: no reason given"):
        ask_batches(server.url, path)


def test_too_large_for_the_queue_goes_in_smaller_batches(path):
    with teaching(enqueued=6) as teacher:
        journal, parts = ask_batches(teacher.url, path)
        assert [len(lines) for _, lines in teacher.batches.values()][:3] == [20, 10, 5]
        assert max(Counter(teacher.answered).values()) == 1
    assert_complete(journal)
    assert [part["status"] for part in parts][:3] == ["failed", "failed", "completed"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_REQUESTS", 7), ("MAX_BYTES", 2000)])
def test_service_limits_split_a_batch(path, monkeypatch, limit, value):
    monkeypatch.setattr(batches, limit, value)
    with teaching() as teacher:
        assert_complete(ask_batches(teacher.url, path)[0])
        for batch, lines in teacher.batches.values():
            assert len(lines) <= (7 if limit == "MAX_REQUESTS" else 20)
            assert len(teacher.files[batch["input_file_id"]]) <= (value if limit == "MAX_BYTES" else 10**6)
        assert len(teacher.batches) >= 9
