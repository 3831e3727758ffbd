"""The journal of chat answers, cut at any byte and with any damage.

1. Cut anywhere: the answers whose lines are whole are there, nothing is reported but the torn line, and what is added
   then is there the next time. A journal cut in its head starts anew.
2. Damaged anywhere: it is read, or refused by an InputError of one line and left as it was. The lines that are whole stay
   in the file, and every answer that is read is one that was written, or one that the damage has written.
3. Any JSON on its lines, any completion of a service: an answer, or none; what is journaled is read back.
"""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import as_json, damaged, said, texts, values
from tlrec.cot.failures import Failure
from tlrec.cot.journal import Journal
from tlrec.cot.reply import Answer, read_completion

pytestmark = pytest.mark.slow

PARAMETERS = {"model": "m", "temperature": 0.2, "data": "0f" * 32}
FIELDS = [field.name for field in fields(Answer)]
counts = st.integers(0, 10**6)
answers = st.builds(
    Answer,
    pid=st.integers(1, 5),
    stage=st.integers(1, 3),
    text=st.one_of(st.text(), st.sampled_from(["1. A - B\r\n2. C\u2028D\x85E", '{"pid": 1}\n', "\x00"])),
    finish_reason=st.sampled_from(["stop", "length", ""]),
    refusal=st.one_of(st.none(), st.text()),
    model=st.text(),
    prompt_tokens=counts,
    completion_tokens=counts,
    request_id=st.one_of(st.none(), st.text()),
    batch=st.booleans(),
)
failures = st.tuples(st.integers(1, 5), st.integers(1, 3), st.builds(Failure, st.text(), st.text()))
ORDER = [(pid, stage) for stage in (1, 2, 3) for pid in range(1, 6)]


@st.composite
def histories(draw):
    """Answers in an order in which a run can get them: every stage of a sample after the one before."""
    found = draw(st.lists(answers, max_size=15))
    return [replace(answer, pid=pid, stage=stage) for answer, (pid, stage) in zip(found, ORDER)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "three_stages.jsonl"


def write(path, history, failed=()):
    path.unlink(missing_ok=True)
    journal = Journal(path, PARAMETERS)
    journal.add(history)
    journal.add_failures(failed)
    journal.close()


def read(path):
    """(answers, repairs) of the journal at `path`."""
    journal = Journal(path, PARAMETERS)
    try:
        return {answer for pid in range(1, 6) for answer in journal.answers[pid]}, journal.repairs
    finally:
        journal.close()


@given(histories(), st.lists(failures, max_size=3), st.integers(0))
def test_cut_anywhere(path, history, failed, place):
    write(path, history, failed)
    assert read(path) == (set(history), [])
    content = path.read_bytes()
    place %= len(content) + 1
    path.write_bytes(content[:place])
    whole = content[:place].count(b"\n")
    found, repairs = read(path)
    assert found == set(history[: max(0, whole - 1)])
    assert len(repairs) == (content[:place][-1:] not in (b"\n", b""))
    kept = content[:place].rpartition(b"\n")
    assert path.read_bytes().startswith(kept[0] + kept[1])
    further = history[max(0, whole - 1) :]
    journal = Journal(path, PARAMETERS)
    journal.add(further)
    journal.close()
    assert read(path) == (set(history), [])


@given(histories(), st.lists(failures, max_size=3), damaged())
def test_damaged_anywhere(path, history, failed, damage):
    write(path, history, failed)
    before = path.read_bytes()
    path.write_bytes(content := damage(before))
    result, message = said(path, lambda: read(path))
    if message:
        assert path.read_bytes() == content
        return
    whole = content[: content.rfind(b"\n") + 1]
    assert path.read_bytes().startswith(whole)
    found, _ = result
    lines = set(content.split(b"\n"))
    for answer in found - set(history):
        assert any(json.dumps(answer.text).encode() in line for line in lines) or b"\\u" in content
    assert read(path)[0] == found  # once mended, it stays as it is


def test_a_torn_journal_that_is_refused_stays_torn(path):
    write(path, [Answer(1, 1, "usable", "stop", None, "m", 1, 1, None, False)])
    path.write_bytes(content := path.read_bytes() + b'{"pid": 1')
    _, message = said(path, lambda: Journal(path, PARAMETERS | {"model": "another"}))
    assert "other parameters" in message and path.read_bytes() == content


@given(st.lists(st.one_of(values, st.dictionaries(st.sampled_from(["verdict", *FIELDS]), values)), max_size=4))
def test_any_json_on_its_lines(path, entries):
    write(path, [])
    head = path.read_bytes()
    path.write_bytes(head + "".join(as_json(entry) + "\n" for entry in entries).encode())
    read(path)
    for first in ("", as_json({"journal": 1, "id": entries, "parameters": entries}) + "\n"):
        path.write_text(first + "".join(as_json(entry) + "\n" for entry in entries))
        said(path, lambda: read(path))


BODY = st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "model"])
bodies = st.recursive(
    st.one_of(st.none(), st.integers(), texts, st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(BODY, inner)),
    max_leaves=10,
)


@given(bodies)
def test_any_completion(path, completion):
    for body in (completion, {"choices": [{"message": {"content": completion}}], "usage": completion}):
        answer = read_completion(1, 1, body, "r")
        if isinstance(answer, Failure):
            assert len(answer.message.splitlines()) == 1
            continue
        path.unlink(missing_ok=True)
        journal = Journal(path, PARAMETERS)
        journal.add([answer])
        journal.close()
        assert read(path) == ({answer} if answer.stage == 1 else set(), [])
