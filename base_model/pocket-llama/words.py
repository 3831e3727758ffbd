"""The words, names and titles in pocket-llama's training text (see `train.py`)."""

import tomllib
from pathlib import Path

LISTS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
COMMON_WORDS, PLAIN_WORDS, NAMES, SYLLABLES, ENDINGS = (
    LISTS[name].split() for name in ("common", "plain", "names", "syllables", "endings")
)
ODD_CHARACTERS = "éèêàâäöüßñçåøíóúáôîœ&'!?.,-:/+*#$%½’–日本語中文の한국Жи"
SUFFIXES = (
    "II;III;IV;Part 2;Part II;"
    "Vol. 1;No. 3;2;3;(Widescreen);(Special Edition);(Paperback);(Director's Cut);"
    ": A Novel;: The Movie;: Collector's Edition;(Book 2)"
).split(";")
LINKS = "of the;of;and;and the;in the;in;to;for the;with;from;on the;by the;at the;a".split(";")


def invented_word(rng):
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.integers(2, 4)))
    if rng.random() < 0.4:
        word += ENDINGS[rng.integers(len(ENDINGS))]
    if rng.random() < 0.06:
        place = rng.integers(1, len(word))
        word = word[:place] + ODD_CHARACTERS[rng.integers(len(ODD_CHARACTERS))] + word[place:]
    return word.upper() if rng.random() < 0.04 else word.capitalize()


def any_word(rng):
    return COMMON_WORDS[rng.integers(len(COMMON_WORDS))] if rng.random() < 0.75 else invented_word(rng)


def any_name(rng):
    first = COMMON_WORDS[rng.integers(len(COMMON_WORDS) - 150, len(COMMON_WORDS) - 60)] if rng.random() < 0.7 else None
    first = first or invented_word(rng)
    if rng.random() < 0.2:
        first += f" {chr(65 + rng.integers(26))}."
    return f"{first} {invented_word(rng) if rng.random() < 0.6 else any_word(rng)}"


def any_sentence(rng):
    """Random words with the looks of a sentence."""
    words = [PLAIN_WORDS[rng.integers(len(PLAIN_WORDS))] for _ in range(rng.integers(2, 15))]
    return " ".join([words[0].capitalize(), *words[1:]]) + ".,:?"[rng.choice(4, p=[0.6, 0.1, 0.2, 0.1])]


def any_title(rng, kind, word=None):
    """A title that looks real and has no theme; it contains `word`, if given."""
    words = [any_word(rng) for _ in range(rng.choice([1, 2, 3, 4, 5], p=[0.18, 0.34, 0.26, 0.14, 0.08]))]
    if word:
        words[rng.integers(len(words))] = word
    title = words[0]
    for following in words[1:]:
        title += (" " + LINKS[rng.integers(len(LINKS))] if rng.random() < 0.35 else "") + " " + following
    form = rng.random()
    if form < 0.12:
        title += f": {any_word(rng)} {any_word(rng)}"
    elif form < 0.25:
        title += f" {SUFFIXES[rng.integers(len(SUFFIXES))]}"
    article = rng.random()
    if article < 0.2:
        title = f"The {title}"
    elif article < 0.35:
        title = f"{title}, The"
    elif article < 0.4:
        title = f"{title}, A"
    if kind == "film" and rng.random() < 0.93:
        title += f" ({rng.integers(1920, 2150)})"
    return title
