"""What the fuzz tests share: any JSON, damage to files, and the one line in which it must be told."""

import json

from hypothesis import strategies as st

from tlrec.errors import InputError

texts = st.one_of(st.text(), st.text(st.characters(codec=None), max_size=5), st.sampled_from(["Yes.", "No.", "\ud83c"]))


class Digits(int):
    """A whole number of so many digits, which json.dumps would refuse as json.loads does."""


numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([4300, 5000]).map(Digits))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def as_json(value):
    """JSON text of a value."""
    if isinstance(value, Digits):
        return "9" * value
    if isinstance(value, list):
        return "[" + ", ".join(map(as_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {as_json(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def said(path, call):
    """(result, None), or (None, the message) of an InputError, which must be one line that begins with the file."""
    try:
        return call(), None
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1 and message.startswith(f"{path}"), message
    return None, message


def _replace(content, place, new, length):
    place %= len(content) + 1
    return content[:place] + new + content[place + length :]


def damaged():
    """A strategy of functions bytes -> bytes: a cut, bytes put in, taken out or changed, up to three times."""
    new = st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [b'"', b"\n", b"\r", b"\0", b",", b"{", b"\xff", b"\xe2\x80\xa8", b"9" * 5000, b"null", b"NaN"]
        ),
    )
    one = st.tuples(st.integers(0, 10**6), new, st.one_of(st.integers(0, 8), st.just(10**9)))

    def apply(changes):
        def damage(content):
            for change in changes:
                content = _replace(content, *change)
            return content

        return damage

    return st.lists(one, min_size=1, max_size=3).map(apply)
