"""Answers of a chat model, whatever they say.

1. Any text: recommendations and lists name titles that were listed, or nothing; never a stack trace.
2. Titles that can be told apart, written as the prompt asks for, are read back as they are, and the hit is the target.
3. Whatever a model thinks in tags before its answer, the answer is what follows; any text has an answer, "" or none.
"""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tlrec.cot.answers import Titles, is_hit, parse_list, parse_recommendations
from tlrec.cot.thoughts import answer_in

pytestmark = pytest.mark.slow

SIGNS = [
    "1. ",
    "2) ",
    "- ",
    " - ",
    "\n",
    "\u2028",
    '"',
    "**",
    "(1999)",
    " by ",
    " written by ",
    ", The",
    ":",
    "|",
    "->",
]
pieces = st.lists(st.one_of(st.sampled_from(SIGNS), st.text(max_size=6)), max_size=12).map("".join)
plain_words = st.text("abcdefghijklmnopqrstuvwxyzäéß卧虎", min_size=1, max_size=8)
plain_titles = st.builds(
    lambda words, year: " ".join(words) + (f" ({year})" if year else ""),
    st.lists(plain_words, min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(1900, 2030)),
)
titles = st.one_of(plain_titles, pieces)
tags = st.sampled_from(
    ["<think>", "</think>", "[THINK]", "<|channel|>", "final", "<|message|>", "<answer>", "</x>", "```"]
)
marked = st.lists(st.one_of(tags, st.text(max_size=6)), max_size=12).map("".join)


@given(st.lists(titles, max_size=5), st.lists(titles, max_size=5), st.data())
def test_any_text_names_listed_titles_or_nothing(history, candidates, data):
    part = st.one_of(pieces, st.sampled_from([*history, *candidates, ""]))
    answer = "".join(data.draw(st.lists(part, max_size=12)))
    for each in parse_recommendations(answer, history, candidates):
        assert each.liked is None or each.liked in history
        assert each.candidate is None or each.candidate in candidates
    assert all(title is None or title in history for title in parse_list(answer, history))
    assert all(is_hit(answer, history, candidates, title) in (True, False) for title in candidates)


@given(st.lists(plain_titles, min_size=2, max_size=8, unique=True), st.data())
def test_what_was_asked_for_is_read_back(listed, data):
    known = Titles(listed)
    assume(all(known.find(title) == title for title in listed))  # no two of them are one title to a reader
    cut = data.draw(st.integers(1, len(listed) - 1))
    history, candidates = listed[:cut], listed[cut:]
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(history), st.sampled_from(candidates)), min_size=1, max_size=10)
    )
    answer = "\n".join(f"{number}. {liked} - {candidate}" for number, (liked, candidate) in enumerate(pairs, start=1))
    found = parse_recommendations(answer, history, candidates)
    assert [(each.liked, each.candidate) for each in found] == pairs
    named = {candidate for _, candidate in pairs}
    assert all(is_hit(answer, history, candidates, candidate) == (candidate in named) for candidate in candidates)
    asked_for = "\n".join(f"{number}. {title}" for number, title in enumerate(history, start=1))
    assert parse_list(asked_for, history) == history


@given(marked, st.lists(plain_titles, min_size=1, max_size=5))
def test_what_follows_the_thoughts_is_the_answer(thoughts, listed):
    assert isinstance(answer_in(thoughts), str | None)
    answer = "\n".join(f"{number}. {title}" for number, title in enumerate(listed, start=1))
    assert answer_in(answer) == answer
    plain = thoughts.replace("<", "").replace("[", "").replace("`", "")
    assert answer_in(f"<think>{plain}</think>\n{answer}") == answer_in(f"{plain} </think> {answer}") == answer
