"""A service with OpenAI's interface: its key and address, what it answers, and what its errors mean.

Everything a service sends passes through here: limited in bytes and time, read as JSON, without the key. Retries and
back-off are the `openai` client's. Only this module of tlrec reads the environment: OPENAI_API_KEY, OPENAI_BASE_URL.
"""

import json
import os
import re
from dataclasses import dataclass
from urllib.parse import quote

from tlrec.errors import InputError, first_line

MESSAGE_LENGTH = 500  # characters of a service's message that are shown and written
SHORTEST_SECRET = 8  # shorter keys ("none", "EMPTY") are no secret, and may be words of an answer
EVERY_CALL_CODES = (  # of errors that every further call would meet too
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "account_deactivated",
    "model_not_found",
    "invalid_api_key",
    "unsupported_parameter",
    "unsupported_value",
)
PASSING = (408, 409, 425, 429)  # statuses that say nothing against the request; so does 500 and above
FILTERED = re.compile(  # how services say that they do not like a prompt or an answer
    r"content[ _-]?(filter|polic|management|moderat|violat|exists risk)|moderation|responsible[ _]?ai|data_inspection"
    r"|inappropriate|prohibited|sensitive (content|word|info)|usage (guideline|polic)|high risk|guardrail|\bsafety\b"
    r"|(was|been) flagged",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|(?<!took )too long|too many (input )?tokens|(request|prompt|input|entity).{0,30}too large"
    r"|string_above_max_length|maximum (input )?(length|tokens)|max_new_tokens",
    re.IGNORECASE,
)
MENDS = {  # parameters that a service may name, and the flag that changes them
    "max_completion_tokens": "give another --max_tokens",
    "max_tokens": "give another --max_tokens, or --reasoning_model, which sends max_completion_tokens",
    "temperature": "give another --temperature, or --reasoning_model, which sends none",
    "top_p": "give another --top_p, or --reasoning_model, which sends none",
}


class Unanswered(ValueError):
    """An error that came with status 200; its argument is the body."""


@dataclass(frozen=True)
class Failure:
    """Why a call was not answered. kind: in a few words, to be counted; message: one line, without the key.

    reach: "every call"; "this prompt", which the service will not answer however often it is asked, if it answers
    others; or "passing".
    """

    kind: str
    message: str
    reach: str = "passing"


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

    base_url: None takes OPENAI_BASE_URL, else OpenAI's own; it may hold a name and a password. timeout: seconds for one
    attempt. attempts: at most this many for one call. key: used instead of OPENAI_API_KEY. `url` is the address in a form
    that may be shown.
    """

    def __init__(self, base_url, timeout, attempts, key=None):
        import openai  # takes a second to import; --help and --dry_run do not need it

        from tlrec.cot.transport import BoundedClient

        key = key or api_key()
        address = _address(base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        self.url = str(address.copy_with(userinfo=b"", query=None))
        self._secret = _pattern(key, address.password or address.username)
        self.timeout = timeout
        try:
            self._client = openai.AsyncOpenAI(
                api_key=key,
                base_url=str(address),
                timeout=timeout,
                max_retries=attempts - 1,
                http_client=BoundedClient(timeout, _stop_retries),
            )
        except Exception as error:  # proxies, certificates and more are read from the environment here
            named = ", ".join(name for name in os.environ if re.search("_PROXY|SSL_CERT", name.upper()))
            told = f"the connection cannot be set up ({named or 'no settings'}): {first_line(error)}"
            raise InputError(self.hide(told)) from None

    async def get(self, path, **query):
        """The JSON at a path."""
        return (await self._call(self._client.get, path, options={"params": query}))[0]

    async def post(self, path, body):
        """(the answer as JSON, the service's name of the call or None). ValueError if the answer is not JSON."""
        value, request_id = await self._call(self._client.post, path, body=body)
        if isinstance(value, dict) and value.get("error") and "choices" not in value:
            raise Unanswered(value)
        return value, request_id

    async def upload(self, content):
        """Send the bytes of a batch's file; the answer as JSON."""
        raw = await self._client.files.with_raw_response.create(file=("calls.jsonl", content), purpose="batch")
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
        """The value of JSON bytes, without the key; ValueError for other bytes, and for half a character in a text."""
        from pydantic_core import from_json

        try:
            return from_json(self._secret.sub("***", content.decode()))
        except ValueError as error:
            raise ValueError(f"the answer is not JSON: {error}") from None

    def hide(self, message):
        """A message on one line, without the key, cut after MESSAGE_LENGTH characters."""
        message = " ".join(self._secret.sub("***", str(message)).split())
        return message if len(message) <= MESSAGE_LENGTH else f"{message[:MESSAGE_LENGTH]}..."

    def failure(self, error):
        """The Failure that an exception of a call stands for."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return Failure("time-out", f"no answer within {self.timeout:g} s")
        if isinstance(error, openai.APIStatusError):
            return self.refusal(error.status_code, _json_of(error.response), error.response.text)
        if isinstance(error, openai.APIConnectionError):
            return Failure("connection", self.hide(f"{self.url}: {error.__cause__ or error}"))
        if isinstance(error, Unanswered):
            code = _error_of(error.args[0]).get("code")
            return self.refusal(code if type(code) is int else 200, error.args[0])
        return Failure("malformed response", self.hide(error))

    def refusal(self, status, body, text=""):
        """The Failure of an answer other than 200; body: its JSON or None, text: what stands for a missing message."""
        error = _error_of(body)
        told = error.get("message") or text or error or "no reason given"
        told = told if isinstance(told, str) else json.dumps(told)
        message = self.hide(f"{status}: {told}") + _mend(told, error.get("param"))
        status = status if type(status) is int else 500
        kind = _about_the_prompt(status, error, told)
        if error.get("code") in EVERY_CALL_CODES or status in (401, 402, 404) or (status == 403 and kind != "refused"):
            return Failure("refused by the service", message, "every call")
        if kind or (400 <= status < 500 and status not in PASSING):
            return Failure(kind or "bad request", message, "this prompt")
        return Failure("rate limit" if status == 429 else "server error", message)

    async def close(self):
        await self._client.close()

    async def _call(self, method, path, **options):
        import httpx2

        response = await method(path, cast_to=httpx2.Response, **options)
        request_id = response.headers.get("x-request-id")
        return self.read_json(response.content), request_id and self.hide(request_id)


def _address(base_url):
    """A httpx2.URL with scheme and host; InputError, which does not repeat it, for anything else."""
    import httpx2

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


def _about_the_prompt(status, error, told):
    """Whether an error speaks of the prompt: "refused", "too long" or None."""
    if status == 429:  # the others speak of all tokens of a minute
        return "too long" if re.search("request too large", told, re.IGNORECASE) else None
    if status >= 500 and not error:  # the page of a gateway
        return None
    words = json.dumps(error)[:5000] if error else told[:5000]
    return "refused" if FILTERED.search(words) else "too long" if TOO_LONG.search(words) else None


def _mend(told, param):
    """What to add to a message that names a parameter of ours: the flag that mends it."""
    named = [name for name in MENDS if name == param or re.search(rf"\b{name}\b", told[:MESSAGE_LENGTH])]
    if "max_completion_tokens" in named and re.search(
        "unsupported .*max_tokens|max_tokens.* not supported", told, re.I
    ):
        return " (give --reasoning_model)"
    return f" ({MENDS[named[-1]]})" if named else ""


async def _stop_retries(response):
    """Do not retry an exhausted quota, which is also a 429."""
    if response.status_code == 429:
        await response.aread()
        if _error_of(_json_of(response)).get("code") in EVERY_CALL_CODES:
            response.headers["x-should-retry"] = "false"  # a header that the client obeys


def _json_of(response):
    from pydantic_core import from_json

    try:
        return from_json(response.content)
    except ValueError:
        return None


def _error_of(body):
    """The error in a body: services write {"error": {...}}, {"error": text}, {"detail": ...} or its fields."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    return error if isinstance(error, dict) else {"message": error}
