"""A service with OpenAI's interface: its key and address, what it answers, and what its errors mean.

Everything a service sends passes through here: limited in bytes and time, read as JSON, without keys and passwords.
Only this module of tlrec reads the environment, for OPENAI_API_KEY and OPENAI_BASE_URL.
"""

import json
import os
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from tlrec.cot.secrets import Secrets, secrets_of_url
from tlrec.errors import InputError

# Errors that every further call would get too
FATAL_STATUS = (401, 403, 404)
FATAL_CODES = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "account_deactivated",
    "model_not_found",
    "invalid_api_key",
    "unsupported_parameter",
    "unsupported_value",
)
MESSAGE_LENGTH = 500  # characters of a service's message that are shown and written


class ServiceError(Exception):
    """The service refuses every call: wrong key, unknown model, exhausted quota. The message is one line."""


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
    """The service at an address. All coroutines of one service run in one event loop.

    base_url: None takes OPENAI_BASE_URL, else OpenAI's own. timeout: seconds for one attempt. attempts: at most this
    many for one call. key: used instead of OPENAI_API_KEY. `url` is the address in a form that may be shown.
    """

    def __init__(self, base_url, timeout, attempts, key=None):
        import openai  # takes a second to import; --help and --dry_run do not need it

        from tlrec.cot.transport import BoundedClient

        key = key or api_key()
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        address, login = _without_login(base_url) if base_url else (None, None)
        urls = [base_url or "", *getproxies().values()]
        self._secrets = Secrets([key, *(secret for url in urls for secret in secrets_of_url(url))])
        self.timeout = timeout
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=address,
            timeout=timeout,
            max_retries=attempts - 1,
            http_client=BoundedClient(timeout, _give_up, auth=login),
        )
        self.url = str(self._client.base_url).partition("?")[0]

    async def get(self, path, **query):
        """The JSON at a path."""
        return (await self._call(self._client.get, path, options={"params": query}))[0]

    async def post(self, path, body):
        """(the answer as JSON, the service's name of the call or None). ValueError if the answer is not JSON."""
        return await self._call(self._client.post, path, body=body)

    async def upload(self, name, content):
        """Send the bytes of a batch's file; the answer as JSON."""
        raw = await self._client.files.with_raw_response.create(file=(name, content), purpose="batch")
        return self.read_json(raw.http_response.content)

    async def lines(self, file_id):
        """The lines of a file as bytes, one after the other; only a newline ends a line."""
        import httpx2
        import openai

        from tlrec.cot.transport import ANSWER_BYTES, Unreadable

        try:
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
        except httpx2.TransportError as error:  # after the headers, `openai` does not catch it
            raise openai.APIConnectionError(request=error.request) from error

    def read_json(self, content):
        """The value of JSON bytes, with secrets removed; ValueError for other bytes."""
        try:
            return json.loads(self._secrets.hide_in_data(content.decode()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the answer is not JSON: {error}") from None

    def hide(self, message):
        """A message on one line, without secrets, cut after MESSAGE_LENGTH characters."""
        message = " ".join(self._secrets.hide(str(message)).split())
        return message if len(message) <= MESSAGE_LENGTH else f"{message[:MESSAGE_LENGTH]}..."

    def describe_failure(self, error):
        """(kind, message) of an exception of a call, the message as `hide` leaves it."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            kind, message = "time-out", f"no answer within {self.timeout:g} s"
        elif isinstance(error, openai.APIStatusError):
            response = error.response
            told = _error_of(response).get("message") or response.text or response.reason_phrase
            kind = "server error" if error.status_code >= 500 else "bad request"
            kind = {429: "rate limit"}.get(error.status_code, kind)
            message = f"{error.status_code}: {told}"
        elif isinstance(error, openai.APIConnectionError):
            kind, message = "connection", f"{self.url}: {error.__cause__ or error}"
        else:
            kind, message = "malformed response", str(error)
        return kind, self.hide(message)

    @contextmanager
    def errors(self):
        """Turn errors that every further call would get too into a one-line ServiceError."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            if error.status_code in FATAL_STATUS or error.code in FATAL_CODES:
                raise ServiceError(self.describe_failure(error)[1]) from None
            raise

    async def close(self):
        await self._client.close()

    async def _call(self, method, path, **options):
        import httpx2

        response = await method(path, cast_to=httpx2.Response, **options)
        request_id = response.headers.get("x-request-id")
        return self.read_json(response.content), request_id and self.hide(request_id)


def _without_login(base_url):
    """(the address without name and password, these two or None). The client must not know them, because it prints."""
    try:
        parts = urlsplit(base_url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1:
            raise ValueError
    except ValueError:
        raise InputError(
            "--base_url, --served or OPENAI_BASE_URL is not an address; expected one like http://localhost:8000/v1"
        ) from None
    userinfo, _, host = parts.netloc.rpartition("@")
    name, _, password = userinfo.partition(":")
    return parts._replace(netloc=host).geturl(), (unquote(name), unquote(password)) if userinfo else None


async def _give_up(response):
    """Do not retry an exhausted quota, which is also a 429."""
    if response.status_code == 429:
        await response.aread()
        if _error_of(response).get("code") in FATAL_CODES:
            response.headers["x-should-retry"] = "false"  # a header that the client obeys


def _error_of(response):
    try:
        error = response.json().get("error")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {}
