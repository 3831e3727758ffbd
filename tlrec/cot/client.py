"""A service with OpenAI's interface: its key and address, and what it answers.

Everything a service sends passes through here: limited in bytes and time, read as JSON, without the key. Retries and
back-off are the `openai` client's. Only this module of tlrec reads the environment: OPENAI_API_KEY, OPENAI_BASE_URL.
It takes two seconds to import, as `openai` does.
"""

import asyncio
import json
import os
import re
import time
from contextlib import contextmanager
from urllib.parse import quote

import httpx2
import openai
from pydantic_core import from_json

from tlrec.cot.failures import EVERY_CALL_CODES, Failure, error_of, refusal
from tlrec.errors import InputError, first_line

MESSAGE_LENGTH = 500  # characters of a service's message that are shown and written
SHORTEST_SECRET = 8  # shorter keys ("none", "EMPTY") are no secret, and may be words of an answer
ANSWER_BYTES = 4 << 20  # of a whole answer, or of one line in a file
FILE_BYTES = 1 << 30  # of a file, which is read piece by piece
SLOWEST = 100_000  # bytes per second; large files may take longer


def api_key(default=None):
    """The key from OPENAI_API_KEY, or `default`; InputError if there is none, or if it cannot be sent."""
    key = os.environ.get("OPENAI_API_KEY", "").strip() or default
    if not key:
        raise InputError("OPENAI_API_KEY is not set; export it (for an offline test see tlrec/demo/teacher.py)")
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            "OPENAI_API_KEY holds a line break, another control character or a letter that is not ASCII; copy it again"
        )
    return key


class Service:
    """The service at an address. All coroutines of one service run in one event loop, and raise Failure.

    base_url: None takes OPENAI_BASE_URL, else OpenAI's own; it may hold a name and a password. timeout: seconds for one
    attempt. attempts: at most this many for one call. key: used instead of OPENAI_API_KEY. `url` is the address in a form
    that may be shown.
    """

    def __init__(self, base_url, timeout, attempts, key=None):
        key = key or api_key()
        address = _address(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        self.url = str(address.copy_with(userinfo=b"", query=None))
        self._secret = _pattern(key, address.password or address.username)
        self._timeout = timeout
        try:
            self._client = openai.AsyncOpenAI(
                api_key=key,
                base_url=str(address),
                timeout=timeout,
                max_retries=attempts - 1,
                http_client=_BoundedClient(timeout),
            )
        except Exception as error:  # proxies, certificates and more are read from the environment here
            named = ", ".join(name for name in os.environ if re.search("_PROXY|SSL_CERT", name.upper()))
            told = f"the connection cannot be set up ({named or 'no settings'}): {first_line(error)}"
            raise InputError(self.hide(told)) from None

    async def get(self, path, **query):
        """The JSON at a path."""
        return (await self._call(self._client.get, path, options={"params": query}))[0]

    async def post(self, path, body):
        """(the answer as JSON, the service's name of the call or None)"""
        value, request_id = await self._call(self._client.post, path, body=body)
        if isinstance(value, dict) and value.get("error") and "choices" not in value:  # an error with status 200
            code = error_of(value).get("code")
            raise self.refusal(code if type(code) is int else 200, value)
        return value, request_id

    async def upload(self, content):
        """Send the bytes of a batch's file; the answer as JSON."""
        with self._failures():
            raw = await self._client.files.with_raw_response.create(file=("calls.jsonl", content), purpose="batch")
            return self.read_json(raw.http_response.content)

    async def lines(self, file_id):
        """The lines of a file as bytes, one after the other; only a newline ends a line."""
        with self._failures():
            async with self._client.files.with_streaming_response.content(file_id) as response:
                rest = b""
                async for piece in response.iter_bytes(1 << 16):
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(None, lines):
                        yield line
                    if len(rest) > ANSWER_BYTES:
                        raise Unreadable(f"a line of a file is longer than {ANSWER_BYTES >> 20} MiB")
                if rest:
                    yield rest

    def read_json(self, content):
        """The value of JSON bytes, without the key; ValueError for other bytes, and for half a character in a text."""
        try:
            return from_json(self._secret.sub("***", content.decode()))
        except ValueError as error:
            raise ValueError(f"the answer is not JSON: {error}") from None

    def hide(self, message):
        """A message on one line, without the key, cut after MESSAGE_LENGTH characters."""
        message = " ".join(self._secret.sub("***", str(message)).split())
        return message if len(message) <= MESSAGE_LENGTH else f"{message[:MESSAGE_LENGTH]}..."

    def refusal(self, status, body, text=""):
        """The Failure of an answer other than 200; body: its JSON or None, text: what stands for a missing message."""
        return refusal(status, body, text, self.hide)

    async def close(self):
        await self._client.close()

    async def _call(self, method, path, **options):
        with self._failures():
            response = await method(path, cast_to=httpx2.Response, **options)
            request_id = response.headers.get("x-request-id")
            return self.read_json(response.content), request_id and self.hide(request_id)

    @contextmanager
    def _failures(self):
        """Errors of a call become the Failures that they stand for."""
        try:
            yield
        except openai.APITimeoutError:
            raise Failure("time-out", f"no answer within {self._timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self.refusal(error.status_code, _json_of(error.response), error.response.text) from None
        except (openai.APIConnectionError, httpx2.TransportError) as error:  # the latter after the headers of a file
            raise Failure("connection", self.hide(f"{self.url}: {error.__cause__ or error}")) from None
        except (openai.OpenAIError, ValueError) as error:
            raise Failure("malformed response", self.hide(error)) from None


class Unreadable(openai.OpenAIError):
    """The answer is too long or compressed. `openai` does not retry after its own errors."""


class _BoundedClient(openai.DefaultAsyncHttpxClient):
    """No server can block or flood it: each attempt has a deadline and a limit of bytes. (httpx limits the wait for each
    piece of an answer, but not the number of pieces.)

    seconds: for one attempt, from the connection to the last byte; uploads and files get more.
    """

    def __init__(self, seconds):
        headers = {"Accept-Encoding": "identity"}  # a few compressed bytes may unpack to any number
        super().__init__(timeout=seconds, headers=headers, event_hooks={"response": [self._receive]})
        self._seconds = seconds

    async def send(self, request, **options):
        seconds = self._seconds + int(request.headers.get("content-length", 0)) / SLOWEST
        try:
            async with asyncio.timeout(seconds):
                return await super().send(request, **options)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"not complete within {seconds:g} s", request=request) from None

    async def _receive(self, response):
        """Called with an answer before anything of its body is read."""
        is_file = response.is_success and response.request.url.path.endswith("/content")
        response.stream = _Bounded(response.stream, FILE_BYTES if is_file else ANSWER_BYTES, self._seconds)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Unreadable("the answer is compressed, although compression was not accepted")
        if response.status_code == 429:
            await response.aread()
            if error_of(_json_of(response)).get("code") in EVERY_CALL_CODES:  # an exhausted quota is also a 429
                response.headers["x-should-retry"] = "false"  # a header that `openai` obeys


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream, most, seconds):
        self._stream, self._most, self._seconds = stream, most, seconds

    async def __aiter__(self):
        received, start = 0, time.monotonic()
        async for piece in self._stream:
            received += len(piece)
            if received > self._most:
                raise Unreadable(f"the answer is longer than {self._most >> 20} MiB")
            if time.monotonic() - start > self._seconds + received / SLOWEST:
                raise httpx2.ReadTimeout("the answer was not complete in time")
            yield piece

    async def aclose(self):
        await self._stream.aclose()


def _address(base_url):
    """A httpx2.URL with scheme and host; InputError, which does not repeat it, for anything else."""
    try:
        address = httpx2.URL(base_url.strip())
        if address.scheme not in ("http", "https") or not address.host or address.port == 0:
            raise ValueError
    except (httpx2.InvalidURL, ValueError):
        raise InputError(
            "--base_url, --served or OPENAI_BASE_URL is not an address; expected one like http://localhost:8000/v1"
        ) from None
    return address


def _pattern(*secrets):
    """Finds each secret as it is (in JSON, too) and as a URL writes it."""
    secrets = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe=""))}
    words = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return re.compile(words or "(?!)", re.IGNORECASE)


def _json_of(response):
    try:
        return from_json(response.content)
    except ValueError:
        return None
