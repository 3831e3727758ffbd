"""The items in the text of a record's `input`: liked, disliked, target. Parsed from the text and written back to it."""

import re
from dataclasses import dataclass

import numpy as np

from tlrec.data.records import ASKS, LABELS, read_records
from tlrec.errors import InputError


@dataclass(frozen=True)
class Item:
    """A film, book or other thing. `creator` is the author of a book and empty for a film."""

    title: str
    creator: str = ""

    def __str__(self):
        return f'"{self.title}" written by {self.creator}' if self.creator else f'"{self.title}"'


@dataclass(frozen=True)
class Preference:
    """The content of a record's `input`: liked and disliked history, each in time order, and the target."""

    likes: tuple[Item, ...]
    dislikes: tuple[Item, ...]
    target: Item
    kind: str  # "movie", "book", ...

    @property
    def history(self):
        """All history items, liked ones first (the record does not say how the two lists mix in time)."""
        return self.likes + self.dislikes


_INPUT = re.compile(
    r"User Preference: ?(?P<likes>.*)\n"
    r"User Unpreference: ?(?P<dislikes>.*)\n"
    r"Whether the user will like the target (?P<kind>\w+) ?(?P<target>.*)\?\s*",
    re.DOTALL,
)
_WRITTEN_BY = re.compile(r'"\s*written by ?')


def parse_input(text):
    """Parse the `input` of a record into a Preference; raise ValueError if it has another form.

    Titles may contain quotes, commas and the words of the frame. An item ends where `, "` begins the next one; in a
    list of books an item is complete only once it has its `written by`, and text without any belongs to the author
    before it.
    """
    match = _match(text)
    target = match["target"].strip()
    if _is_quoted(target):
        target = target[1:-1]
    likes, dislikes = (tuple(map(parse_item, _split_items(match[name]))) for name in ("likes", "dislikes"))
    return Preference(likes, dislikes, parse_item(target), match["kind"])


def _match(text):
    """The parts of an `input`; ValueError if it has another form."""
    match = _INPUT.fullmatch(text)
    if match is None:
        raise ValueError(
            "expected 'User Preference: ...', 'User Unpreference: ...' and "
            "'Whether the user will like the target ...?' on three lines"
        )
    return match


def build_input(preference, quoted_target=False):
    """The inverse of `parse_input`. `quoted_target` adds the second pair of quotes of published book targets."""
    target = f'"{preference.target}"' if quoted_target else str(preference.target)
    return (
        f"User Preference: {', '.join(map(str, preference.likes))}\n"
        f"User Unpreference: {', '.join(map(str, preference.dislikes))}\n"
        f"Whether the user will like the target {preference.kind} {target}?"
    )


def build_record(preference, liked, quoted_target=False):
    """A labelled record in the published wording."""
    return {
        "instruction": (
            "Given the user's preference and unpreference, identify whether the user will like the target "
            f'{preference.kind} by answering "Yes." or "No.".'
        ),
        "input": build_input(preference, quoted_target),
        "output": "Yes." if liked else "No.",
    }


def with_targets(record, items):
    """The record once for each item, with the item as its target. All else is kept: the wording, the history, the
    doubled quotes around a book; and the whole record if the item is already its target.

    Raises ValueError if the input has another form.
    """
    target = parse_input(record["input"]).target
    start, end = _INPUT.fullmatch(record["input"]).span("target")
    before, own, behind = record["input"][:start], record["input"][start:end], record["input"][end:]
    quote = '"' if _is_quoted(own.strip()) else ""
    space = "" if before.endswith(" ") else " "
    return [
        record if item == target else record | {"input": f"{before}{space}{quote}{item}{quote}{behind}"}
        for item in items
    ]


def without_item(record, place):
    """The record without the item at `place` of its history, liked ones first as in `Preference.history`; all else is
    kept.

    Raises ValueError if the input has another form.
    """
    match = _match(record["input"])
    likes, dislikes = _split_items(match["likes"]), _split_items(match["dislikes"])
    name, items, place = ("likes", likes, place) if place < len(likes) else ("dislikes", dislikes, place - len(likes))
    start, end = match.span(name)
    kept = ", ".join(items[:place] + items[place + 1 :])
    return record | {"input": record["input"][:start] + kept + record["input"][end:]}


def in_another_order(record, *seed):
    """The record with its liked and disliked items in an order drawn from `seed` (whole numbers), each list by itself; all
    else is kept. The question does not depend on the order, a model's answer may.

    A list that would be read as other items in that order, because a name looks like a separator, stays as it is. Raises
    ValueError if the input has another form.
    """
    match, text, rng = _match(record["input"]), record["input"], np.random.default_rng(seed)
    for name in ("dislikes", "likes"):  # from the end, so that the places of the other list stay right
        items = _split_items(match[name])
        shuffled = [items[place] for place in rng.permutation(len(items))]
        if sorted(_split_items(", ".join(shuffled))) == sorted(items):
            start, end = match.span(name)
            text = text[:start] + ", ".join(shuffled) + text[end:]
    return record | {"input": text}


def ambiguous_names(preference):
    """Titles and creators that contain text which also separates items, so that the record can be read in another way.

    They have an odd number of quotes, or contain `, "` or `" written by` (the quote before a title counts): they may
    have been cut in the wrong place. So may a book with quotes at both ends as the target.
    """
    items, target = (*preference.history, preference.target), preference.target
    names = [(name, before + name) for item in items for before, name in (('"', item.title), ("", item.creator))]
    found = [name for name, written in names if name.count('"') % 2 or ', "' in name or _WRITTEN_BY.search(written)]
    if target.title.startswith('"') and target.creator.endswith('"') and target.title not in found:
        found.append(target.title)
    return found


def _is_quoted(target):
    """Published book files quote the whole target once more."""
    return target.startswith('""') and target.endswith('"') and bool(_WRITTEN_BY.search(target))


def _split_items(text):
    """The texts of the items of a list; joined with ", " they give the text again."""
    text = text.strip()
    if not text:
        return []
    books = bool(_WRITTEN_BY.search(text))
    items, pending = [], ""
    for piece in re.split(r', (?=")', text):
        if books and items and not pending and items[-1][-1] in "'\"" and not _WRITTEN_BY.search(piece):
            items[-1] += f", {piece}"  # authors as Amazon's lists have them: Ann Author', "Tim O'Writer
            continue
        pending = f"{pending}, {piece}" if pending else piece
        if _WRITTEN_BY.search(pending) if books else len(pending) > 1 and pending.endswith('"'):
            items.append(pending)
            pending = ""
    if pending and books and items:
        items[-1] += f", {pending}"
    elif pending:
        raise ValueError(f"an item without its closing quote or 'written by': {_shown(pending)}")
    return items


def parse_item(text):
    """The Item of `"Title"` or `"Title" written by Author`; ValueError for a text of another form."""
    if len(text) < 2 or not text.startswith('"'):
        raise ValueError(f"an item must begin with a quote: {_shown(text)}")
    by = _WRITTEN_BY.search(text, 1)
    if by:
        return Item(text[1 : by.start()], text[by.end() :])
    if not text.endswith('"'):
        raise ValueError(f"an item without its closing quote: {_shown(text)}")
    return Item(text[1:-1])


def _shown(text):
    """The beginning of a text in one line."""
    return " ".join(text[:80].split())


def read_checked(path):
    """The records of a file and their Preferences, or None for instruction records, whose answers are free text.

    A file in which one record asks for "Yes." or "No.", or all have such an answer, must have no other answers. Raises
    InputError, naming file and row.
    """
    records = read_records(path, labelled=False)
    if not any(ASKS in record["instruction"] for record in records):
        if not all(record["output"] in LABELS for record in records):
            return records, None
    records, preferences = read_records(path), []
    for number, record in enumerate(records, start=1):
        try:
            preferences.append(parse_input(record["input"]))
        except ValueError as error:
            raise InputError(f"{path}: row {number}: 'input' does not parse: {error}") from None
    return records, preferences
