"""What a service may do to us: cot_data/generate_data.py before servers that answer anything, for ever, or with the key.

Answers
1. Whatever is no chat completion, or no line of a batch's file, fails that call, by kind; nothing of it comes into the
   journal as an answer, and a good server goes on from there.
2. Thoughts come into no prompt, hit or record; where they take all tokens, the flag that mends it is told, and a larger
   --max_tokens goes on in the same journal.
Refusals
3. A prompt that the service refuses for good makes its sample unusable; what it refuses for every prompt ends the run and
   is asked again afterwards. The first reason of each kind is told once, with the flag that mends it.
Time and memory
4. Bytes without end, drop by drop or in a flood, of an answer or a file: an attempt ends with its time-out and at a few
   MiB; what is compressed is not unpacked.
Keys and addresses
5. A key that is echoed, as it is or as a URL writes it, stands in no file and no output; nor do passwords of addresses.
6. A key that cannot be sent, an address that is none, settings of a connection that cannot be: one line.
"""

import asyncio
import base64
import gzip
import json
import os
import re
import zlib
from urllib.parse import quote

import pytest

from tests.support.hostile import chat, completion, serving
from tests.support.teaching import teaching
from tlrec.cot.client import Service
from tlrec.cot.failures import Failure

KEY = 'sk-Proj/7"9\\x+&Zq_QR4=~wv83KmT'
PASSWORD = "Pa55/w0rd+17"
BATCH = ["--batch", "--poll_seconds", 0.01]


def batching(changes, content=None):
    """The `answer` of a service with one batch. changes: {path: JSON}; content: sends its file, given the handler."""
    known = {"/v1/files": {"id": "f1"}, "/v1/batches": {"id": "b1", "status": "in_progress"}}
    known |= {"/v1/batches/b1": {"id": "b1", "status": "completed", "output_file_id": "f1"}, **changes}
    return lambda handler: handler.reply(known[handler.path]) if handler.path in known else content(handler)


@pytest.fixture(autouse=True)
def key(quick_retries, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# ------------------------------------------------------------------------------------------------------------ answers

ODD = {
    "array": [],
    "not UTF-8": b'{"choices": "\xff"}',
    "deep": b"[" * 100_000,
    "no choices": completion(choices=[]),
    "content parts": chat({"content": [{"type": "image", "text": "fine"}]}),
    "content false": chat({"content": False}),
    "lone surrogate": chat({"content": "fine \ud83d"}),
    "finish_reason list": chat(finish_reason=["stop"]),
    "usage text": completion(usage={"prompt_tokens": "7", "completion_tokens": "3"}),
    "usage huge": completion(usage={"prompt_tokens": 10**400, "completion_tokens": 3}),
}


def test_odd_answers_fail_their_call(generate, journal):
    """Every odd answer in turn, to the first stage of one sample each."""
    odd, flags = list(ODD.values()), ["--concurrency", 1, "--max_samples", len(ODD)]
    price = ["--price_in", 1, "--price_out", 1, "--max_cost", 50]
    with serving(lambda handler: handler.reply(odd[len(handler.server.requests) - 1])) as server:
        status, out, err = generate(server.url, *flags, *price)
        assert status == 1 and f"{len(ODD)} missing ({len(ODD)} malformed response)" in out and "Traceback" not in err
        assert len(server.requests) == len(ODD)  # none is asked again
    messages = {name: line["message"] for name, line in zip(ODD, journal(), strict=True)}
    not_json = {name for name, message in messages.items() if message.startswith("the answer is not JSON")}
    assert not_json == {"deep", "lone surrogate", "not UTF-8"}
    assert all(messages[name].startswith("not a chat completion: ") for name in ODD.keys() - not_json)
    with teaching() as teacher:
        assert generate(teacher.url, *flags)[0] == 0


def test_null_and_missing_fields_are_no_oddity(generate, journal):
    bodies = [completion(model=None, usage=None), {"choices": [{"message": {"content": "fine"}}]}]
    with serving(lambda handler: handler.reply(bodies[len(handler.server.requests) % 2])) as server:
        assert generate(server.url, "--max_samples", 2)[0] == 0
    assert all(line["text"] for line in journal()) and len(journal()) == 6


BATCH_LINES = [
    b"<html>",
    b'"\xff"',
    b'{"custom_id": "9999-1", "response": {"status_code": 200, "body": {}}}',
    b'{"custom_id": "%s", "response": "x", "error": "y"}',
    b'{"custom_id": "%s", "response": {"status_code": 200, "body": null}}',
    b'{"custom_id": "%s", "error": {"code": ["x"], "message": {"a": 1}}}',
]


def test_odd_lines_of_a_batch(generate, journal):
    """All but one answer of the first batch are odd; the one is kept, and the next batch asks for the others again. A
    service may write U+2028, U+2029 and U+0085 as they are."""
    with teaching() as teacher:
        finish = teacher.finish

        def odd(batch, lines):
            finish(batch, lines)
            name = batch["output_file_id"]
            sent = teacher.files[name].splitlines()
            for number, entry in enumerate(map(json.loads, sent)):
                entry["response"]["body"]["choices"][0]["message"]["content"] += "\u2028a\u2029b\u0085c\x0bd\x1ce"
                sent[number] = json.dumps(entry, ensure_ascii=False).encode()
                if batch["id"] == "batch_1" and number < len(BATCH_LINES):
                    sent[number] = BATCH_LINES[number].replace(b"%s", entry["custom_id"].encode())
            teacher.files[name] = b"".join(line + b"\n" for line in sent)

        teacher.finish = odd
        status, _, err = generate(teacher.url, *BATCH, "--max_samples", len(BATCH_LINES) + 1)
        assert (status, err.count("Traceback")) == (0, 0), err
        assert [len(lines) for _, lines in teacher.batches.values()] == [7, 7, 7, 6]
    assert all("\u2028a\u2029b\u0085c" in line["text"] for line in journal() if "text" in line)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/batches/b1", "/v1/batches?limit=100"])
def test_odd_answers_on_batches(generate, root, path):
    state = root / "cot_data/netflix/batches.json"
    state.parent.mkdir(parents=True)
    for body in ({"id": 7, "status": 7, "data": [5]}, {"data": [{}], "has_more": True}, b"<html>"):
        lost = [{"calls": ["1-1"], "batch": None, "status": None}]  # a batch may have been made, and not noted
        state.write_text(json.dumps({"parts": lost if "limit" in path else []}))
        with serving(batching({path: body})) as server:
            status, _, err = generate(server.url, "--batch")
        assert status == 1 and "stopped: malformed response: " in err and "Traceback" not in err


@pytest.mark.parametrize("part", [{"calls": ["x"], "batch": "b1", "status": None}, {"calls": [], "batch": 7}, []])
def test_a_damaged_list_of_batches_is_one_line(generate, root, part):
    state = root / "cot_data/netflix/batches.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"parts": [part]}))
    status, _, err = generate("http://127.0.0.1:9/v1", *BATCH)
    error = err.splitlines()[-1]  # after the bar, on a slow machine
    assert status == 2 and error.startswith(f"error: {state}: 'parts.0") and "Traceback" not in err


# ----------------------------------------------------------------------------------------------------------- thoughts


@pytest.mark.slow
def test_thoughts_come_into_no_prompt_hit_or_record(generate, root, samples):
    thoughts = {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}

    def think(body, status, answer):
        message = answer["choices"][0]["message"]
        text = message["content"]
        forms = [f"<think>a\nb</think>\n\n{text}", f"a\n</think>{text}", [thoughts, {"type": "text", "text": text}]]
        message["content"] = forms[zlib.crc32(text.encode()) % 3]
        return status, answer

    with teaching() as teacher:
        assert generate(teacher.url)[0] == 0
    plain = samples()
    (root / "cot_data/netflix").rename(root / "cot_data/plain")
    with teaching(think) as teacher:
        status, out, _ = generate(teacher.url)
    assert status == 0 and "0 unusable" in out and samples() == plain


@pytest.mark.slow
def test_thoughts_that_take_all_tokens_end_the_run_and_a_larger_limit_goes_on(generate, samples):
    def answer(handler):
        enough = json.loads(handler.body)["max_completion_tokens"] > 512
        spent = chat({"content": "", "reasoning_content": "..."}, finish_reason="length")
        handler.reply(completion() if enough else spent)

    with serving(answer) as server:
        code, out, err = generate(server.url, "--reasoning_model", "--max_samples", 32)
        assert code == 1 and len(server.requests) <= 40 and "cut off" in out
        assert err.count("give a larger --max_tokens than 512") == 1 and "0 samples complete" in out
        paid = len(server.requests)
        code, out, err = generate(server.url, "--reasoning_model", "--max_tokens", 4096, "--max_samples", 32)
        assert code == 0, out + err
        assert len(server.requests) == paid + 96
        assert set(json.loads(server.requests[-1][1])) == {"model", "messages", "max_completion_tokens"}
    assert len(samples()) == 32


# ----------------------------------------------------------------------------------------------------------- refusals

AZURE = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "code": "content_filter",
}
CONTEXT = "This model's maximum context length is 600 tokens, but the messages have 700."
PARAMETER = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
OF_THE_PROMPT = [
    (400, {"error": AZURE}, "refused"),
    (403, {"error": {"message": "Your input was flagged by moderation", "code": 403}}, "refused"),
    (400, {"object": "error", "message": CONTEXT, "code": 400}, "too long"),  # vLLM
    (429, {"error": {"message": "Request too large: Limit 10, requested 20"}}, "too long"),
    (500, {"error": {"message": "bad", "code": "context_length_exceeded"}}, "too long"),
    (413, "<html>Request Entity Too Large</html>", "too long"),
    (422, {"detail": [{"msg": "no"}]}, "bad request"),
]
OF_EVERY_CALL = [
    (403, {"error": {"message": "No access to this project"}}),
    (429, {"error": {"message": "Check your plan", "code": "insufficient_quota"}}),
]
PASSING = [
    (429, {"error": {"message": "Limit of tokens a minute reached"}}, "rate limit"),
    (504, "The request took too long", "server error"),
]
MENDS = [
    ("max_tokens is too large: 99999. This model supports at most 4096.", "max_tokens", "(give another --max_tokens"),
    (PARAMETER, "max_tokens", "(give --reasoning_model)"),
    ("Unsupported value: 'temperature' does not support 0.2", "temperature", "--reasoning_model, which sends none"),
    ("Value error: top_p must be below 1", None, "give another --top_p"),
]


def test_what_a_refusal_is_about():
    service = Service("http://127.0.0.1:9/v1", 1, 1)

    def refusal(status, body):
        return service.refusal(status, *(({}, body) if isinstance(body, str) else (body,)))

    for status, body, kind in OF_THE_PROMPT:
        failure = refusal(status, body)
        assert (failure.kind, failure.reach) == (kind, "this prompt"), body
    for status, body in OF_EVERY_CALL:
        assert refusal(status, body).reach == "every call", body
    for status, body, kind in PASSING:
        failure = refusal(status, body)
        assert (failure.kind, failure.reach) == (kind, "passing"), body
    for message, param, mend in MENDS:
        assert mend in refusal(400, {"error": {"message": message, "param": param}}).message


@pytest.mark.parametrize(("status", "flags"), [(400, []), (200, []), (400, BATCH)], ids=["400", "200", "batch"])
def test_a_refused_prompt_makes_its_sample_unusable(generate, samples, journal, status, flags):
    def refuse(body, *answer):
        refused = zlib.crc32(body["messages"][-1]["content"].encode()) % 5 == 0
        return (status, {"error": AZURE}) if refused else answer

    with teaching(refuse) as teacher:
        code, out, err = generate(teacher.url, *flags)
        asked = len(teacher.asked)
        assert code == 0, out + err
        assert generate(teacher.url, *flags)[0] == 0 and len(teacher.asked) == asked  # a verdict is asked for once
    told = int(re.search(r"(\d+) unusable \((\d+) refused\), 0 missing", out)[1])
    assert 0 < told == 12 - len(samples()) and err.count(f"first refused: {status}: The response was filtered") == 1
    assert {line["verdict"] for line in journal() if "verdict" in line} == {"refused"}


@pytest.mark.slow
def test_what_every_prompt_gets_ends_the_run_and_is_no_verdict(generate):
    with serving(lambda handler: handler.reply({"error": AZURE}, 400)) as server:
        code, out, err = generate(server.url, "--max_samples", 32, "--attempts", 1)
        assert code == 1 and len(server.requests) <= 40
    assert "20 samples in a row without a usable answer, the last one for: refused; the same command" in err
    assert err.count(AZURE["message"]) == 1 and "0 unusable, 32 missing" in out
    with teaching() as teacher:
        assert generate(teacher.url, "--max_samples", 32)[0] == 0


def test_a_service_that_stops_answering_gives_no_verdicts(generate, journal):
    def answer(handler):
        late = len(handler.server.requests) > 30
        handler.reply({"error": {"message": "It took too long."}}, 400) if late else handler.reply(completion())

    with serving(answer) as server:
        code, out, _ = generate(server.url, "--concurrency", 1, "--max_samples", 32, "--attempts", 1)
    assert code == 1 and "0 unusable" in out and not [line for line in journal() if "verdict" in line]


def test_filtered_answers_without_a_message(generate):
    with serving(lambda handler: handler.reply(completion(choices=[{"finish_reason": "SAFETY"}]))) as server:
        code, out, _ = generate(server.url, "--max_samples", 5)
    assert code == 1 and "0 samples complete, 5 unusable (5 refused), 0 missing" in out


@pytest.mark.parametrize("flags", [[], BATCH], ids=["direct", "batch"])
def test_the_flag_that_mends_it_is_told_once(generate, flags):
    with teaching(lambda body, *answer: (400, {"error": {"message": PARAMETER, "param": "max_tokens"}})) as teacher:
        code, out, err = generate(teacher.url, *flags, "--max_samples", 5)
    assert code == 1 and (out + err).count(f"{PARAMETER} (give --reasoning_model)") == 1 and "0 unusable" in out


# ---------------------------------------------------------------------------------------------------- time and memory


def flood(handler, head, block=b" " * 65536):
    handler.wfile.write(head)
    while not handler.server.ending.is_set():
        handler.wfile.write(block)
        handler.server.sent = getattr(handler.server, "sent", 0) + len(block)


def drip(handler, head, drop):
    handler.wfile.write(head)
    while not handler.server.ending.wait(0.05):
        handler.wfile.write(drop)
        handler.wfile.flush()


def bomb(handler):
    handler.reply(gzip.compress(b" " * (40 << 20), 1), Content_Encoding="gzip")


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
ENDLESS = {
    "flood": (lambda handler: flood(handler, OK + b"{"), False, "the answer is longer than 4 MiB"),
    "drops": (lambda handler: drip(handler, OK + b"{", b" "), False, "no answer within 1 s"),
    "gzip": (bomb, False, "the answer is compressed"),
    "line of a file": (lambda handler: flood(handler, OK, b"x" * 65536), True, "a line of a file is longer than 4 MiB"),
    "drops of a file": (lambda handler: drip(handler, OK, b"{}\n"), True, "the answer was not complete in time"),
}


@pytest.mark.parametrize(("answer", "file", "told"), ENDLESS.values(), ids=ENDLESS)
def test_servers_without_end(answer, file, told):
    """One attempt of a second; more than a minute would be for ever."""

    async def attempt(service):
        async with asyncio.timeout(60):
            with pytest.raises(Failure, match=told):
                _ = [line async for line in service.lines("f1")] if file else await service.get("/batches")
            await service.close()

    with serving(answer) as server:
        asyncio.run(attempt(Service(server.url, 1, 1)))
        assert getattr(server, "sent", 0) < 32 << 20  # with what the connection's buffers hold


# ------------------------------------------------------------------------------------------------- keys and addresses


def places(echo):
    """Answers with an echo wherever a server may put it, as (body, status, header fields)."""
    error = {"error": {"message": echo, "type": echo, "param": echo, "code": echo}}
    line = " ".join(echo.split())
    yield completion(echo, model=echo, id=echo), 200, {"x_request_id": line, "openai_model": line}
    yield from ((error, status, {}) for status in (400, 429, 500))
    yield {"error": {"message": [echo, {echo: echo}]}}, 400, {}
    yield {"detail": {echo: echo}}, 422, {}
    yield echo.encode(), 502, {"Content_Type": "text/html"}
    yield chat({"refusal": echo}, finish_reason=echo), 200, {}
    yield {echo: echo}, 200, {}
    yield completion(choices=[{echo: echo}]), 200, {}
    yield {}, 307, {"Location": f"http://127.0.0.1:9/{quote(line, safe='')}"}
    yield {}, 200, {"Content_Encoding": line}


def assert_nowhere(secret, root, *streams):
    left = [path for path in root.rglob("*") if "instruction_data" not in path.parts]
    contents = [path.read_bytes().decode() for path in left if path.is_file()]
    text = "\n".join([*contents, *(path.name for path in left), *streams]).lower()
    forms = (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))
    assert not [form for form in forms if form.lower() in text]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("secret", "echo"),
    [(KEY, f"Bearer {KEY}"), (PASSWORD, quote(PASSWORD, safe=""))],
    ids=["key", "password in a URL"],
)
def test_echoed_secrets_stand_nowhere(generate, root, secret, echo):
    told = list(places(echo))

    def ask(answer):
        with serving(answer) as server:
            url = server.url.replace("//", f"//user:{quote(PASSWORD, safe='')}@")
            status, out, err = generate(url, "--max_samples", 20, "--attempts", 1, "--concurrency", 1)
            assert "Traceback" not in err
            assert_nowhere(secret, root, out, err)
            return status, len(server.requests)

    def answer(handler):
        body, status, fields = told[(len(handler.server.requests) - 1) % len(told)]
        handler.reply(body, status, **fields)

    status, n = ask(answer)
    assert status == 1 and n >= len(told)
    assert "***" in (root / "cot_data/netflix/three_stages.jsonl").read_text()
    for error, code in (({"message": echo, "code": echo}, 401), ({"message": echo, "code": "insufficient_quota"}, 429)):
        assert ask(lambda handler: handler.reply({"error": error}, code)) == (2, 1)


@pytest.mark.parametrize("status", ["failed", "echo"])
def test_echoed_keys_in_batches(generate, root, status):
    echo = f"Bearer {KEY}"
    entries = [
        {"custom_id": "%", "error": {"code": echo, "message": echo}},
        {"custom_id": "%", "response": {"status_code": echo, "request_id": echo, "body": {"error": echo}}},
        {"custom_id": "%", "response": {"status_code": 200, "request_id": echo, "body": completion(echo, model=echo)}},
        {"custom_id": "%", "response": {"status_code": 200, "request_id": "r", "body": echo}},
        {"custom_id": echo},
    ]

    def content(handler):
        calls = re.findall(r'"custom_id": "([^"]+)"', handler.server.requests[0][1].decode())
        lines = [json.dumps(entry).replace('"%"', f'"{call}"') for entry, call in zip(entries, calls, strict=True)]
        handler.reply("\n".join(lines).encode(), x_request_id=echo)

    errors = {"data": [{"code": echo, "message": echo}]}
    ended = {"id": echo, "status": status.replace("echo", echo), "output_file_id": "f1", "errors": errors}
    known = {"/v1/files": {"id": echo}, "/v1/batches": {"id": "b1", "status": echo}, "/v1/batches/b1": ended}
    with serving(batching(known, content)) as server:
        code, out, err = generate(server.url, *BATCH, "--max_samples", 5)
        assert len(server.requests) >= 3 and code in (1, 2) and "Traceback" not in err
    assert_nowhere(KEY, root, out, err)


@pytest.mark.parametrize("address", ["http://user:{}@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key={}"])
def test_passwords_in_addresses_are_not_told(generate, root, address, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", address.format(quote(PASSWORD, safe="")))
    status, out, err = generate("", "--max_samples", 1)
    assert status == 1 and "127.0.0.1:9" in (root / "cot_data/netflix/three_stages.jsonl").read_text()
    assert_nowhere(PASSWORD, root, out, err)


def test_name_and_password_are_sent(generate):
    with serving(lambda handler: handler.reply(completion())) as server:
        assert generate(server.url.replace("//", f"//user:{quote(PASSWORD, safe='')}@"), "--max_samples", 1)[0] == 0
        assert server.keys == {f"Basic {base64.b64encode(f'user:{PASSWORD}'.encode()).decode()}"}
        assert generate(server.url, "--max_samples", 2)[0] == 0 and f"Bearer {KEY}" in server.keys


MISTAKES = [
    ({"OPENAI_API_KEY": "sk-se\ncret17"}, "", "OPENAI_API_KEY holds "),
    ({}, "http://u:Pa55-cret17@127.0.0.1:x/v1", "--base_url, --served or OPENAI_BASE_URL is not an address"),
    (
        {"ALL_PROXY": "socks5h://user:Pa55-cret17@127.0.0.1:9"},
        "http://h/v1",
        "the connection cannot be set up (ALL_PROXY): Using SOCKS proxy, but",
    ),
]


@pytest.mark.parametrize(("variables", "address", "told"), MISTAKES)
def test_mistakes_before_the_first_call(generate, root, monkeypatch, variables, address, told):
    for name in [name for name in os.environ if "PROXY" in name.upper() or "SSL_CERT" in name]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, out, err = generate(address)
    assert status == 2 and out == "" and err.startswith(f"error: {told}") and err.count("\n") == 1
    assert "cret17" not in err and not (root / "cot_data").exists()
