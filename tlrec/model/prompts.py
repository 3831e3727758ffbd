"""The prompt frames, most of them JSON files in `tlrec/model/frames/`, and the two answers the model chooses between.

`alpaca` is the public frame of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca), so that general
Alpaca adapters fit. `tallrec` is what TALLRec and TLRec adapters were really trained with: the same, with a stray
linter comment at the end of the first line of its with-input form. `chat` is the base model's own chat template.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tlrec.errors import InputError, first_line
from tlrec.files import digest_of, read_json

ANSWERS = ("Yes.", "No.")  # as written in `output`; the first one is the positive class
_FOLDER = Path(__file__).parent / "frames"
FRAME_NAMES = sorted([path.stem for path in _FOLDER.glob("*.json")] + ["chat"])

_SLOT = r"\{(instruction|input)\}"

# Templates that state today's date get this one instead, the default in Llama's own template: prompts must be the same
# in tuning and evaluation, on any day.
_CLOCK = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro +%}"


@dataclass(frozen=True)
class Frame:
    """Two templates with the slots {instruction} and {input}; the answer follows directly after the last character.

    answer_end: None for plain text, which tlrec.model.tokenization puts between BOS and EOS. For a chat template, which
    has its own BOS, if any, and its own token to end an answer: the text of that token, "" if there is none.
    """

    name: str
    with_input: str
    without_input: str
    answer_end: str | None = None

    def prompt(self, record):
        """The prompt of a record: everything the model reads before its answer.

        Slots are filled in one pass, so braces in titles or in earlier answers stay unchanged.
        """
        return self._fill(self._template(record), record)

    def head(self, record):
        """The part of the prompt before the record's own text: the same for all records of a task."""
        before, _, _ = self._template(record).partition("{input}" if record["input"] else "{instruction}")
        return self._fill(before, record)

    def _template(self, record):
        return self.with_input if record["input"] else self.without_input

    def _fill(self, template, record):
        return re.sub(_SLOT, lambda slot: record[slot[1]], template)


def load_frame(name, tokenizer=None):
    """The frame of that name, one of FRAME_NAMES, or of a JSON file; "chat" is made from the tokenizer's chat template.

    Raises InputError for another name, and for a file that is no frame. docs/extend.md says what one may hold.
    """
    if name == "chat":
        return _chat_frame(tokenizer)
    if name not in FRAME_NAMES and Path(name).suffix != ".json":
        raise InputError(f"--prompt_frame {name}: give {', '.join(FRAME_NAMES)}, or the path of a JSON file")
    path = _FOLDER / f"{name}.json" if name in FRAME_NAMES else Path(name)
    content = read_json(path, ("with_input", "without_input"))
    for key, wanted in (("with_input", ["input", "instruction"]), ("without_input", ["instruction"])):
        if sorted(re.findall(_SLOT, str(content[key]))) != wanted:
            slots = " and ".join(f"{{{slot}}}" for slot in reversed(wanted))
            raise InputError(f"{path}: {key!r} must be a text with {slots} once, and no other of the two")
    return Frame(
        content.get("name", path.stem), content["with_input"], content["without_input"], content.get("answer_end")
    )


def prompt_parts(name):
    """The part of an identity (tlrec.runs.same) that the prompt is: digests of the text of this frame, and of the
    answers. "chat" is known by the base model's tokenizer, and here by what is added to its template."""
    frame = None if name == "chat" else load_frame(name)
    text = ["chat", _CLOCK] if frame is None else [frame.with_input, frame.without_input, frame.answer_end]
    return {"prompt frame": digest_of(text), "answers": digest_of(ANSWERS)}


def _chat_frame(tokenizer):
    """The chat template as a frame; the user's turn is instruction, blank line, input, or the instruction alone.

    The prompt is what the template writes before the answer of a whole conversation, not its generation prompt: after
    that one the model would first have to write a space (Llama 2), a thought or a channel (gpt-oss) before Yes or No.
    """
    with_input, end = _split_at_answer(tokenizer, "{instruction}\n\n{input}")
    without_input, _ = _split_at_answer(tokenizer, "{instruction}")
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    token = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    answer_end = token.content if token is not None and token.special else tokenizer.eos_token or ""
    return Frame("chat", with_input, without_input, answer_end)


def _split_at_answer(tokenizer, user):
    """What the template writes before and after the assistant's answer to `user`, a text with slots."""
    if not tokenizer.chat_template:
        raise InputError("--prompt_frame chat: this model's tokenizer has no chat template; give --prompt_frame alpaca")
    conversation = [{"role": "user", "content": user}, {"role": "assistant", "content": "{answer}"}]
    try:
        template = _CLOCK + tokenizer.get_chat_template()
        text = tokenizer.apply_chat_template(
            conversation, chat_template=template, tokenize=False, enable_thinking=False
        )
    except Exception as error:  # whatever a template raises
        reason = f"fails: {first_line(error)}"
    else:
        slots = r"\{(?:instruction|input|answer)\}"
        if re.findall(slots, text) == re.findall(slots, user) + ["{answer}"]:
            before, _, behind = text.partition("{answer}")
            return before, behind.strip()
        reason = "does not give instruction, input and answer once each, in this order"
    raise InputError(f"--prompt_frame chat: this model's chat template {reason}; give --prompt_frame alpaca")
