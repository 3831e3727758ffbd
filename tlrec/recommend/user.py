"""Who a list is for: a history, from titles that are typed or from a row of a record file."""

import re
import sys
from dataclasses import dataclass

from tlrec.data.catalogue import typed_item
from tlrec.data.preferences import Preference, build_record, parse_input, without_item
from tlrec.data.records import read_records
from tlrec.errors import InputError
from tlrec.files import printable


@dataclass
class User:
    """record: the history as it goes into the prompts; preference: the same as items; without: for each item of
    `preference.history` the record without it."""

    record: dict
    preference: Preference
    without: list[dict]


def read_row(path, row, catalogue):
    """The User of a row, counted from 1, of a record file."""
    records = read_records(path, labelled=False)
    if not 1 <= row <= len(records):
        raise InputError(f"--row {row}: {path} has rows 1 to {len(records)}")
    record = records[row - 1]
    try:
        preference = parse_input(record["input"])
    except ValueError as error:
        raise InputError(f"{path}: row {row}: 'input' does not parse: {error}") from None
    history = preference.history
    if unknown := [str(item) for item in history if not catalogue.find(item)]:
        listed = printable(", ".join(unknown))
        print(f"{len(unknown)} of {len(history)} history items are not in the catalogue: {listed}")
    return User(record, preference, [without_item(record, place) for place in range(len(history))])


def read_titles(args, catalogue):
    """The User of --liked and --disliked, with a record in the published wording."""
    lists = [
        tuple(item_meant(flag, text, catalogue, args.as_written) for text in texts)
        for flag, texts in (("--liked", args.liked), ("--disliked", args.disliked))
    ]
    history = [item for items in lists for item in items]
    if repeated := [item for item in dict.fromkeys(history) if history.count(item) > 1]:
        raise InputError(f"{printable(str(repeated[0]))}: given twice as liked or disliked; give each title once")
    if not args.kind and len(catalogue.kinds) > 1:
        raise InputError(f"{catalogue.path}: items of several kinds ({', '.join(catalogue.kinds)}); give --kind")
    kind = args.kind or (catalogue.kinds or ["movie"])[0]
    if not re.fullmatch(r"\w+", kind):
        raise InputError(f"{'--kind' if args.kind else catalogue.path}: kind {kind!r} is not a word such as 'movie'")
    target = catalogue.items[0]  # a placeholder: each candidate takes its place

    def record(likes, dislikes):
        quoted = kind == "book" and bool(target.creator)  # as in the published records of Book
        return build_record(Preference(likes, dislikes, target, kind), liked=True, quoted_target=quoted)

    likes, dislikes = lists
    without = [record(likes[:k] + likes[k + 1 :], dislikes) for k in range(len(likes))]
    without += [record(likes, dislikes[:k] + dislikes[k + 1 :]) for k in range(len(dislikes))]
    return User(record(likes, dislikes), Preference(likes, dislikes, target, kind), without)


def item_meant(flag, text, catalogue, as_written):
    """The item of the catalogue that a title means, or the title as it is if no item is near. If several are near, the
    user is asked on a terminal; without a terminal, an InputError lists them."""
    shown = f"{flag} {printable(text)!r}"
    item = typed_item(text, shown)
    found = catalogue.find(item)
    if len(found) == 1:
        return catalogue.items[found[0]]
    near = [catalogue.items[place] for place in found or ([] if as_written else catalogue.nearest(item))]
    if not near:
        print(f"{shown}: not in the catalogue; taken as it is")
        return item
    problem = "the title of several items" if found else "not in the catalogue"
    if sys.stdin.isatty() and sys.stderr.isatty():
        return ask(f"{shown}: {problem}. The nearest:", near, item)
    listed = printable("; ".join(map(str, near)))
    how = "" if found else ", or --as_written"
    raise InputError(f"{shown}: {problem} {catalogue.path}; the nearest: {listed}; give one of these{how}")


def ask(question, choices, item):
    """One of the `choices`, or `item`, as typed on the terminal."""
    lines = [f"  {number}  {printable(str(choice))}" for number, choice in enumerate(choices, start=1)]
    print(question, *lines, "  0  none of them: take the title as it is", sep="\n", file=sys.stderr)
    while True:
        print(f"which one, 0 to {len(choices)}? [1] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            raise InputError("no answer")
        answer = answer.strip() or "1"
        if answer.isdecimal() and int(answer) <= len(choices):
            return (item, *choices)[int(answer)]
