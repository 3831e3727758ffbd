"""The `openai` client: its key and address, and what its errors mean.

Only this module of tlrec reads the environment, for OPENAI_API_KEY and OPENAI_BASE_URL.
"""

import os
from contextlib import contextmanager

from tlrec.errors import InputError

# Errors that every further call would meet as well
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


class ServiceError(Exception):
    """The service refuses every call: wrong key, unknown model, exhausted quota. The message is one line."""


def api_key():
    """The key from OPENAI_API_KEY; InputError if it is not set."""
    if key := os.environ.get("OPENAI_API_KEY", "").strip():
        return key
    raise InputError("OPENAI_API_KEY is not set; export it (for an offline test see tlrec/demo/teacher.py)")


def open_client(kind, base_url, timeout, attempts):
    """An `openai.AsyncOpenAI` or `openai.OpenAI` (that is `kind`, by name).

    base_url: None takes OPENAI_BASE_URL, else the service's own. timeout: seconds for one attempt. attempts: at most so
    many for one call. An exhausted quota, which comes as a 429 too, is not tried again.
    """
    import openai  # a second of import, which neither --help nor --dry_run has to wait for

    def give_up(response):
        if _error_of(response).get("code") in FATAL_CODES:
            response.headers["x-should-retry"] = "false"  # a header that the client obeys

    def hook(response):
        if response.status_code == 429:
            response.read()
            give_up(response)

    async def async_hook(response):
        if response.status_code == 429:
            await response.aread()
            give_up(response)

    http_client, hook = {
        "AsyncOpenAI": (openai.DefaultAsyncHttpxClient, async_hook),
        "OpenAI": (openai.DefaultHttpxClient, hook),
    }[kind]
    return getattr(openai, kind)(
        api_key=api_key(),
        base_url=base_url or os.environ.get("OPENAI_BASE_URL") or None,
        timeout=timeout,
        max_retries=attempts - 1,
        http_client=http_client(timeout=timeout, event_hooks={"response": [hook]}),
    )


def _error_of(response):
    try:
        error = response.json().get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, dict) else {}


@contextmanager
def service_errors(client):
    """Turn what every further call would meet as well into a ServiceError of one line."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        if error.status_code in FATAL_STATUS or error.code in FATAL_CODES:
            raise ServiceError(describe_failure(error, client)[1]) from None
        raise


def describe_failure(error, client):
    """(kind, message) of an exception of the client, the message in one line and without the key."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        kind, message = "time-out", f"no answer within {client.timeout:g} s"
    elif isinstance(error, openai.APIStatusError):
        told = _error_of(error.response).get("message") or error.response.text[:200] or error.response.reason_phrase
        kind = {429: "rate limit"}.get(error.status_code, "server error" if error.status_code >= 500 else "bad request")
        message = f"{error.status_code}: {told}"
    elif isinstance(error, openai.APIConnectionError):
        kind, message = "connection", f"{client.base_url}: {error.__cause__ or error}"
    else:
        kind, message = "malformed response", str(error)
    return kind, " ".join(message.split()).replace(client.api_key, "***")
