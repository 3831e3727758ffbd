"""The answer in the text of a chat model, without the thoughts that a reasoning model writes around it.

Servers without a reasoning parser leave the thoughts in the content, in the markup of the model: `<think>...</think>`,
`[THINK]...[/THINK]`, `◁think▷...◁/think▷`, `<|channel|>analysis<|message|>...`. No list of models is kept here. The rule:

* A tag is a name in brackets. Its name says what it marks: thoughts (think, reason, reflect, ...), the answer (answer,
  response, final, ...), or type (b, li, br, ...), which is text like any other.
* Thoughts end with their closing tag. One that was never opened ends all that stands before it: the template opened it.
* The answer is what is marked as one, else what follows the last thoughts.
* Where thoughts do not end, text stands on both sides of them, or a tag is of no known kind, it cannot be told.
"""

import re

LONGEST = 1_000_000  # characters; a longer text is not searched
_THOUGHT = re.compile(
    r"think|thought|reason|reflect|rationale|analy[sz]|scratch|monolog|deliberat|brainstorm|plan(ning)?$|details$"
    r"|summary$|cot$|inner$",
)
_ANSWER = re.compile(r"answer|response|final$|solution|output$|result|reply$|recommend")
_TYPE = re.compile(
    r"(a|b|i|u|s|em|strong|br|p|ul|ol|li|dl|dt|dd|span|div|code|pre|small|su[bp]|table|t[rdh]|thead|tbody|hr|h\d|q|cite"
    r"|blockquote|center|font|mark|del|ins|img)$"
)
_EDGE = re.compile(r"(begin|start|open|prefix|end|stop|close|suffix|of)$")  # parts of a name: which end it marks
_CLOSING = re.compile(r"(end|stop|close|suffix)$")
_TAG = re.compile(
    r"(?P<angle><|&lt;|＜|◁|⟨)\s*(?P<bar>[|｜])?\s*(?P<slash>/)?\s*(?P<name>[^\W\d_][\w:.▁-]*)(?P<rest>[^<>◁▷]{0,60}?)"
    r"(?P<alone>/)?\s*[|｜]?\s*(?:>|&gt;|＞|▷|⟩)"
    r"|(?P<first>^[ \t>*#]{0,9})?[\[{【《〈«⟦]\s*(?P<slash2>/)?\s*(?P<name2>[^\W\d_][\w:.-]*(?: [\w:.-]+)?)\s*[\]}】》〉»⟧]",
    re.MULTILINE,
)
_STOP_TOKEN = re.compile(r"(<[|｜][\w ▁]{1,40}[|｜]>|</s>)\Z")  # left over at the end of a text
_CHANNEL = re.compile(  # of gpt-oss: <|channel|>final<|message|>..., up to the next token of its format
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_MARKED_OFF = re.compile(  # thoughts in other clothes, at the beginning: a comment, a fenced block, Gemma's channel
    r"\s*(?:<!--.*?-->|```\s*\w*(?:think|thought|reason)\w*\s*\n.*?^```\s*$|<\|channel>\s*\w+\n.*?<channel\|>)",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
_HEADING = re.compile(  # "Thinking...", "**Thought process:**", "Here is my reasoning:" as first words
    r"\W*(?:okay, |sure, )?(?:here(?:'s| is) |let me share )?(?:my |the )?"
    r"(?:thinking|thoughts?|reasoning|chain[ -]of[ -]thought|(?:internal )?monologue)(?: process)?(?:\W*$|\W*[:….\n])",
    re.IGNORECASE | re.MULTILINE,
)
_END_OF_HEADED = re.compile(  # "...done thinking.", "Final answer:", "**My response:**"
    r"^\W*(?:done thinking\W*$|(?:here(?:'s| is) )?(?:my |the )?(?:final )?"
    r"(?:answer|response|reply|recommendations?)(?: is)?\W*?(?::\W*?(?=[\s\w\"'])|\*\*$|\n))",
    re.IGNORECASE | re.MULTILINE,
)


def answer_in(text):
    """The answer in a text, "" if there is none beside thoughts, or None if it cannot be told from them."""
    if len(text) > LONGEST:
        return None
    while block := _MARKED_OFF.match(text):
        text = text[block.end() :]
    if "<|channel|>" in text or "<|message|>" in text:
        finals = [said for name, said in _CHANNEL.findall(text) if name == "final"]
        return finals[0].strip() if len(finals) == 1 else "" if _CHANNEL.search(text) and not finals else None
    if re.match(r"(analysis|commentary)\w", text):  # the same format after its tokens were dropped
        _, end, said = text.rpartition("assistantfinal")
        return said.strip() if end else None
    if _HEADING.match(text):
        ends = list(_END_OF_HEADED.finditer(text))
        return text[ends[0].end() :].strip() if len(ends) == 1 else None
    while token := _STOP_TOKEN.search(text.rstrip()):
        text = text[: token.start()].rstrip()
    tags = [(kind, match) for match in _TAG.finditer(text) if (kind := _kind(match)) != "type"]
    return _outside(text, tags) if tags else text


def _outside(text, tags):
    """The answer in a text that has these tags, (kind, match) each."""
    unended, answers, outside, unknown, in_answer, at = set(), [], [], False, False, 0
    for kind, match in [*tags, ("end", None)]:
        if not unended:
            piece = text[at : match.start() if match else len(text)]
            (answers if in_answer else outside).append(piece.strip())
        if kind == "end":
            break
        at, name, closing = match.end(), _canonical(match), _is_closing(match)
        if kind == "thoughts" and match["alone"]:
            outside.append("") if not in_answer else None
        elif kind == "thoughts" and not closing:
            unended.add(name)
        elif kind == "thoughts" and name in unended:
            unended.remove(name)
        elif kind == "thoughts":  # opened by the template: everything so far was thoughts
            answers, outside, unknown, in_answer = [], [], False, False
        elif not unended and kind == "answer":
            in_answer = not closing
        elif not unended:
            unknown = True
    if unended or unknown:
        return None
    answers, said = [piece for piece in answers if piece], [piece for piece in outside if piece]
    if answers:
        return answers[0] if len(answers) == 1 else None
    return "" if not said else said[0] if len(said) == 1 and outside[-1] else None


def _kind(match):
    """What a tag marks: "thoughts", "answer", "type" (also brackets that are no tag) or "unknown"."""
    parts = _parts(match)
    if match["name2"]:  # "[Rec]", "[Reason: both are about war]", "The Final [Solution]" are no tags
        words = all(_THOUGHT.match(part) or _ANSWER.match(part) or _EDGE.match(part) for part in parts)
        if not words or (match["first"] is None and not _is_closing(match)):
            return "type"
    if any(_THOUGHT.match(part) for part in parts):
        return "thoughts"
    if any(_ANSWER.match(part) for part in parts):
        return "answer"
    is_markup = match["angle"] and (match["bar"] or match["slash"] or match["angle"] == "◁")
    return "unknown" if is_markup and not _TYPE.match("".join(parts)) else "type"


def _parts(match):
    name = match["name2"] or match["name"]
    rest = (match["rest"] or "").strip()
    if match["bar"] or match["angle"] == "◁" or not re.search(r"\W", rest):
        name = f"{name} {rest}"  # `<|inner prefix|>`; attributes are no part of a name
    return [part for part in re.split(r"[\W_▁]+", name.casefold()) if part]


def _canonical(match):
    """The name without what says which end it marks: that of `end_of_thought` is `thought`."""
    return " ".join(part for part in _parts(match) if not _EDGE.match(part))


def _is_closing(match):
    return bool(match["slash"] or match["slash2"] or any(_CLOSING.match(part) for part in _parts(match)))
