"""A loopback server that answers /v1/models and /v1/completions in the form of vLLM 0.32, by a small model."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


class Server(ThreadingHTTPServer):
    """A loopback server for one model. knows_the_field: vLLM has `logprob_token_ids` since 0.26; older ones ignore it.
    mode: what --logprobs-mode makes of the scores."""

    def __init__(self, model, served=("movie",), knows_the_field=True, mode="raw_logprobs", port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.served, self.knows_the_field, self.mode = model, served, knows_the_field, mode
        self.bodies, self.keys = [], set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, prompt, body, index):
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        scores = logits if self.mode == "raw_logits" else logits.log_softmax(-1)
        sampled = int(logits.argmax())
        tokens = [sampled, *(body["logprob_token_ids"] if self.knows_the_field else [])]
        found = {f"token_id:{token}": max(float(scores[token]), -9999.0) for token in tokens}
        logprobs = {
            "text_offset": [0],
            "token_logprobs": [found[f"token_id:{sampled}"]],
            "tokens": [f"token_id:{sampled}"],
            "top_logprobs": [found],
        }
        return {
            "index": index,
            "text": "?",
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "logprobs": logprobs,
        }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/v1/models"
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "vllm"} for name in self.server.served]
        self.reply(200, {"object": "list", "data": data})

    def do_POST(self):
        assert self.path == "/v1/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["Authorization"])
        if body["model"] not in self.server.served:
            self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            return
        choices = [self.server.answer(prompt, body, index) for index, prompt in enumerate(body["prompt"])]
        self.reply(
            200,
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 0,
                "model": body["model"],
                "choices": choices[::-1],
                "usage": None,
            },
        )

    def reply(self, status, content):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass
