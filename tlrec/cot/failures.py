"""Why a call was not answered, and what the errors of services mean: for this prompt, for every call, for now."""

import json
import re

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


class Failure(Exception):
    """Why a call was not answered. kind: in a few words, to be counted; message: one line, without the key.

    reach: "every call"; "this prompt", which the service will not answer however often it is asked, if it answers
    others; or "passing".
    """

    def __init__(self, kind, message, reach="passing"):
        super().__init__(message)
        self.kind, self.message, self.reach = kind, message, reach


def refusal(status, body, text, hide):
    """The Failure of an answer other than 200. body: its JSON or None; text: what stands for a missing message; hide:
    function from a message to what may be shown of it."""
    error = error_of(body)
    told = error.get("message") or text or error or "no reason given"
    told = told if isinstance(told, str) else json.dumps(told)
    message = hide(f"{status}: {told}") + _mend(told[:500], error.get("param"))
    status = status if type(status) is int else 500
    kind = _about_the_prompt(status, error, told)
    if error.get("code") in EVERY_CALL_CODES or status in (401, 402, 404) or (status == 403 and kind != "refused"):
        return Failure("refused by the service", message, "every call")
    if kind or (400 <= status < 500 and status not in PASSING):
        return Failure(kind or "bad request", message, "this prompt")
    return Failure("rate limit" if status == 429 else "server error", message)


def error_of(body):
    """The error in a body: services write {"error": {...}}, {"error": text}, {"detail": ...} or its fields."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    return error if isinstance(error, dict) else {"message": error}


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
    named = [name for name in MENDS if name == param or re.search(rf"\b{name}\b", told)]
    if "max_completion_tokens" in named and re.search(
        "unsupported .*max_tokens|max_tokens.* not supported", told, re.I
    ):
        return " (give --reasoning_model)"
    return f" ({MENDS[named[-1]]})" if named else ""
