"""What a chat model sends beside an answer, and prompts that it does not answer; the real script over loopback servers.

1. Thoughts, in any markup: only the answer comes into prompts, hits and records. What cannot be told apart is unusable.
2. A prompt that the service refuses for good makes its sample unusable, in direct calls and in batches; what it refuses
   for every prompt ends the run, and is asked again afterwards.
3. Answers without text in a row end the run, and a larger --max_tokens goes on in the same journal.
4. The first reason of each kind is printed once, with the flag that mends it.
5. Whatever is wrong with the connection's settings is one line.
"""

import json
import os
import re
import socket
import ssl
import subprocess
import threading
import zlib

import pytest

from tests.support.hostile import chat, completion, serving
from tests.support.teaching import teaching
from tlrec.cot.thoughts import answer_in

# ----------------------------------------------------------------------------------------------------------- thoughts

ANSWER = "1. Heat (1995) - Ronin (1998)\n2. It (1990) - Alien (1979)"
HARMONY = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>"
MARKED = [
    "<think>a\nb</think>\n\n{}",
    "<think>\n\n</think>\n\n{}",
    "a\nb\n</think>\n{}",  # the template wrote the opening tag
    "a </think> b </think>{}",
    "<think>a</think>\n<think>b</think>\n{}",
    "<think>a <think> b</think>{}",
    "<thinking>a</thinking>{}",
    "<reasoning>a</reasoning>\n{}",
    "<Think>a</THINK>\n{}",
    '<think time="3">a</think>{}',
    "< think >a</ think >{}",
    "&lt;think&gt;a&lt;/think&gt;{}",
    "<thought>a <b>x</b></thought>{}",
    "<Thought Process>a</Thought Process>{}",
    "<longcat_think>a</longcat_think>\n{}<|im_end|>",
    "[THINK]a[/THINK]{}",
    "[Start thinking]\na\n[End thinking]\n{}",
    "◁think▷a◁/think▷{}",
    "《think》a《/think》{}",
    "<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect>c</seed:think>{}",
    "<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>\n{}\n<|end_of_solution|>",
    "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<|inner_prefix|>a<|inner_suffix|>{}",
    "<｜begin▁of▁thinking｜>a<｜end▁of▁thinking｜>{}",
    "<|channel>thought\na<channel|>{}",
    HARMONY + "final<|message|>{}<|return|>",
    HARMONY + "commentary<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "analysisWe need a list.assistantfinal{}",
    "  [THINK]\na\n[/THINK]\n{}",
    "<think>a</think>\n<answer>\n{}\n</answer>",
    "<think>use <answer> tags</think>{}",
    "<analysis>a</analysis>\n<final>{}</final>",
    '<details type="reasoning" done="true">\n<summary>Thought for 5 s</summary>\n> a\n</details>\n{}',
    "Thinking...\na\n...done thinking.\n\n{}",
    "Here is my thought process: a\nb\nHere is my response:\n{}",
    "**Thinking:**\na\n\n**Final answer:**\n{}",
    "```thinking\na\n```\n{}",
    "<!-- a -->{}",
]
UNCLEAR = [
    "<think>a {}",
    "[THINK]a {}",
    "◁think▷a\n{}",
    "{0}\n<think>a</think>\n{0}",
    "<think>a</think>1. A - B\n<think>b</think>{}",
    "a</think>b<think>c</think>{}",
    "<think>a</think>",
    "a</think>",
    "{}<think>a</think>",
    "<tool_call>{}</tool_call>",
    "<answer>1. A</answer><answer>{}</answer>",
    "Thinking...\n{}",
    "analysisWe need a list: {}",
    HARMONY[:40],
    HARMONY + "analysis<|message|>{}",
]
PLAIN = [
    ANSWER,
    "1. <i>It</i> -> **Alien**",
    "[REC] (2007)\n2. [Rec]² (2009) - Quarantine [2008]",
    "Thoughtful, slow films. I think you like them.",
    "Thought-provoking dramas: you value [deep reasoning].",
    "Reasons: you like war; x < 3 and y > 2, I <3 it",
    "1. A - B [Reason: both are about war]\n2. The Final [Solution] - [Reflections] (1990)",
    "Response: 1. A - B",
]


def test_only_the_answer_counts():
    assert [text for text in MARKED if answer_in(text.format(ANSWER)).strip() != ANSWER] == []
    assert [text for text in UNCLEAR if answer_in(text.format(ANSWER))] == []  # cannot be told apart
    assert [text for text in PLAIN if answer_in(text) != text] == []


def teach_with(teacher, change):
    """Let the teacher's answers pass through `change`, a function of (number of the answer, message, choice)."""
    complete, count = teacher.complete, iter(range(10**6))

    def changed(body):
        answer = complete(body)
        if answer[0] == 200:
            choice = answer[1]["choices"][0]
            change(next(count), choice["message"], choice)
        return answer

    teacher.complete = changed


def in_parts(text):
    thoughts = {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}
    return [thoughts, {"type": "text", "text": text}]


def test_thoughts_come_into_no_prompt_hit_or_record(generate, root, samples, run_script):
    with teaching() as teacher:
        assert generate(teacher.url)[0] == 0
        plain = samples()
        (root / "cot_data/netflix").rename(root / "cot_data/plain")
        forms = [in_parts, *(form.format for form in MARKED if "{}" in form)]

        def think(number, message, choice):
            message["content"] = forms[number % len(forms)](message["content"])

        teach_with(teacher, think)
        status, out, _ = generate(teacher.url)
    assert status == 0 and "0 unusable" in out and samples() == plain
    assert run_script("cot_data/preprocess_data.py", "--root_path", root, "--data_name", "netflix")[0] == 0


def test_thoughts_that_do_not_end_are_told(generate, samples):
    def think(number, message, choice):
        if number % 4 == 0:
            message["content"] = f"<think>{message['content']}"

    with teaching() as teacher:
        teach_with(teacher, think)
        status, out, err = generate(teacher.url)
    told = int(re.search(r"(\d+) unusable \((\d+) thoughts without an answer\)", out)[1])
    assert status == 0 and 3 <= told == 12 - len(samples())
    assert "thoughts without an answer: give a larger --max_tokens than 512" in err
    assert "<think>" not in json.dumps(samples())


# ----------------------------------------------------------------------------------------------------------- verdicts

AZURE = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "code": "content_filter",
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}
TOO_LONG = "This model's maximum context length is 600 tokens, but the messages have 700."
REFUSALS = {
    "Azure": (400, {"error": AZURE}, "refused"),
    "policy": (400, {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}, "refused"),
    "data inspection": (400, {"error": {"message": "Bad.", "code": "data_inspection_failed"}}, "refused"),
    "moderation": (403, {"error": {"message": "Your input was flagged by moderation", "code": 403}}, "refused"),
    "status 200": (200, {"error": {"message": "PROHIBITED_CONTENT", "code": "content_policy"}}, "refused"),
    "context": (400, {"error": {"message": TOO_LONG, "code": "context_length_exceeded"}}, "too long"),
    "vLLM": (400, {"object": "error", "message": TOO_LONG, "code": 400}, "too long"),
    "Groq": (413, {"error": {"message": "Request too large for model"}}, "too long"),
    "tokens a minute": (429, {"error": {"message": "Request too large: Limit 10, requested 20"}}, "too long"),
    "500": (500, {"error": {"message": "bad", "code": "context_length_exceeded"}}, "too long"),
    "usage policy": (400, {"error": {"message": "It may violate our usage policy", "code": None}}, "refused"),
    "TGI": (422, {"error": "Input validation error: `inputs` must have less than 512 tokens"}, "bad request"),
    "proxy": (413, b"<html>Request Entity Too Large</html>", "too long"),
    "detail": (422, {"detail": [{"msg": "no"}]}, "bad request"),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refused_prompt_makes_its_sample_unusable(generate, samples, journal, refusal):
    status, body, kind = refusal
    texts = iter(range(10**6))

    def answer(handler):
        prompt = json.loads(handler.body)["messages"][-1]["content"]
        refused = sum(map(ord, prompt.split("Step 1")[0])) % 3 == 0 and "Step 2" in prompt
        handler.reply(body, status) if refused else handler.reply(completion(f"Text {next(texts)}"))

    with serving(answer) as server:
        code, out, err = generate(server.url, "--concurrency", 2)
        asked = len(server.requests)
        assert code == 0, out + err
        assert generate(server.url)[0] == 0 and len(server.requests) == asked  # a verdict is asked for once
    told = int(re.search(rf"(\d+) unusable \((\d+) {kind}\), 0 missing", out)[1])
    assert 0 < told == 12 - len(samples()) and err.count(f"first {kind}: ") == 1
    assert {line["verdict"] for line in journal() if "verdict" in line} == {kind}


def test_refused_prompts_of_a_batch(generate):
    with teaching() as teacher:
        complete = teacher.complete

        def refuse(body):
            prompt = body["messages"][-1]["content"]
            return (400, {"error": AZURE}) if zlib.crc32(prompt.encode()) % 5 == 0 else complete(body)

        teacher.complete = refuse
        code, out, err = generate(teacher.url, "--batch", "--poll_seconds", 0.01)
    assert code == 0 and re.search(r"[1-9]\d* unusable \(\d+ refused\), 0 missing", out)
    assert err.count("first refused: 400: The response was filtered") == 1


NOT_THE_PROMPT = [
    (400, {"error": {"message": "This server is not configured."}}, "bad request"),
    (504, {"error": {"message": "The request took too long."}}, "server error"),
    (400, {"error": AZURE}, "refused"),  # every prompt: that is no verdict on any
]


@pytest.mark.parametrize(("status", "body", "kind"), NOT_THE_PROMPT)
def test_what_every_prompt_gets_ends_the_run_and_is_no_verdict(generate, status, body, kind):
    with serving(lambda handler: handler.reply(body, status)) as server:
        code, out, err = generate(server.url, "--max_samples", 32, "--attempts", 1)
        assert code == 1 and len(server.requests) <= 40
    assert f"20 samples in a row without a usable answer, the last one for: {kind}; the same command" in err
    assert err.count(body["error"]["message"]) == 1 and "0 unusable, 32 missing" in out
    with teaching() as teacher:
        assert generate(teacher.url, "--max_samples", 32)[0] == 0


@pytest.mark.parametrize("status", [400, 504])
def test_a_service_that_stops_answering_gives_no_verdicts(generate, journal, status):
    def answer(handler):
        late = len(handler.server.requests) > 30
        handler.reply({"error": {"message": "It took too long."}}, status) if late else handler.reply(completion())

    with serving(answer) as server:
        code, out, _ = generate(server.url, "--concurrency", 1, "--max_samples", 32, "--attempts", 1)
    assert code == 1 and "0 unusable" in out and not [line for line in journal() if "verdict" in line]


def test_filtered_answers_without_a_message(generate):
    with serving(lambda handler: handler.reply(completion(choices=[{"finish_reason": "SAFETY"}]))) as server:
        code, out, _ = generate(server.url, "--max_samples", 5)
    assert code == 1 and "0 samples complete, 5 unusable (5 refused), 0 missing" in out


# ------------------------------------------------------------------------------------------------- all spent on thoughts


def test_thoughts_that_take_all_tokens_end_the_run_and_a_larger_limit_goes_on(generate, samples):
    def answer(handler):
        body = json.loads(handler.body)
        enough = body["max_completion_tokens"] > 512
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
    assert len(samples()) == 32


def test_few_samples_without_a_usable_answer_are_no_success(generate):
    with serving(lambda handler: handler.reply(chat({"content": None}))) as server:
        code, out, err = generate(server.url, "--max_samples", 3)
        assert code == 1 and "3 unusable (3 empty)" in out and "empty: give a larger --max_tokens than 512" in err
    with teaching() as teacher:  # another model and temperature: nothing usable binds the journal
        assert generate(teacher.url, "--temperature", 1, "--max_samples", 3)[0] == 0


# ------------------------------------------------------------------------------------------------------------ reasons


def batch_of(error):
    """A server whose batches answer every call with an error."""

    def answer(handler):
        if handler.path == "/v1/files":
            lines = handler.body.split(b"\n")
            handler.server.calls = [json.loads(line)["custom_id"] for line in lines if line.startswith(b'{"custom')]
            handler.reply({"id": "f1"})
        elif "/content" in handler.path:
            entry = {"response": {"status_code": 400, "request_id": "r", "body": {"error": error}}, "error": None}
            lines = [json.dumps({"custom_id": call, **entry}) for call in handler.server.calls]
            handler.reply("\n".join(lines).encode())
        else:
            handler.reply({"id": "b1", "status": "completed", "output_file_id": None, "error_file_id": "f1"})

    return serving(answer)


PARAMETERS = [
    ("max_tokens is too large: 99999. This model supports at most 4096.", "max_tokens", "give another --max_tokens"),
    (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "max_tokens",
        "(give --reasoning_model)",
    ),
    ("Unsupported value: 'temperature' does not support 0.2", "temperature", "--reasoning_model, which sends none"),
    ("Value error: top_p must be below 1", None, "give another --top_p"),
]


@pytest.mark.parametrize(("message", "param", "mend"), PARAMETERS)
@pytest.mark.parametrize("batch", [False, True], ids=["direct", "batch"])
def test_the_flag_that_mends_it_is_named_once(generate, message, param, mend, batch):
    error = {"message": message, "param": param, "code": "unsupported_value" if "Unsup" in message else None}
    server = batch_of(error) if batch else serving(lambda handler: handler.reply({"error": error}, 400))
    with server as server:
        code, out, err = generate(
            server.url, *(["--batch", "--poll_seconds", 0.01] if batch else []), "--max_samples", 5
        )
    assert code in (1, 2) and mend in err and (out + err).count(message) == 1 and "0 unusable" in out


def test_a_wrong_key_is_told_once(generate):
    body = {"error": {"message": "Incorrect API key provided: sk-secret.", "code": "invalid_api_key"}}
    with serving(lambda handler: handler.reply(body, 401)) as server:
        for flags in ([], ["--batch"]):
            code, out, err = generate(server.url, *flags)
            assert code == 2 and (out + err).count("Incorrect API key provided: ***.") == 1
            assert "waiting" not in err or "401" not in err.split("waiting")[0]


def test_a_certificate_is_told_once(generate, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-days", "1", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", certificate, *subject]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def accept(listening):
        while True:
            try:
                context.wrap_socket(listening.accept()[0], server_side=True).close()
            except ssl.SSLError:
                continue
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, args=[listening], daemon=True).start()
        code, out, err = generate(f"https://localhost:{listening.getsockname()[1]}/v1", "--max_samples", 3)
        listening.shutdown(socket.SHUT_RDWR)
    assert code == 1 and "3 missing (3 connection)" in out and err.count("CERTIFICATE_VERIFY_FAILED") == 1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "(ALL_PROXY): Using SOCKS proxy, but"),
        ("all_proxy", "socks5h://user:Pa55-w0rd@127.0.0.1:9", "pip install"),
        ("HTTPS_PROXY", "gopher://user:Pa55-w0rd@127.0.0.1:9", "(HTTPS_PROXY): Unknown scheme"),
        ("SSL_CERT_FILE", "/nowhere/at/all.pem", "(SSL_CERT_FILE)"),
    ],
)
def test_settings_of_the_connection(generate, monkeypatch, name, value, told):
    for other in [other for other in os.environ if "PROXY" in other.upper() or "SSL_CERT" in other]:
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, value)
    code, _, err = generate("http://127.0.0.1:9/v1")
    assert code == 2 and err.startswith("error: the connection cannot be set up") and told in err
    assert err.count("\n") == 1 and "Pa55-w0rd" not in err
