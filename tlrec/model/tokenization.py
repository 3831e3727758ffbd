"""From a record to token ids: only this module decides on the prompt/answer boundary, BOS and EOS, and truncation.

    <s> Below is an instruction ... ### Response: \\n | Yes .  </s>
    ^BOS                  prompt                    ^ ^ answer ^EOS
                                     answer position: its distribution is the prediction

Prompt and answer are tokenised together, so that the model scores exactly the tokens it was trained on. BOS and EOS are
set here and never by the tokenizer: what tokenizers add on their own differs between versions and conversions. Some
have neither; the frame of a chat template has its own.

If a token spans the boundary, it belongs to the answer:

    ... Response : \\n        the prompt alone
    ... Response : | \\nYes .  a merged newline: "\\nYes" is the first answer token, ":" its position
    ... Response : | \\nNo .

The boundary is where the ids of the whole row first differ from those of the prompt alone. Rows that end in Yes. or No.
need not be tokenised a second time to find it. The last token that is the same with either answer and without one is
the anchor, here ":". BPE merges neighbours, so text on one side of a token cannot change the tokens on the other side:

    ... Response : | \\nYes .   a row with the same tokens from the anchor on has its boundary at the same place

Any other row, such as one with a free text, is tokenised again without its answer.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from transformers import PreTrainedTokenizerFast

from tlrec.errors import InputError
from tlrec.model.prompts import ANSWERS


@dataclass
class Prompts:
    """Token ids, one list per record; the answer position of each, whose output predicts the first answer token; and
    how many tokens each prompt lost because it was too long."""

    input_ids: list[list[int]]
    answer_positions: list[int]
    lost: list[int]

    @property
    def truncated(self):
        """How many prompts were cut."""
        return sum(map(bool, self.lost))


@dataclass
class Examples:
    """Training rows, and the indices of records that were left out because their answer alone does not fit.

    A row has "input_ids", "answer_start" (index of the first answer token), "length" (tokens) and "cut" (whether its
    prompt was cut).
    """

    rows: list[dict] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    @property
    def truncated(self):
        """How many prompts were cut."""
        return sum(row["cut"] for row in self.rows)


class RecordTokenizer:
    """Turns records into token ids for one tokenizer, prompt frame and length limit.

    tokenizer: a Hugging Face tokenizer; frame: tlrec.model.prompts.Frame; cutoff_len: tokens at most, BOS, answer and
    EOS included. A prompt that is too long loses tokens right after the frame's head, where the oldest history is; the
    answer is never cut.
    """

    def __init__(self, tokenizer, frame, cutoff_len):
        self.tokenizer = tokenizer
        self.frame = frame
        self.cutoff_len = cutoff_len
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        if frame.answer_end is not None:  # a chat template's, which has BOS in its text
            bos, eos = None, tokenizer.convert_tokens_to_ids(frame.answer_end) if frame.answer_end else None
        self.bos = [] if bos is None else [bos]
        self.eos = [] if eos is None else [eos]
        # A frame's head is the same for all records of a task
        self._ids_of_head = lru_cache(maxsize=16)(lambda head: self._encode([head])[0])
        self.answer_ids, self._answer_tails, self._changed, self._endings = self._find_answers()
        # tokens of the limit that are kept free for the answer
        self._reserved = self._changed + max(map(len, self._answer_tails)) + len(self.eos)

    def prompts(self, records, with_answers=False):
        """Token ids of every record up to, and without, the first answer token. with_answers: followed by its own
        answer and EOS, as from `examples`, for which every `output` must be one of ANSWERS."""
        answers = [record["output"] if with_answers else ANSWERS[0] for record in records]
        texts = [self.frame.prompt(record) + answer for record, answer in zip(records, answers)]
        prompts = Prompts([], [], [])
        for record, answer, ids in zip(records, answers, self._encode(texts)):
            tail = self._answer_tails[ANSWERS.index(answer)]
            if ids[-len(tail) :] != tail:
                raise InputError(f"the tokenizer merges the answer into this prompt: ...{record['input'][-60:]!r}")
            boundary = len(ids) - len(tail) - self._changed  # the same that `examples` finds
            context = self._cut(self.bos + ids[:boundary], record, self.cutoff_len - self._reserved)
            prompts.lost.append(len(self.bos) + boundary - len(context))
            prompt = context + ids[boundary : len(ids) - len(tail)]
            prompts.answer_positions.append(len(prompt) - 1)
            prompts.input_ids.append(prompt + tail + self.eos if with_answers else prompt)
        return prompts

    def examples(self, records):
        """Training rows: prompt, answer and EOS."""
        encoded = self._encode([self.frame.prompt(record) + record["output"] for record in records])
        examples = Examples()
        for index, (record, ids, boundary) in enumerate(zip(records, encoded, self._boundaries(records, encoded))):
            prompt_ids, answer_ids = self.bos + ids[:boundary], ids[boundary:] + self.eos
            room = self.cutoff_len - max(len(answer_ids), self._reserved)  # cut as `prompts` cuts, whatever the answer
            if len(prompt_ids) > room and room < len(self.bos) + len(self._head_ids(record)):
                examples.dropped.append(index)
                continue
            kept = self._cut(prompt_ids, record, room)
            whole = kept + answer_ids
            cut = len(kept) < len(prompt_ids)
            examples.rows.append({"input_ids": whole, "answer_start": len(kept), "length": len(whole), "cut": cut})
        return examples

    def _encode(self, texts):
        if not isinstance(self.tokenizer, PreTrainedTokenizerFast):  # one in Python
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        # The tokenizer's own call would do the same, and make offsets and masks, which take a third of its time
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = self.tokenizer.split_special_tokens
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _boundaries(self, records, encoded):
        """How many of each record's ids, those of prompt and answer, are those of the prompt alone."""
        boundaries = []
        for record, ids in zip(records, encoded):
            ending = self._endings.get(record["output"])
            boundaries.append(len(ids) - len(ending) + 1 if ending and ids[-len(ending) :] == ending else None)
        others = [place for place, boundary in enumerate(boundaries) if boundary is None]
        for place, alone in zip(others, self._encode([self.frame.prompt(records[place]) for place in others])):
            boundaries[place] = common_prefix([alone, encoded[place]])
        return boundaries

    def _head_ids(self, record):
        return self._ids_of_head(self.frame.head(record))

    def _cut(self, ids, record, room):
        """`ids` (BOS first) in at most `room` tokens: the head of the frame and the end of the prompt stay."""
        excess = len(ids) - room
        if excess <= 0:
            return ids
        head = common_prefix([self.bos + self._head_ids(record), ids])
        if head + excess > len(ids):
            raise InputError(f"--cutoff_len {self.cutoff_len} leaves no room for the prompt; give a larger one")
        return ids[:head] + ids[head + excess :]

    def _find_answers(self):
        """First token of each answer in the context of the frame; each answer's tokens from there on; how many tokens
        before it differ from those of the prompt alone: usually none, but an answer may change how the prompt's end is
        tokenised; and {answer: a row's last tokens, from the anchor on}.

        The context of the answer is the constant end of the frame, so any record will do for this.
        """
        prompt = self.frame.prompt({"instruction": "i", "input": "i"})
        alone, yes, no = self._encode([prompt] + [prompt + answer for answer in ANSWERS])
        position = common_prefix([yes, no])
        unchanged = min(position, common_prefix([alone, yes]))

        def within_prompt(ids):  # whether ids[unchanged:] hold nothing of the answer
            return self._text(alone[unchanged:]).startswith(self._text(ids[unchanged:]))

        if (
            position in (len(yes), len(no))
            or not within_prompt(yes[:position])
            or within_prompt(yes[: position + 1])
            or within_prompt(no[: position + 1])
        ):
            raise InputError(
                f"with this tokenizer {ANSWERS[0]!r} and {ANSWERS[1]!r} begin with the same token after the frame "
                f"{self.frame.name!r}, or only one of them merges with it, so one token cannot tell them apart; "
                "use another --prompt_frame or model"
            )
        endings = {answer: ids[unchanged - 1 :] for answer, ids in zip(ANSWERS, (yes, no)) if unchanged}
        return (yes[position], no[position]), (yes[position:], no[position:]), position - unchanged, endings

    def _text(self, ids):
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def encode_completions(tokenizer, context, completions):
    """(token ids of a context with BOS, [ids of each completion]), for text outside of any frame.

    Context and completion are tokenised together. A token that spans the boundary belongs to the completion; if that
    happens in one of the completions, all of them begin that early, so that they can be compared.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts = [context, *(context + completion for completion in completions)]
    alone, *rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    boundary = min(common_prefix([alone, ids]) for ids in rows)
    return bos + alone[:boundary], [ids[boundary:] for ids in rows]


def common_prefix(rows):
    """How many tokens all rows of ids begin with."""
    low, high = min(rows), max(rows)  # first and last in lexicographic order: what they share, all share
    shared = 0
    for one, other in zip(low, high):
        if one != other:
            break
        shared += 1
    return shared
