"""The text of a record's `input`, written and parsed, for any titles and any text.

1. Names that `ambiguous_names` passes come back as they went in: parsed they are the same items, written again the same
   text.
2. All other names, as long as they hold no line break and no white space but single spaces between words: the text is
   refused, or it is written again with all its words. Only what counts as a mark between items may change: spaces around
   `written by`, the mark itself where no author follows, and the second pair of quotes around the target.
3. Any text at all, and any damaged one, is parsed, or refused by a ValueError of one line.

Items are all films or all books: the format cannot tell a film in a list of books from a book's long list of authors.
"""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tlrec.data.preferences import Item, Preference, ambiguous_names, build_input, parse_input

pytestmark = pytest.mark.slow

FRAME = ("User Preference: ", "\nUser Unpreference: ", "\nWhether the user will like the target movie ")
MARKS = ('"', '""', ", ", ', "', '" written by ', '"written by', "written by", "'", "', \"", "?", ".", ",", "\\", " ")
WORDS = ("Yes", "No", "A", "b", "é", "卧虎", "Ã©", "(1999)", "User Unpreference: ", "target movie")


def one_line(text):
    return " ".join(text.split())


names = (
    st.one_of(st.lists(st.sampled_from(MARKS + WORDS), min_size=1, max_size=6).map("".join), st.text(max_size=12))
    .map(one_line)
    .filter(bool)
)
films = st.builds(Item, names)
books = st.builds(Item, names, names)


def preferences_of(items):
    history = st.lists(items, max_size=4).map(tuple)
    return st.builds(Preference, history, history, items, st.sampled_from(["movie", "book", "game"]))


preferences = st.one_of(preferences_of(films), preferences_of(books))


def parsed(text):
    """The Preference of a text, or None; whatever is refused is refused in one line."""
    try:
        return parse_input(text)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and type(error) is ValueError
        return None


def bare(text):
    """A text without white space and without the mark before an author."""
    return re.sub(r"\s", "", text).replace('"writtenby', '"')


@given(preferences, st.booleans())
def test_names_that_are_not_ambiguous_come_back(preference, quoted):
    assume(not ambiguous_names(preference))
    quoted = quoted and bool(preference.target.creator)
    text = build_input(preference, quoted)
    assert parse_input(text) == preference
    assert build_input(parse_input(text), quoted) == text


@given(preferences, st.booleans())
def test_any_names_are_refused_or_written_again_with_all_words(preference, quoted):
    text = build_input(preference, quoted and bool(preference.target.creator))
    if again := parsed(text):
        assert bare(text) in (bare(build_input(again)), bare(build_input(again, quoted_target=True)))


damaged = st.builds(
    lambda text, place, new: text[: place % len(text)] + new + text[place % len(text) + 1 :],
    preferences.map(build_input),
    st.integers(0),
    st.sampled_from(["", "\n", "\x00", "?", '"', "\u2028", " written by "]),
)


@given(st.one_of(st.text(), st.lists(st.sampled_from(FRAME + MARKS + WORDS), max_size=25).map("".join), damaged))
def test_any_text_is_parsed_or_refused_in_one_line(text):
    if preference := parsed(text):
        parsed(build_input(preference))
        ambiguous_names(preference)
