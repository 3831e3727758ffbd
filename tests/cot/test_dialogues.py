"""Calls, journal, budget and batches, over the real client and the offline teacher.

Journal
1. Answers come back as they went in; a torn last line is cut off, a damaged one in the middle is reported and forgotten
   together with what followed it; an empty or torn head starts anew; another file is refused, and kept.
2. Other parameters are refused by name; what was unusable binds none, and is asked again under other ones.
3. A full disk is one line, and the journal stays whole.
Calls
4. Never more in flight than asked for; every stage's prompt holds the earlier answers, which are on the disk by then.
5. 429, 5xx, dropped connections and time-outs are tried again, with Retry-After; broken JSON fails one sample.
6. A server that is not there ends the run after a few samples.
7. Empty, cut-off and refused answers are kept as such, and end their sample.
8. The budget is never exceeded, and a larger one goes on.
Batches
9. One batch a stage at half price; expired and failed requests go into further batches.
10. A run that is killed between making a batch and noting it finds it again.
11. Too large for the service's queue: smaller ones, one by one. Exhausted quota: what was answered is kept.
12. Limits on requests and bytes split a batch.
"""

import errno
import hashlib
import json
import os
import time
from collections import Counter

import pytest

from tests.support.teaching import MODEL, teaching
from tlrec.cot import batches, dialogues
from tlrec.cot.client import Failure, Service, ServiceError
from tlrec.cot.dialogues import Budget, Stopped
from tlrec.cot.journal import Journal
from tlrec.cot.reply import Answer
from tlrec.errors import InputError

PARAMETERS = {"model": MODEL, "temperature": 0.2}
REQUEST = {"model": MODEL, "temperature": 0.2, "max_tokens": 512}


def answer(pid, stage, text="fine", **changes):
    facts = {"finish_reason": "stop", "refusal": None, "model": "m", "prompt_tokens": 7, "completion_tokens": 3}
    return Answer(pid=pid, stage=stage, text=text, **{**facts, "request_id": "r", "batch": False, **changes})


def question(pid, texts):
    """Three stages; the teacher answers anything, and every prompt is another one."""
    return f"sample {pid}, stage {len(texts) + 1}, so far {texts}" if len(texts) < 3 else None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "three_stages.jsonl"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """The client's own back-off, a hundred times as fast; the key and the address are this test's."""
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.08)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def ask(url, path, pids=range(1, 21), concurrency=8, max_cost=None, attempts=8, timeout=30.0, prompt=question):
    """Run the dialogues; the journal, closed."""
    journal = Journal(path, PARAMETERS)
    budget = Budget(journal, 10.0, 30.0, max_cost, 512)
    service = Service(url, timeout, attempts)
    work = dialogues.Work(service, REQUEST, pids, prompt, journal, budget, lambda pids, batch=None: None)
    try:
        dialogues.run_dialogues(work, concurrency)
    finally:
        journal.close()
    return journal


def ask_batches(url, path, pids=range(1, 21), max_cost=None):
    journal = Journal(path, PARAMETERS)
    budget = Budget(journal, 10.0, 30.0, max_cost, 512)
    service = Service(url, 5.0, 4)
    state = path.with_name("batches.json")
    work = dialogues.Work(service, REQUEST, pids, question, journal, budget, lambda pids, batch=None: None)
    try:
        batches.run_batches(work, state, 0.02)
    finally:
        journal.close()
    return journal, json.loads(state.read_text())["parts"]


def texts_by_pid(journal, pids=range(1, 21)):
    return {pid: journal.texts(pid) for pid in pids}


# ------------------------------------------------------------------------------------------------------------ journal


def test_journal_keeps_answers_in_order_of_stages(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "a"), answer(2, 1, "b \u2028 {x}\n")])
    journal.add([answer(1, 2, "c")])
    journal.add([answer(1, 2, "again")])
    journal.add_failures([(2, 2, Failure("time-out", "no answer"))])
    assert journal.failure(2) == "time-out" and journal.failures == {"time-out": 1}
    journal.close()
    again = Journal(path, PARAMETERS)
    assert again.texts(1) == ["a", "c"] and again.texts(2) == ["b \u2028 {x}\n"] and again.texts(3) == []
    assert again.failure(2) is None and again.repairs == [] and again.id == journal.id
    assert again.n_answers == 3
    assert {kind: count for kind, count in again.tokens.items() if count} == {"prompt": 21, "completion": 9}
    assert len(path.read_text().splitlines()) == 5


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_torn_last_line_is_taken_away(path, cut):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "a"), answer(1, 2, "b" * 200)])
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])
    repaired = Journal(path, PARAMETERS)
    assert repaired.texts(1) == ["a"] and "incomplete" in repaired.repairs[0]
    repaired.add([answer(1, 2, "c")])
    repaired.close()
    assert Journal(path, PARAMETERS).texts(1) == ["a", "c"]


def test_damaged_middle_line_is_reported_and_what_followed_it_is_asked_again(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "a"), answer(2, 1, "x"), answer(1, 2, "b"), answer(1, 3, "c")])
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:30] + b"\n"
    path.write_bytes(b"".join(lines))
    repaired = Journal(path, PARAMETERS)
    assert repaired.repairs == [f"{path}: row 2 is damaged; an answer in it is asked for again"]
    assert repaired.texts(1) == [] and repaired.texts(2) == ["x"]
    repaired.add([answer(1, 1, "new a")])
    repaired.close()
    assert Journal(path, PARAMETERS).texts(1) == ["new a"]  # and not the old second answer behind it


@pytest.mark.parametrize("content", [b"", b'{"journal": 1, "id": "x"'])
def test_journal_without_a_whole_head_starts_anew(path, content):
    path.write_bytes(content)
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1)])
    journal.close()
    assert Journal(path, PARAMETERS).texts(1) == ["fine"]


def test_another_file_is_refused_and_kept(path):
    path.write_text('[{"PID": 1}]\n')
    with pytest.raises(InputError, match="row 1: not a journal"):
        Journal(path, PARAMETERS)
    assert path.read_text() == '[{"PID": 1}]\n'


def test_other_parameters_are_refused_by_name(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1), answer(2, 1, "", prompt_tokens=70)])
    journal.close()
    with pytest.raises(InputError, match=rf"\(model {MODEL}, not gpt-4; seed None, not 3\)"):
        Journal(path, {**PARAMETERS, "model": "gpt-4", "seed": 3})


def test_unusable_answers_bind_no_parameters_and_count_as_paid(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, "", prompt_tokens=70), answer(2, 1, "<think>a")])
    journal.add_verdicts([(3, 1, "refused")])
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


def test_a_larger_limit_keeps_the_answers_that_ended_by_themselves(path):
    journal = Journal(path, {**PARAMETERS, "--max_tokens": 512})
    journal.add([answer(1, 1, "a"), answer(1, 2, "b", finish_reason="length")])
    journal.close()
    journal = Journal(path, {**PARAMETERS, "--max_tokens": 4096})
    assert journal.texts(1) == ["a"] and journal.flaw(1) is None


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


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        ({}, None),
        ({"text": " \n"}, "empty"),
        ({"finish_reason": "length"}, "cut off"),
        ({"refusal": "no", "text": ""}, "refused"),
        ({"finish_reason": "content_filter", "text": ""}, "refused"),
    ],
)
def test_flaws(changes, flaw):
    assert answer(1, 1, **changes).flaw == flaw


# -------------------------------------------------------------------------------------------------------------- calls


def test_stages_in_order_with_at_most_so_many_in_flight(path):
    on_disk = []

    def prompt(pid, texts):
        if texts:
            whole = path.read_bytes().rpartition(b"\n")[0].split(b"\n")  # another answer may be half written behind
            on_disk.append([entry["text"] for entry in map(json.loads, whole) if entry.get("pid") == pid] == texts)
        return question(pid, texts)

    with teaching("--delay", 0.02, together=5) as teacher:  # long enough for a sixth to be seen
        journal = ask(teacher.url, path, concurrency=5, prompt=prompt)
        assert teacher.most_in_flight == 5
        assert len(teacher.answered_prompts()) == 60
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())
    assert len(on_disk) == 60 and all(on_disk)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert set(entries[0]) == {"journal", "id", "parameters"} and entries[0]["parameters"] == PARAMETERS
    fields = "pid stage text finish_reason refusal model prompt_tokens completion_tokens request_id batch"
    assert list(entries[1]) == fields.split()
    assert {entry["model"] for entry in entries[1:]} == {MODEL}
    assert all(entry["request_id"].startswith("req_") for entry in entries[1:])


def test_retry_after_is_kept_and_attempts_are_bounded(path):
    with teaching("--rate_limited", 1, "--retry_after", 0.3) as teacher:
        start = time.perf_counter()
        journal = ask(teacher.url, path, [1], attempts=3)
        assert 0.6 <= time.perf_counter() - start
        assert len(teacher.fates) == 3
    assert journal.failures == {"rate limit": 1} and journal.failure(1) == "rate limit"
    failure = json.loads(path.read_text().splitlines()[-1])
    assert failure == {"pid": 1, "stage": 1, "failure": "rate limit", "message": "429: Rate limit reached."}


@pytest.mark.parametrize("kind", ["server_error", "dropped", "timed_out"])
def test_kinds_of_failure(path, kind):
    with teaching(f"--{kind}", 1) as teacher:
        journal = ask(teacher.url, path, [1, 2], attempts=2, timeout=0.3 if kind == "timed_out" else 30.0)
        assert len(teacher.fates) == 4
    told = {"server_error": "server error", "dropped": "connection", "timed_out": "time-out"}[kind]
    assert journal.failures == {told: 2}


def test_a_server_that_is_not_there_ends_the_run(path):
    with pytest.raises(Stopped, match="20 samples in a row without a usable answer, the last one for: connection"):
        ask("http://127.0.0.1:9/v1", path, range(1, 1000), attempts=2)
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize(("fault", "flaw"), [("empty", "empty"), ("cut_off", "cut off"), ("refused", "refused")])
def test_flawed_answers_are_kept_and_end_their_sample(path, fault, flaw):
    pids = range(1, 16)
    with teaching(f"--{fault}", 1) as teacher:
        journal = ask(teacher.url, path, pids)
        assert len(teacher.answered_prompts()) == 15
        assert {journal.flaw(pid) for pid in pids} == {flaw} and not journal.failures
        ask(teacher.url, path, pids)
        assert len(teacher.answered_prompts()) == 15  # paid for once


def test_budget_is_never_exceeded_and_a_larger_one_goes_on(path):
    with teaching() as teacher:
        with pytest.raises(Stopped, match="--max_cost 0.03 would be exceeded"):
            ask(teacher.url, path, max_cost=0.03)
        journal = Journal(path, PARAMETERS)
        spent = Budget(journal, 10.0, 30.0, None, 512).spent()
        assert 0.01 < spent <= 0.03
        assert 0 < journal.n_answers < 60
        journal.close()
        journal = ask(teacher.url, path, max_cost=5.0)
        assert len(teacher.answered_prompts()) == 60 and max(Counter(teacher.answered_prompts()).values()) == 1
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())


def test_costs(path):
    journal = Journal(path, PARAMETERS)
    journal.add([answer(1, 1, prompt_tokens=1000, completion_tokens=100)])
    journal.add([answer(1, 2, prompt_tokens=4000, completion_tokens=200, batch=True)])
    budget = Budget(journal, 30.0, 60.0, 1.0, 512)
    assert budget.spent() == pytest.approx((1000 * 30 + 100 * 60) / 1e6 + (4000 * 30 + 200 * 60) / 1e6 / 2)
    assert budget.worst_case("ä" * 10) == pytest.approx((36 * 30 + 512 * 60) / 1e6)
    assert budget.worst_case("ä" * 10, batch=True) == pytest.approx((36 * 30 + 512 * 60) / 2e6)


# ------------------------------------------------------------------------------------------------------------ batches


def test_one_batch_a_stage_at_half_price(path):
    with teaching() as teacher:
        journal, parts = ask_batches(teacher.url, path)
        assert [len(batch["lines"]) for batch in teacher.batches.values()] == [20, 20, 20]
        live = ask(teacher.url, path.with_name("live.jsonl"))
    assert texts_by_pid(journal) == texts_by_pid(live)
    assert [part["status"] for part in parts] == ["completed"] * 3
    half = Budget(journal, 10.0, 30.0, None, 512).spent()
    assert half == pytest.approx(Budget(live, 10.0, 30.0, None, 512).spent() / 2)


def test_expired_and_failed_requests_go_into_further_batches(path):
    with teaching("--batch_expired", 0.3, "--server_error", 0.15, "--garbled", 0.05) as teacher:
        journal, parts = ask_batches(teacher.url, path)
        assert max(Counter(teacher.answered_prompts()).values()) == 1
        sizes = [len(batch["lines"]) for batch in teacher.batches.values()]
        assert sizes[0] == 20 and len(sizes) > 3 and {part["status"] for part in parts} == {"expired", "completed"}
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())
    assert journal.failures["batch_expired"] > 0 and journal.failures["server error"] > 0
    assert all(journal.failure(pid) is None for pid in range(1, 21))


def test_nothing_comes_back(path):
    with teaching("--batch_expired", 1) as teacher, pytest.raises(Stopped, match="brought no answer"):
        ask_batches(teacher.url, path)


def test_a_batch_that_was_made_but_not_noted_is_found_again(path, monkeypatch):
    class Killed(BaseException):
        pass

    with teaching() as teacher:
        save, saved = batches._Batches._save, []

        def die_on_second_save(batches):
            saved.append(None)
            if len(saved) == 2:
                raise Killed
            save(batches)

        with monkeypatch.context() as patch:
            patch.setattr(batches._Batches, "_save", die_on_second_save)
            with pytest.raises(Killed):
                ask_batches(teacher.url, path)
        assert json.loads(path.with_name("batches.json").read_text())["parts"][0]["batch"] is None
        journal, parts = ask_batches(teacher.url, path)
        assert len(teacher.batches) == 3 and parts[0]["batch"] == "batch_1"
        assert max(Counter(teacher.answered_prompts()).values()) == 1
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())


def test_a_batch_that_was_not_made_is_forgotten(path, monkeypatch):
    async def fail(*arguments, **options):
        raise KeyboardInterrupt

    with teaching() as teacher:
        with monkeypatch.context() as patch:
            patch.setattr(Service, "post", fail)
            with pytest.raises(Stopped, match="interrupted") as stopped:
                ask_batches(teacher.url, path)
            assert stopped.value.interrupted
        journal, parts = ask_batches(teacher.url, path)
        assert [part["status"] for part in parts] == ["never made", "completed", "completed", "completed"]
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())


def test_too_large_for_the_queue_goes_in_smaller_batches(path):
    with teaching("--enqueued_requests", 6) as teacher:
        journal, parts = ask_batches(teacher.url, path)
        assert [len(batch["lines"]) for batch in teacher.batches.values()][:3] == [20, 10, 5]
        assert max(Counter(teacher.answered_prompts()).values()) == 1
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())
    assert [part["status"] for part in parts][:3] == ["failed", "failed", "completed"]


def test_exhausted_quota_in_a_batch_keeps_its_answers(path):
    with teaching("--quota", 12) as teacher, pytest.raises(ServiceError, match="exceeded your current quota"):
        ask_batches(teacher.url, path)
    with teaching() as teacher:
        journal, _ = ask_batches(teacher.url, path)
        assert len(teacher.answered_prompts()) == 60 - 12


def test_batches_keep_the_budget(path):
    with teaching() as teacher:
        with pytest.raises(Stopped, match="--max_cost 0.012 would be exceeded"):
            ask_batches(teacher.url, path, max_cost=0.012)
        journal = Journal(path, PARAMETERS)
        assert 0.003 < Budget(journal, 10.0, 30.0, None, 512).spent() <= 0.012
        journal.close()
        journal, _ = ask_batches(teacher.url, path, max_cost=5.0)
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())


@pytest.mark.parametrize(("limit", "value"), [("MAX_REQUESTS", 7), ("MAX_BYTES", 1500)])
def test_service_limits_split_a_batch(path, monkeypatch, limit, value):
    monkeypatch.setattr(batches, limit, value)
    with teaching() as teacher:
        journal, _ = ask_batches(teacher.url, path)
        for batch in teacher.batches.values():
            assert len(batch["lines"]) <= (7 if limit == "MAX_REQUESTS" else 20)
            assert len(teacher.files[batch["input_file_id"]]) <= (value if limit == "MAX_BYTES" else 10**6)
        assert len(teacher.batches) >= 9
    assert all(len(texts) == 3 for texts in texts_by_pid(journal).values())


def test_prompts_reach_the_teacher_unchanged(path):
    awkward = 'Title "It" {braces} {answer_1} % $HOME \\n 卧虎藏龙 LÃ©on \u2028 end'
    with teaching() as teacher:
        ask(teacher.url, path, [1], prompt=lambda pid, texts: None if texts else awkward)
        assert teacher.answered_prompts() == [hashlib.sha256(awkward.encode()).hexdigest()]
