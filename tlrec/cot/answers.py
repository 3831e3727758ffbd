"""Recommendations in a chat answer: which of the candidates does each line name?

The prompt asks for lines of the form `no. history item - candidate`. Models number them in many ways, add quotes, bold
or arrows, drop years and authors, or repair broken letters. A title counts as a whole, never as part of another: `It`
is not in `It Happened One Night`, and `Heat (1986)` is not `Heat (1995)`.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

ASKED_FOR = 10  # recommendations
FEATURED = 5  # history items that step 2 asks for at most
_NUMBER = re.compile(
    r"^[\s>*_`|]*(?:no\.?\s*)?(?:\(?(?P<number>\d{1,3})\s*[.):\]、|]+|#\s*\d{1,3}[.):]?\s)[\s*_`]*", re.IGNORECASE
)
_BULLET = re.compile(r"^[\s>]*[-•·*–—]\s+")
_SEPARATOR = re.compile(
    r"\s*(?:-+>|=+>|→|⇒|➔|➜|—|–)\s*"  # arrows and long dashes
    r"|\s+[-|~]+\s+"  # dashes between spaces
    r"|(?<=[\"'”’*)\]])\s*-\s*|\s*-\s*(?=[\"'“‘*])"  # and beside quotes
    r"|(?P<colon>\s*:\s+)"
)
_YEAR = re.compile(r"[(\[]\s*(\d{4})\s*[)\]]\s*$")
_AUTHOR = re.compile(r"\s*,?\s*\b(?:written by|by)\s+", re.IGNORECASE)
_CLOSING = "\"'”’»)]*"  # a remark may follow a title only after one of these
_WRAPPING = " \t\"'`*_“”„‟‘’‚«»‹›「」『』《》〈〉"
_ARTICLE = re.compile(r"^(.*), (the|an?|les?|la|l'|der|die|das|el|los|las|il)$")


@dataclass(frozen=True)
class Recommendation:
    """One line of an answer; `liked` and `candidate` are None if no history item or no candidate is named."""

    liked: str | None
    candidate: str | None


def parse_recommendations(answer, history, candidates):
    """The recommendations of an answer in order, at most one a line.

    history, candidates: the titles that the prompt listed, as text (`Title (Year)` or `Title written by Author`).
    Only lines with a number or bullet count; if there are none, lines that name a candidate.
    """
    known, possible = Titles(history), Titles(candidates)
    lines, marked = _lines(answer)
    found = [_read_line(line, known, possible) for line in lines]
    return found if marked else [each for each in found if each.candidate]


def parse_list(answer, history):
    """The history items that a list names, in order; None for a line that names none."""
    known = Titles(history)
    return [known.find_at_start(line) for line in _lines(answer)[0]]


def is_hit(answer, history, candidates, target):
    """Whether one of the ten recommendations is the target."""
    return any(each.candidate == target for each in parse_recommendations(answer, history, candidates)[:ASKED_FOR])


class Titles:
    """Recognises titles of a list in a model's wording.

    A title may lack its year or author if only one title then fits. A year or author that is given must be the right
    one, unless the list gives none.
    """

    def __init__(self, titles):
        self._exact = {}
        self._by_name = {}
        for title in titles:
            name, year, author = _split(title)
            self._exact.setdefault(_letters(title), []).append(title)
            self._by_name.setdefault(_letters(name), []).append((title, year, _letters(author)))

    def find(self, text):
        """The title that a text names, or None."""
        text = text.strip(_WRAPPING + ".,;")
        exact = self._exact.get(_letters(text), [])
        if exact:
            return text if text in exact else exact[0] if len(set(exact)) == 1 else None
        for name, year, author in _readings(text):
            same = [
                title
                for title, its_year, its_author in self._by_name.get(name, ())
                if (not (year and its_year) or year == its_year) and _same_author(author, its_author)
            ]
            if len(set(same)) == 1:
                return same[0]
        return None

    def find_at_start(self, text):
        """The longest title that a text begins with, up to a separator, or None."""
        ends = [len(text), *(match.start() for match in reversed(list(_SEPARATOR.finditer(text))))]
        return next((title for end in ends if (title := self.find(text[:end]))), None)


def _read_line(line, known, possible):
    """The best reading of `history item - candidate [- remark]`: both named before one, longer candidates first."""
    line = line.strip(" |")
    cuts = [(0, 0, False), *((*match.span(), bool(match["colon"])) for match in _SEPARATOR.finditer(line))]
    ends = [end for end, _, _ in cuts[1:] if line[end - 1] in _CLOSING] + [len(line)]
    readings = []
    for left_end, start, colon in cuts:
        liked = known.find_at_start(line[:left_end])
        if colon and not known.find(line[:left_end]):
            continue  # a colon inside a title
        for end in ends:
            if end > start and (candidate := possible.find(line[start:end])):
                readings.append((liked is not None, end - start, Recommendation(liked, candidate)))
    if readings:
        return max(readings, key=lambda reading: reading[:2])[2]
    return Recommendation(known.find_at_start(line), None)


def _lines(answer):
    """(lines of an answer, whether they are marked). Those with a number or bullet, without it; all if none has one."""
    lines = [line for line in unicodedata.normalize("NFKC", answer).splitlines() if line.strip()]
    if len(lines) == 1 and _NUMBER.match(lines[0]):  # a list written on one line is split at its numbers
        pieces, rest, number = [], lines[0], 2
        while match := re.search(rf"[\s,;]+(?=\(?{number}\s*[.):\]、])", rest):
            pieces.append(rest[: match.start()])
            rest, number = rest[match.end() :], number + 1
        lines = [*pieces, rest]
    marked = [line[mark.end() :] for line in lines if (mark := _NUMBER.match(line) or _BULLET.match(line))]
    return marked or lines, bool(marked)


def _split(title):
    """(name, year, author) of a listed title; year and author may be empty."""
    name, _, author = title.rpartition(" written by ")
    name, author = (name, author) if name else (title, "")
    year = _YEAR.search(name)
    return (name[: year.start()], year[1], author) if year else (name, "", author)


def _readings(text):
    """All ways to read a text as (letters of the name, year, letters of the author)."""
    for name, author in [(text, ""), *((text[: m.start()], text[m.end() :]) for m in _AUTHOR.finditer(text))]:
        name = name.strip(_WRAPPING)
        year = _YEAR.search(name)
        if year:
            yield _letters(name[: year.start()]), year[1], _letters(author)
        yield _letters(name), "", _letters(author)


def _same_author(author, other):
    """Whether two authors may be the same: one is not given, or its words are among the other's."""
    words, other_words = set(author.split()), set(other.split())
    return words <= other_words or other_words <= words


@lru_cache(maxsize=100_000)
def _letters(text):
    """A text without what models often change: case, accents, punctuation, quotes, a final `, The`, broken letters."""
    text = _mend(text).strip(_WRAPPING).casefold()
    year = _YEAR.search(text)
    name, year = (text[: year.start()], f" {year[1]}") if year else (text, "")
    if match := _ARTICLE.match(name.strip(_WRAPPING)):
        name = f"{match[2]} {match[1]}"
    text = unicodedata.normalize("NFKD", (name + year).replace("&", " and "))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    words = re.sub(r"[^\w+#]+", " ", re.sub(r"['’`]", "", text)).replace("_", " ").split()
    return " ".join(words) or text.strip()


def _mend(text):
    """UTF-8 that was read as Latin-1 or Windows-1252 ("AmÃ©lie"), decoded correctly; other text unchanged."""
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text
