"""A loopback server that answers with any bytes at all."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(answer, port=0):
    """answer: called with a request's handler, which holds `command`, `path`, `headers`, `body` (bytes)
    and `wfile`, and `reply`.

    Yields the server: `url`, `requests`, the (path, body) of each request, and `keys`, their Authorization.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.server.requests.append((self.path, self.body))
            self.server.keys.add(self.headers["Authorization"])
            self.close_connection = True
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                pass

        do_GET = do_POST

        def reply(self, body, status=200, **fields):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            fields = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close", **fields}
            for name, value in fields.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, request, client_address):
            pass

    server = Server(("127.0.0.1", port), Handler)
    server.requests, server.keys, server.ending = [], set(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()


def completion(text="1. fine", **changes):
    """A chat completion as it should be, but for the changes."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, "refusal": None}}
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        **changes,
    }


def chat(message=None, **changes):
    """The same with changes to its choice and message."""
    body = completion()
    choice = body["choices"][0]
    body["choices"] = [{**choice, **changes, "message": {**choice["message"], **(message or {})}}]
    return body
