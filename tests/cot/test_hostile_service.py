"""cot_data/generate_data.py before servers that answer anything, for ever, or with the key.

Answers
1. Whatever is no chat completion fails that call, by kind, with and without --max_cost; nothing of it comes into the
   journal as an answer, and a good server goes on from there.
2. A batch's file: lines end at newlines only; odd lines fail their call; what was read is kept.
Time and memory
3. Bytes without end, drop by drop or in a flood, in the head or the body, of an answer, an error, a redirect or a file: an
   attempt ends with its time-out and at a few MiB, and a compressed bomb is not unpacked.
Keys
4. A key with control or other than ASCII characters is refused before the first call.
5. A key that is echoed, as it is or as a URL writes it, stands in no file and no output; nor do passwords of addresses.
"""

import base64
import gzip
import json
import subprocess
import sys
from functools import cache
from urllib.parse import quote

import pytest

from tests.conftest import REPOSITORY
from tests.support.hostile import chat, completion, serving
from tests.support.teaching import MODEL, make_source, teaching

pytestmark = pytest.mark.slow

KEY = 'sk-Proj/7"9\\x+&Zq_QR4=~wv83KmT'
PASSWORD = "Pa55/w0rd+17"


@pytest.fixture(autouse=True)
def key(quick_retries, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# ------------------------------------------------------------------------------------------------------------ answers

ODD = {
    "array": [],
    "null": None,
    "number": 5,
    "text": "fine",
    "HTML": b"<html>Welcome</html>",
    "nothing": b"",
    "not UTF-8": b'{"choices": "\xff"}',
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "long number": b'{"choices": ' + b"9" * 5_000 + b"}",
    "no choices": completion(choices=[]),
    "choices null": completion(choices=None),
    "choices object": completion(choices={"0": 1}),
    "choice null": completion(choices=[None]),
    "no message": completion(choices=[{"index": 0}]),
    "message text": completion(choices=[{"message": "fine"}]),
    "content parts": chat({"content": [{"type": "image", "text": "fine"}]}),
    "content object": chat({"content": {"text": "fine"}}),
    "content empty list": chat({"content": []}),
    "content number": chat({"content": 0}),
    "content false": chat({"content": False}),
    "lone surrogate": chat({"content": "fine \ud83d"}),
    "refusal object": chat({"refusal": {"text": "no"}}),
    "finish_reason list": chat(finish_reason=["stop"]),
    "model object": completion(model={"id": "m"}),
    "model surrogate": completion(model="\udc00"),
    "usage text": completion(usage={"prompt_tokens": "7", "completion_tokens": "3"}),
    "usage list": completion(usage=[1]),
    "usage a text": completion(usage="7"),
    "usage negative": completion(usage={"prompt_tokens": -7, "completion_tokens": 3}),
    "usage fraction": completion(usage={"prompt_tokens": 7.5, "completion_tokens": 3}),
    "usage true": completion(usage={"prompt_tokens": True, "completion_tokens": 3}),
    "usage infinite": completion(usage={"prompt_tokens": float("inf"), "completion_tokens": 3}),
    "usage huge": completion(usage={"prompt_tokens": 10**400, "completion_tokens": 3}),
}


def test_odd_answers_fail_their_call(generate, journal):
    """Every odd answer in turn, to the first stage of one sample each."""
    odd, flags = list(ODD.values()), ["--concurrency", 1, "--max_samples", 19]
    price = ["--price_in", 1, "--price_out", 1, "--max_cost", 50]
    with serving(lambda handler: handler.reply(odd[(len(handler.server.requests) - 1) % len(odd)])) as server:
        for more in ([], price):
            status, out, err = generate(server.url, *flags, *more)
            assert status == 1 and "19 missing (19 malformed response)" in out and "Traceback" not in err
        assert len(server.requests) == 38 > len(ODD)  # none is asked again
    assert len(journal()) == 38 and {line["failure"] for line in journal()} == {"malformed response"}
    messages = dict(zip(ODD, (line["message"] for line in journal())))
    assert messages["array"].startswith("not a chat completion: TypeError")
    for name in ("HTML", "deep", "lone surrogate", "not UTF-8"):
        assert messages[name].startswith("the answer is not JSON")
    assert "the content has parts that are no text" in messages["content parts"]
    assert messages["usage text"] == "not a chat completion: prompt_tokens: Input should be a valid integer"
    with teaching() as teacher:
        assert generate(teacher.url, *flags, *price)[0] == 0


def test_null_and_missing_fields_are_no_oddity(generate, journal):
    bodies = [
        completion(model=None, usage=None),
        {"choices": [{"message": {"content": "fine"}}]},
        chat(finish_reason=None),
    ]
    with serving(lambda handler: handler.reply(bodies[len(handler.server.requests) % 3])) as server:
        assert generate(server.url, "--max_samples", 2)[0] == 0
    assert [line["text"] != "" for line in journal()] == [True] * 6


def change_batches(teacher, change):
    """Let the lines of each batch's answers pass through `change`, a function of (batch, lines as bytes)."""
    finish = teacher.finish

    def changed(batch, lines):
        finish(batch, lines)
        name = batch["output_file_id"]
        teacher.files[name] = b"".join(line + b"\n" for line in change(batch, teacher.files[name].splitlines()))

    teacher.finish = changed


def test_raw_line_separators_in_a_batch(generate, journal):
    """A service may write U+2028, U+2029 and U+0085 as they are."""

    def raw(batch, lines):
        for line in map(json.loads, lines):
            line["response"]["body"]["choices"][0]["message"]["content"] += "\u2028a\u2029b\u0085c\x0bd\x1ce"
            yield json.dumps(line, ensure_ascii=False).encode()

    with teaching() as teacher:
        change_batches(teacher, raw)
        status, _, err = generate(teacher.url, "--batch", "--poll_seconds", 0.01, "--max_samples", 4)
        assert status == 0, err
        assert len(teacher.answered_prompts()) == 12
    assert all("\u2028a\u2029b\u0085c" in line["text"] for line in journal())


BATCH_LINES = {
    "no JSON": b"<html>",
    "array": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "not UTF-8": b'"\xff"',
    "foreign": b'{"custom_id": "9999-1", "response": {"status_code": 200, "body": {}}}',
    "id a number": b'{"custom_id": 7}',
    "response a text": b'{"custom_id": "%s", "response": "x", "error": "y"}',
    "body null": b'{"custom_id": "%s", "response": {"status_code": 200, "body": null}}',
    "code a list": b'{"custom_id": "%s", "error": {"code": ["x"], "message": {"a": 1}}}',
    "request id a list": b'{"custom_id": "%s", "response": {"status_code": 200, "request_id": [1], "body": %c}}',
}


def test_odd_lines_of_a_batch(generate):
    """All but one answer of the first batch are odd; the one is kept, and the next batch asks for the others again."""

    def odd(batch, lines):
        if batch["id"] != "batch_1":
            return lines
        body = json.dumps(completion()).encode()
        calls = [json.loads(line)["custom_id"].encode() for line in lines]
        oddities = [line.replace(b"%s", call).replace(b"%c", body) for line, call in zip(BATCH_LINES.values(), calls)]
        return [*oddities, *lines[len(oddities) :]]

    with teaching() as teacher:
        change_batches(teacher, odd)
        status, _, err = generate(teacher.url, "--batch", "--poll_seconds", 0.01, "--max_samples", len(BATCH_LINES) + 1)
        assert (status, err.count("Traceback")) == (0, 0), err
        assert [len(lines) for _, lines in teacher.batches.values()] == [12, 12, 12, 11]


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/batches/b1"])
@pytest.mark.parametrize("body", [[], None, "x", {}, {"id": 7, "status": 7}, b"<html>"])
def test_odd_answers_on_batches(generate, path, body):
    good = {"/v1/files": {"id": "f1"}, "/v1/batches": {"id": "b1", "status": "in_progress"}}
    with serving(lambda handler: handler.reply((good | {path: body})[handler.path])) as server:
        status, _, err = generate(server.url, "--batch")
    assert status == 1 and "stopped: malformed response: " in err and "Traceback" not in err


def test_odd_list_of_batches(generate, root):
    path = root / "cot_data/netflix/batches.json"
    path.parent.mkdir(parents=True)
    for page in ([], {"data": 5}, {"data": [5]}, {"data": [{}], "has_more": True}, b"<"):
        path.write_text(json.dumps({"parts": [{"calls": ["1-1"], "batch": None, "status": None}]}))
        with serving(lambda handler: handler.reply(page)) as server:
            status, _, err = generate(server.url, "--batch")
        assert status == 1 and "stopped: malformed response: " in err and "Traceback" not in err


# ---------------------------------------------------------------------------------------------------- time and memory


def flood(handler, head, block=b" " * 65536):
    handler.wfile.write(head)
    while not handler.server.ending.is_set():
        handler.wfile.write(block)


def drip(handler, head, drop):
    handler.wfile.write(head)
    while not handler.server.ending.wait(0.05):
        handler.wfile.write(drop)
        handler.wfile.flush()


@cache
def zeros():
    return gzip.compress(b" " * (400 << 20), 1)


def bomb(handler):
    handler.reply(zeros(), Content_Encoding="gzip")


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENDLESS = {
    "flood": (lambda handler: flood(handler, OK + b"\r\n{"), "malformed response"),
    "flood of a redirect": (
        lambda handler: flood(handler, b"HTTP/1.1 307 Elsewhere\r\nLocation: /v1/there\r\n\r\n"),
        "malformed response",
    ),
    "drops": (lambda handler: drip(handler, OK + b"\r\n{", b" "), "time-out"),
    "gzip": (bomb, "malformed response"),
}
MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run([sys.executable, *sys.argv[1:]], stdout=2).returncode
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


def measured(root, url, *flags):
    """(status, MiB at the peak, output) of the script as a process of its own, which has to end: a server that goes on
    for ever would hold it for ever, and how long a time-out of a second takes on a busy machine says nothing."""
    command = [sys.executable, "-c", MEASURED, REPOSITORY / "cot_data/generate_data.py", "--root_path", root]
    command += ["--base_url", url, "--model", MODEL, "--max_samples", 2, "--attempts", 2, "--timeout", 1, *flags]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    return *json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """MiB of a run with a good server."""
    root = tmp_path_factory.mktemp("ordinary")
    make_source(root)
    with pytest.MonkeyPatch.context() as patch, teaching() as teacher:
        patch.setenv("OPENAI_API_KEY", KEY)
        status, memory, out = measured(root, teacher.url)
    assert status == 0, out
    return memory


@pytest.mark.parametrize(("answer", "kind"), ENDLESS.values(), ids=ENDLESS)
def test_servers_without_end(root, ordinary, answer, kind):
    zeros()
    with serving(answer) as server:
        status, memory, out = measured(root, server.url)
    assert status == 1 and f"2 missing (2 {kind})" in out and "Traceback" not in out, out
    assert memory < ordinary + 60


@pytest.mark.parametrize("how", ["one line", "drops"])
def test_a_batch_file_without_end(root, ordinary, how):
    def answer(handler):
        if handler.path == "/v1/files":
            handler.reply({"id": "f1"})
        elif handler.path == "/v1/batches":
            handler.reply({"id": "b1", "status": "validating"})
        elif handler.path == "/v1/batches/b1":
            handler.reply({"id": "b1", "status": "completed", "output_file_id": "f1"})
        elif how == "drops":
            drip(handler, OK + b"\r\n", b"{}\n")
        else:
            flood(handler, OK + b"\r\n", b"x" * 65536)

    with serving(answer) as server:
        status, memory, out = measured(root, server.url, "--batch")
    assert status == 1 and "Traceback" not in out, out
    assert "stopped: malformed response: " in out or "stopped: time-out" in out or "stopped: connection" in out, out
    assert memory < ordinary + 60


# --------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("key", ["sk-se\ncret17", "sk-secret17\x7f", "sk-sécret17"])
def test_keys_that_cannot_be_sent(generate, root, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(lambda handler: handler.reply(completion())) as server:
        status, out, err = generate(server.url)
        assert server.requests == []
    assert status == 2 and out == "" and err.startswith("error: OPENAI_API_KEY holds ") and err.count("\n") == 1
    assert "cret17" not in err and not (root / "cot_data").exists()


def places(echo):
    """Answers with an echo wherever a server may put it, as (body, status, header fields)."""
    error = {"error": {"message": echo, "type": echo, "param": echo, "code": echo}}
    line = " ".join(echo.split())
    yield completion(echo, model=echo, id=echo), 200, {"x_request_id": line, "openai_model": line}
    yield from ((error, status, {}) for status in (400, 409, 422, 429, 500))
    yield {"error": echo}, 400, {}
    yield {"error": {"message": [echo, {echo: echo}]}}, 400, {}
    yield {"detail": {echo: echo}}, 422, {}
    yield echo.encode(), 502, {"Content_Type": "text/html"}
    yield completion(), 200, {}
    yield chat({"refusal": echo}, finish_reason=echo), 200, {}
    yield {echo: echo}, 200, {}
    yield chat({"content": [{"text": echo}]}), 200, {}
    yield completion(choices=[{echo: echo}]), 200, {}
    yield {}, 307, {"Location": f"http://127.0.0.1:9/{quote(line, safe='')}"}
    yield b"", 400, {"Content_Type": line, "X_Error": line}
    yield {}, 200, {"Content_Encoding": line}


def assert_nowhere(secret, root, *streams):
    left = [path for path in root.rglob("*") if "instruction_data" not in path.parts]
    contents = [path.read_bytes().decode() for path in left if path.is_file()]
    text = "\n".join([*contents, *(path.name for path in left), *streams]).lower()
    forms = (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))
    assert not [form for form in forms if form.lower() in text]


@pytest.mark.parametrize("secret", [KEY, PASSWORD], ids=["key", "password"])
@pytest.mark.parametrize("form", ["Bearer {}", "URL"])
def test_echoed_secrets_stand_nowhere(generate, root, secret, form):
    echo = quote(secret, safe="") if form == "URL" else form.format(secret)
    told = list(places(echo))

    def ask(answer, *flags):
        with serving(answer) as server:
            url = server.url.replace("//", f"//user:{quote(PASSWORD, safe='')}@")
            status, out, err = generate(url, *flags, "--attempts", 1, "--concurrency", 1)
            assert "Traceback" not in err
            assert_nowhere(secret, root, out, err)
            return status, len(server.requests)

    def answer(handler):
        body, status, fields = told[(len(handler.server.requests) - 1) % len(told)]
        handler.reply(body, status, **fields)

    status, n = ask(answer, "--max_samples", 30)
    assert status == 1 and n >= len(told)
    assert "***" in (root / "cot_data/netflix/three_stages.jsonl").read_text()
    error = {"error": {"message": echo, "type": echo, "param": echo, "code": echo}}
    quota = {"error": {"message": echo, "code": "insufficient_quota"}}
    for body, code in ((error, 401), (error, 403), (error, 404), (quota, 429)):
        assert ask(lambda handler: handler.reply(body, code), "--max_samples", 30) == (2, 1)


@pytest.mark.parametrize("status", ["completed", "failed", "echo"])
def test_echoed_keys_in_batches(generate, root, status):
    echo, calls = f"Bearer {KEY}", []
    entries = [
        {"custom_id": "%", "error": {"code": echo, "message": echo}},
        {"custom_id": "%", "response": {"status_code": echo, "request_id": echo, "body": {"error": echo}}},
        {"custom_id": "%", "response": {"status_code": 200, "request_id": echo, "body": completion(echo, model=echo)}},
        {"custom_id": "%", "response": {"status_code": 200, "request_id": "r", "body": echo}},
        {"custom_id": echo},
    ]

    def answer(handler):
        if handler.path == "/v1/files":
            lines = handler.body.split(b"\n")
            calls[:] = [json.loads(line)["custom_id"] for line in lines if line.startswith(b'{"custom')]
            handler.reply({"id": echo})
        elif handler.path == "/v1/batches":
            handler.reply({"id": "b1", "status": echo})
        elif "/content" in handler.path:
            text = "\n".join(json.dumps(entry).replace('"%"', f'"{call}"') for entry, call in zip(entries, calls))
            handler.reply(text.encode(), x_request_id=echo)
        else:
            errors = {"data": [{"code": echo, "message": echo}]}
            ended = echo if status == "echo" else status
            handler.reply({"id": echo, "status": ended, "output_file_id": "f1", "errors": errors})

    with serving(answer) as server:
        code, out, err = generate(server.url, "--batch", "--max_samples", 5, "--poll_seconds", 0.01)
    assert calls and code in (1, 2) and "Traceback" not in err
    assert_nowhere(KEY, root, out, err)


@pytest.mark.parametrize(
    "address", ["http://user:{}@127.0.0.1:9/v1", "http://{}@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key={}"]
)
def test_passwords_in_addresses_are_not_told(generate, root, address, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", address.format(quote(PASSWORD, safe="")))
    status, out, err = generate("", "--max_samples", 1)
    assert status == 1 and "127.0.0.1:9" in (root / "cot_data/netflix/three_stages.jsonl").read_text()
    assert_nowhere(PASSWORD, root, out, err)


@pytest.mark.parametrize("address", ["http://u:{}@127.0.0.1:x/v1", "u:{}@host/v1", "//u:{}@h", "ftp://u:{}@h/"])
def test_addresses_that_are_none(generate, root, address):
    status, out, err = generate(address.format("Pa55-w0rd+17"))
    assert status == 2 and err.startswith("error: --base_url, --served or OPENAI_BASE_URL is not an address")
    assert err.count("\n") == 1
    assert_nowhere("Pa55-w0rd+17", root, out, err)


def test_name_and_password_are_sent(generate):
    seen = []

    def answer(handler):
        seen.append(handler.headers["Authorization"])
        handler.reply(completion())

    with serving(answer) as server:
        assert generate(server.url.replace("//", f"//user:{quote(PASSWORD, safe='')}@"), "--max_samples", 1)[0] == 0
        assert generate(server.url, "--max_samples", 2)[0] == 0
    basic = f"Basic {base64.b64encode(f'user:{PASSWORD}'.encode()).decode()}"
    assert set(seen[:3]) == {basic} and set(seen[3:]) == {f"Bearer {KEY}"}
