"""An offline teacher: a small local server with OpenAI's API of chat completions, files and batches.

    python -m tlrec.demo.teacher --port 0 --url_file teacher.url &
    export OPENAI_API_KEY=none OPENAI_BASE_URL="$(cat teacher.url)"
    python cot_data/generate_data.py --model tlrec-offline-teacher

It answers the three prompts of cot_data/prompts/ by rules (themes of the demo world, authors, shared words) that read
only the prompt, so the quickstart and the tests run the real client over a real connection. It serves one model,
`tlrec-offline-teacher`, and gives that name in every answer, so that no answer can be mistaken for GPT's.

Flags make it fail on purpose. Whether a request fails depends on --seed, its prompt and how often that prompt was asked
before; whether an answer is bad depends on --seed and its prompt alone. So the same command meets the same faults.
"""

import argparse
import email.parser
import email.policy
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tlrec.demo.world import theme_of
from tlrec.files import whole_file

MODEL = "tlrec-offline-teacher"
TRANSPORT_FAULTS = ("rate_limited", "server_error", "timed_out", "dropped", "garbled")
ANSWER_FAULTS = ("empty", "cut_off", "malformed", "refused")


# ------------------------------------------------------------------------------------------------ answers from rules


def answer_prompt(prompt):
    """The teacher's answer to a prompt of cot_data/prompts/; any other prompt gets one sentence that says so."""
    known, candidates = _titles(prompt, r"The \w+ I know"), _titles(prompt, r"The candidate \w+")
    steps = re.findall(r"^Step (\d):", prompt, re.MULTILINE)
    if not known or not steps:
        return "I only know the three prompts of TLRec's cot_data."
    if steps[-1] == "1":
        return _describe(known)
    if steps[-1] == "2":
        return "\n".join(f"{number}. {item}" for number, item in enumerate(_most_featured(known), start=1))
    featured = re.findall(r"^(?:Answer: )?\d+\. (.+)$", prompt.split("Step 2:")[-1].split("Step 3:")[0], re.MULTILINE)
    wanted = int((re.search(r"Recommend (\d+)", prompt) or [0, 10])[1])
    return "\n".join(
        f"{number}. {like} - {candidate}"
        for number, (like, candidate) in enumerate(_recommend(featured or known, known, candidates)[:wanted], start=1)
    )


def _titles(prompt, heading):
    """The quoted titles on the line that begins with a heading."""
    match = re.search(rf'^{heading}: "(.*)"$', prompt, re.MULTILINE)
    return match[1].split('", "') if match else []


def _features(item):
    """What the rules know about an item: its theme or its words, and its author."""
    title, _, author = item.partition(" written by ")
    theme = theme_of(title)
    words = {theme} if theme else {word.casefold() for word in re.findall(r"[^\W\d]{4,}", title)}
    return words, author


def _likeness(item, other):
    (words, author), (other_words, other_author) = _features(item), _features(other)
    return len(words & other_words) + 2 * bool(author and author == other_author)


def _strength(known):
    """How often the features of each item occur among all of them."""
    return {item: sum(_likeness(item, other) for other in known) for item in known}


def _describe(known):
    counts = Counter(word for item in known for word in sorted(_features(item)[0]))
    words = " and ".join(word for word, _ in counts.most_common(2))
    authors = Counter(author for item in known if (author := _features(item)[1]))
    liked = f", best by {authors.most_common(1)[0][0]}" if authors and authors.most_common(1)[0][1] > 1 else ""
    return f"You are drawn to {words or 'variety'}{liked}, as in {_most_featured(known)[0]}."


def _most_featured(known):
    strength = _strength(known)
    return sorted(known, key=lambda item: -strength[item])[:5]


def _recommend(featured, known, candidates):
    """(history item, candidate) pairs, best first; likeness to a featured item counts double."""
    pairs = []
    for candidate in candidates:
        score = 2 * sum(_likeness(candidate, item) for item in featured) + sum(_likeness(candidate, k) for k in known)
        pairs.append((score, max(featured, key=lambda item: _likeness(candidate, item)), candidate))
    return [(like, candidate) for _, like, candidate in sorted(pairs, key=lambda pair: -pair[0])]


# --------------------------------------------------------------------------------------------------------- the server


class Teacher(ThreadingHTTPServer):
    """State behind the requests: settings, fault draws, counters, log, files and batches (in memory only)."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, settings):
        super().__init__(("127.0.0.1", settings.port), Handler)
        self.settings = settings
        self.lock = threading.RLock()
        self.asked = Counter()  # requests by prompt digest
        self.answered = 0
        self.files, self.batches = {}, {}
        self.log = open(settings.log, "a", buffering=1, encoding="utf-8") if settings.log else None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """A client that disconnects is not a server error."""

    def note(self, digest, fate):
        if self.log:
            with self.lock:
                self.log.write(json.dumps({"prompt": digest, "fate": fate}) + "\n")

    def complete(self, body, batched=False):
        """(prompt digest, status, headers, body, fate) for a chat request; fate is None for a good answer."""
        prompt = body["messages"][-1]["content"]
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        with self.lock:
            self.asked[digest] += 1
            attempt = self.asked[digest]
        if body.get("model") != MODEL:
            message = f"The model '{body.get('model')}' does not exist; this is an offline teacher, it serves {MODEL}."
            return digest, 404, {}, _error(message, "model_not_found"), "unknown model"
        fault = _draw(f"{self.settings.seed} {digest} {attempt}", self.settings, TRANSPORT_FAULTS)
        if batched and fault:
            fault = "server_error"
        if fault == "rate_limited":
            headers = {"Retry-After": f"{self.settings.retry_after:g}"}
            return digest, 429, headers, _error("Rate limit reached.", "rate_limit_exceeded"), fault
        if fault == "server_error":
            return digest, 500, {}, _error("The server had an error.", "server_error"), fault
        if fault:
            return digest, 200, {}, None, fault
        with self.lock:
            exhausted = self.settings.quota is not None and self.answered >= self.settings.quota
            self.answered += not exhausted
        if exhausted:
            message = "You exceeded your current quota, please check your plan and billing details."
            return digest, 429, {}, _error(message, "insufficient_quota"), "quota"

        text, finish_reason, refusal = answer_prompt(prompt), "stop", None
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        answer_fault = _draw(f"{self.settings.seed} {digest}", self.settings, ANSWER_FAULTS)
        if answer_fault == "empty":
            text = ""
        elif answer_fault == "cut_off" or (limit and len(text) > 4 * limit):
            text, finish_reason = text[: min(len(text) // 2, 4 * (limit or 10**9))], "length"
        elif answer_fault == "malformed":
            text = "I would rather talk about the weather: it is fine, and there is nothing to list."
        elif answer_fault == "refused":
            text, refusal = None, "I cannot help with that."
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text or "") // 4}
        completion = {
            "id": f"chatcmpl-{digest[:24]}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish_reason,
                    "logprobs": None,
                    "message": {"role": "assistant", "content": text, "refusal": refusal},
                }
            ],
            "usage": {**usage, "total_tokens": sum(usage.values())},
        }
        return digest, 200, {}, completion, None

    def create_batch(self, body):
        batch_id = f"batch_{len(self.batches) + 1}"
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].decode().splitlines()]
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "completion_window": body["completion_window"],
            "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"),
            "created_at": int(time.time()),
            "status": "in_progress",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "ready": time.monotonic() + self.settings.batch_seconds,
            "lines": lines,
        }
        limit = self.settings.enqueued_requests
        if limit and len(lines) > limit:
            message = f"Enqueued token limit reached for {MODEL}: {len(lines)} requests, limit {limit}."
            self.batches[batch_id] |= {
                "status": "failed",
                "errors": {"object": "list", "data": [{"code": "token_limit_exceeded", "message": message}]},
            }
        return self.look_at_batch(batch_id)

    def look_at_batch(self, batch_id):
        batch = self.batches[batch_id]
        with self.lock:
            if batch["status"] == "in_progress" and time.monotonic() >= batch["ready"]:
                self._finish(batch)
        return {key: value for key, value in batch.items() if key not in ("ready", "lines")}

    def _finish(self, batch):
        output, errors, expired = [], [], 0
        for line in batch["lines"]:
            entry = {"id": f"req_{line['custom_id']}", "custom_id": line["custom_id"], "response": None, "error": None}
            chance = random.Random(f"{self.settings.seed} {batch['id']} {line['custom_id']}").random()
            if chance < self.settings.batch_expired:
                expired += 1
                entry["error"] = {"code": "batch_expired", "message": "This request could not be executed in time."}
                errors.append(entry)
                continue
            digest, status, _, answer, fate = self.complete(line["body"], batched=True)
            self.note(digest, fate or "answered")
            entry["response"] = {"status_code": status, "request_id": entry["id"], "body": answer}
            (output if status == 200 else errors).append(entry)
        for key, entries in (("output_file_id", output), ("error_file_id", errors)):
            if entries:
                batch[key] = f"file-{key}-{batch['id']}"
                self.files[batch[key]] = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        batch["status"] = "expired" if expired else "completed"
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """Requests are not printed; --log has them."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._authorised():
            return
        teacher, path = self.server, urlsplit(self.path).path
        if path == "/v1/chat/completions":
            self._chat(json.loads(body))
        elif path == "/v1/files":
            with teacher.lock:
                file_id = f"file-{len(teacher.files) + 1}"
                teacher.files[file_id] = _uploaded(self.headers["Content-Type"], body)
            size = len(teacher.files[file_id])
            file = {"id": file_id, "object": "file", "bytes": size, "created_at": 0, "filename": "batch.jsonl"}
            self._send(200, file | {"purpose": "batch", "status": "processed"})
        elif path == "/v1/batches":
            with teacher.lock:
                batch = teacher.create_batch(json.loads(body))
            self._send(200, batch)
        else:
            self._send(404, _error(f"no such address: {path}", "not_found"))

    def do_GET(self):
        if not self._authorised():
            return
        teacher, url = self.server, urlsplit(self.path)
        if url.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tlrec"}]})
        elif url.path == "/v1/batches":
            after = parse_qs(url.query).get("after", [None])[0]
            names = list(teacher.batches)[::-1]
            names = names[names.index(after) + 1 :] if after in names else names
            page = [teacher.look_at_batch(name) for name in names[:20]]
            last = page[-1]["id"] if page else None
            self._send(200, {"object": "list", "data": page, "has_more": len(names) > 20, "last_id": last})
        elif (match := re.fullmatch(r"/v1/batches/([^/]+)", url.path)) and match[1] in teacher.batches:
            self._send(200, teacher.look_at_batch(match[1]))
        elif (match := re.fullmatch(r"/v1/files/([^/]+)/content", url.path)) and match[1] in teacher.files:
            self._send(200, teacher.files[match[1]], content_type="application/octet-stream")
        else:
            self._send(404, _error(f"no such address: {url.path}", "not_found"))

    def _chat(self, body):
        teacher = self.server
        digest, status, headers, answer, fate = teacher.complete(body)
        if fate == "timed_out":
            teacher.note(digest, fate)
            time.sleep(teacher.settings.hang)
            self.close_connection = True
            return
        time.sleep(teacher.settings.delay)
        if fate == "dropped":
            teacher.note(digest, fate)
            self.close_connection = True
            return
        if fate == "garbled":
            answer = b'{"id": "chatcmpl-broken", "choices": ['
        self._send(status, answer, headers)
        teacher.note(digest, fate or "answered")  # after sending: a client that was killed got no answer

    def _authorised(self):
        expected = self.server.settings.key
        given = self.headers.get("Authorization", "")
        if given.startswith("Bearer ") and (expected is None or given == f"Bearer {expected}"):
            return True
        self._send(401, _error(f"Incorrect API key provided: {given[7:]}.", "invalid_api_key"))
        return False

    def _send(self, status, answer, headers=None, content_type="application/json"):
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        fields = {"Content-Type": content_type, "Content-Length": len(body), "x-request-id": f"req_{time.time_ns()}"}
        for name, value in {**fields, **(headers or {})}.items():
            self.send_header(name, str(value))
        self._headers_buffer.append(b"\r\n" + body)  # header and body in one packet
        self.flush_headers()


def _error(message, code):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def _draw(name, settings, faults):
    """The fault of a request, or None; `name` is the seed of the draw."""
    chance = random.Random(name).random()
    for fault in faults:
        chance -= getattr(settings, fault)
        if chance < 0:
            return fault
    return None


def _uploaded(content_type, body):
    """The file in a multipart form."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    return next(part.get_payload(decode=True) for part in form.iter_parts() if part.get_filename())


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any free port (default: %(default)s)")
    add("--url_file", type=Path, help="write the base URL to this file once the server listens")
    add(
        "--log",
        type=Path,
        help="append one JSON line for each chat request: digest of the prompt, and the outcome",
    )
    add("--key", help="the only API key accepted (default: any)")
    add("--delay", type=float, default=0.0, metavar="S", help="seconds before each answer (default: 0)")
    add("--seed", type=int, default=0, help="seed of all faults (default: %(default)s)")
    faults = parser.add_argument_group("faults, each a share of the requests from 0 to 1 (default: 0)")
    faults.add_argument("--rate_limited", type=float, default=0.0, help="429 with Retry-After")
    faults.add_argument("--server_error", type=float, default=0.0, help="500")
    faults.add_argument("--timed_out", type=float, default=0.0, help="no answer for --hang seconds")
    faults.add_argument("--dropped", type=float, default=0.0, help="the connection closes without an answer")
    faults.add_argument("--garbled", type=float, default=0.0, help="200 with broken JSON")
    faults.add_argument("--empty", type=float, default=0.0, help="an answer without text")
    faults.add_argument("--cut_off", type=float, default=0.0, help="half an answer, finish_reason length")
    faults.add_argument("--malformed", type=float, default=0.0, help="prose where a list is asked for")
    faults.add_argument("--refused", type=float, default=0.0, help="a refusal")
    faults.add_argument("--batch_expired", type=float, default=0.0, help="requests of a batch that expire")
    add("--retry_after", type=float, default=0.1, metavar="S", help="seconds in Retry-After (default: %(default)s)")
    add("--hang", type=float, default=60.0, metavar="S", help="length of a time-out in seconds (default: %(default)s)")
    add("--quota", type=int, metavar="N", help="answers until the quota is exhausted (default: no limit)")
    add("--batch_seconds", type=float, default=0.0, metavar="S", help="how long a batch takes (default: 0)")
    add("--enqueued_requests", type=int, metavar="N", help="larger batches fail (default: no limit)")
    return parser.parse_args(argv)


def main():
    settings = parse_arguments()
    teacher = Teacher(settings)
    if settings.url_file:
        with whole_file(settings.url_file) as file:
            file.write(teacher.url)
    print(f"{MODEL} listens on {teacher.url}", flush=True)
    try:
        teacher.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
