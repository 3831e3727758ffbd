"""An offline teacher: a small local server with OpenAI's API of chat completions.

    python -m tlrec.demo.teacher --url_file teacher.url &
    export OPENAI_API_KEY=none OPENAI_BASE_URL="$(cat teacher.url)"
    python cot_data/generate_data.py --model tlrec-offline-teacher

It answers the three prompts of cot_data/prompts/ by rules (themes of the demo world, authors, shared words) that read
only the prompt, so the quickstart and the tests run the real client over a real connection. It serves one model,
`tlrec-offline-teacher`, and gives that name in every answer, so that no answer can be mistaken for GPT's.
"""

import argparse
import json
import re
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tlrec.demo.world import theme_of
from tlrec.files import whole_file

MODEL = "tlrec-offline-teacher"


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


def _describe(known):
    counts = Counter(word for item in known for word in sorted(_features(item)[0]))
    words = " and ".join(word for word, _ in counts.most_common(2))
    authors = Counter(author for item in known if (author := _features(item)[1]))
    liked = f", best by {authors.most_common(1)[0][0]}" if authors and authors.most_common(1)[0][1] > 1 else ""
    return f"You are drawn to {words or 'variety'}{liked}, as in {_most_featured(known)[0]}."


def _most_featured(known):
    """The five items whose features occur most often among all of them."""
    return sorted(known, key=lambda item: -sum(_likeness(item, other) for other in known))[:5]


def _recommend(featured, known, candidates):
    """(history item, candidate) pairs, best first; likeness to a featured item counts double."""
    pairs = []
    for candidate in candidates:
        score = 2 * sum(_likeness(candidate, item) for item in featured) + sum(_likeness(candidate, k) for k in known)
        pairs.append((score, max(featured, key=lambda item: _likeness(candidate, item)), candidate))
    return [(like, candidate) for _, like, candidate in sorted(pairs, key=lambda pair: -pair[0])]


# --------------------------------------------------------------------------------------------------------- the server


def complete(body):
    """(status, answer) for the body of a chat request."""
    if body.get("model") != MODEL:
        message = f"The model '{body.get('model')}' does not exist; this is an offline teacher, it serves {MODEL}."
        return 404, error(message, "model_not_found")
    prompt = body["messages"][-1]["content"]
    text, finish_reason = answer_prompt(prompt), "stop"
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit and len(text) > 4 * limit:
        text, finish_reason = text[: 4 * limit], "length"
    message = {"role": "assistant", "content": text, "refusal": None}
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
    return 200, {
        "id": f"chatcmpl-{time.time_ns()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": finish_reason, "logprobs": None, "message": message}],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """Requests are not printed."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = self.path == "/v1/chat/completions"
        status, answer = complete(json.loads(body)) if known else (404, error(f"no address {self.path}", "not_found"))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("x-request-id", f"req_{time.time_ns()}")
        self.end_headers()
        self.wfile.write(content)


class Teacher(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that disconnects is not a server error."""


def error(message, code):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free port (default: %(default)s)")
    parser.add_argument("--url_file", type=Path, help="write the base URL to this file once the server listens")
    args = parser.parse_args()
    teacher = Teacher(("127.0.0.1", args.port), Handler)
    url = f"http://127.0.0.1:{teacher.server_port}/v1"
    if args.url_file:
        with whole_file(args.url_file) as file:
            file.write(url)
    print(f"{MODEL} listens on {url}", flush=True)
    try:
        teacher.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
