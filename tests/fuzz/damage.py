"""What the fuzz tests share: damage to files, and the one line in which it must be told."""

from hypothesis import strategies as st

from tlrec.errors import InputError


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
        st.sampled_from([b'"', b"\n", b"\r", b"\0", b",", b"{", b"\xff", b"\xe2\x80\xa8", b"9" * 5000, b"null", b"NaN"]),
    )
    one = st.tuples(st.integers(0, 10**6), new, st.one_of(st.integers(0, 8), st.just(10**9)))

    def apply(changes):
        def damage(content):
            for change in changes:
                content = _replace(content, *change)
            return content

        return damage

    return st.lists(one, min_size=1, max_size=3).map(apply)
