"""A reply of a chat model: which part of it is the answer, and whether that can be used."""

from functools import cached_property
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from tlrec.cot.failures import FILTERED, Failure
from tlrec.cot.thoughts import answer_in

Count = Annotated[int, Field(ge=0, lt=10**12)]  # a larger number is an error
CUT_OFF = ("length", "max_tokens", "max_length", "model_length")  # finish reasons, in small letters
REFUSED = ("refusal", "sensitive", "recitation", "blocklist", "spii")  # and whatever is FILTERED
THOUGHTS = ("thinking", "reasoning", "redacted_thinking")  # parts of a content that are no answer


@dataclass(frozen=True, config={"strict": True, "extra": "forbid"})
class Answer:
    """One answered call. `text` is all that the model wrote, "" if the service sent none, and `answer` what of it is no
    thought of a reasoning model; `batch` says that it cost half the price. ValueError for values of another type or
    size, whether they come from a service or from the journal."""

    pid: Count
    stage: Count
    text: str
    finish_reason: str
    refusal: str | None
    model: str
    prompt_tokens: Count
    completion_tokens: Count
    request_id: str | None
    batch: bool

    @cached_property
    def answer(self):
        """The answer without thoughts, None if it cannot be told from them."""
        return answer_in(self.text)

    @property
    def flaw(self):
        """Why the answer is not usable: "refused", "cut off", "thoughts without an answer", "empty"; None if it is."""
        if self.refusal or _is_filtered(self.finish_reason):
            return "refused"
        if self.finish_reason.casefold() in CUT_OFF:
            return "cut off"
        if self.answer is None or (self.text.strip() and not self.answer.strip()):
            return "thoughts without an answer"
        return None if self.answer.strip() else "empty"


def read_completion(pid, stage, completion, request_id, batch=False):
    """The Answer in a chat completion, read as JSON, or the Failure if it is none. null means not given."""

    def given(value, default):
        return default if value is None else value

    try:
        choice, usage = completion["choices"][0], given(completion.get("usage"), {})
        finish_reason = given(choice.get("finish_reason"), "")
        message = (choice.get("message") or {}) if _is_filtered(finish_reason) else choice["message"]
        return Answer(
            pid=pid,
            stage=stage,
            text=_text_of(given(message.get("content"), "")),
            finish_reason=finish_reason,
            refusal=message.get("refusal"),
            model=given(completion.get("model"), ""),
            prompt_tokens=given(usage.get("prompt_tokens"), 0),
            completion_tokens=given(usage.get("completion_tokens"), 0),
            request_id=request_id,
            batch=batch,
        )
    except ValidationError as error:
        first = error.errors()[0]
        told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        told = repr(error)
    return Failure("malformed response", f"not a chat completion: {told}")


def _is_filtered(finish_reason):
    reason = finish_reason.casefold() if isinstance(finish_reason, str) else ""
    return reason in REFUSED or bool(FILTERED.search(reason))


def _text_of(content):
    """The text of a content, which some services send in parts, thoughts apart."""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if part["type"] not in THOUGHTS]
    if not content or any(part["type"] not in ("text", "output_text") for part in parts):
        raise TypeError("the content has parts that are no text")
    return "".join(part["text"] for part in parts)
