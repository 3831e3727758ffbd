"""Removes keys and passwords from everything a service sends, in any spelling."""

import base64
import re
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "***"
PART = 8  # this many characters of a secret in a row are hidden
WORD = 16  # shorter parts of only letters may be words of an answer ("required")

# One character as JSON, Python, a URL or HTML may write it, escaped once or several times
_CHARACTER = re.compile(
    r"\\+u00(?P<u>[0-9a-f]{2})|\\+x(?P<x>[0-9a-f]{2})|%(?:25)*(?P<url>[0-9a-f]{2})"
    r"|&(?:amp;)*#x0*(?P<hex>[0-9a-f]{2});|&(?:amp;)*#0*(?P<dec>\d{2,3});"
    r"|&(?:amp;)*(?P<name>amp|quot|lt|gt|apos);|\\+(?P<plain>.?)|.",
    re.IGNORECASE | re.DOTALL,
)
_NAMES = {"amp": "&", "quot": '"', "lt": "<", "gt": ">", "apos": "'"}


class Secrets:
    """Texts that must be neither shown nor written."""

    def __init__(self, secrets):
        forms = [form for secret in secrets if secret for form in (secret, _base64(secret))]
        # A key that itself contains an escape ("%41") is searched for both as it is and decoded.
        forms = {"".join(_characters(form)[0]) for form in forms} | {_plain(form) for form in forms}
        self._plain = sorted(forms - {""}, key=lambda form: (-len(form), form))
        self._parts = {secret[at : at + PART] for secret in self._plain for at in range(len(secret) - PART + 1)}

    def hide(self, text):
        """A message with every secret, and every longer part of one, replaced by `***`."""
        return self._hide(text, in_message=True)

    def hide_in_data(self, text):
        """The same for a text that is kept as data. What may be a plain word stays, and so does a key of a few
        characters ("none", "EMPTY"), which is not a real secret."""
        return self._hide(text, in_message=False)

    def _hide(self, text, in_message):
        characters, starts = _characters(text)
        plain = "".join(characters)
        runs = []
        for at in range(len(plain) - PART + 1):
            if plain[at : at + PART] in self._parts:
                if runs and at <= runs[-1][1]:
                    runs[-1][1] = at + PART
                else:
                    runs.append([at, at + PART])
        if in_message:
            for secret in self._plain:
                runs += [[match.start(), match.end()] for match in re.finditer(re.escape(secret), plain)]
        else:
            runs = [[a, b] for a, b in runs if b - a >= WORD or not plain[a:b].isalpha()]
        pieces, end = [], 0
        for first, last in sorted(runs):
            if starts[first] >= end:
                pieces += [text[end : starts[first]], HIDDEN]
            end = max(end, starts[last])
        return "".join(pieces) + text[end:]


def secrets_of_url(url):
    """What to hide in an address: password or name, both as Basic authentication sends them, query values."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    userinfo = unquote(parts.netloc.rpartition("@")[0])
    name, _, password = userinfo.partition(":")
    query = [value for _, value in parse_qsl(parts.query) if len(value) >= PART]
    return [password or name, _base64(userinfo) if userinfo else "", *query]


def _characters(text):
    """(the characters a text stands for, in lower case; where each begins in the text, and where the last ends)."""
    if not re.search(r"[\\%&]", text):
        return _plain(text), range(len(text) + 1)
    characters, starts = [], []
    for match in _CHARACTER.finditer(text):
        code = match["u"] or match["x"] or match["url"] or match["hex"]
        if code or match["dec"]:
            character = chr(int(code, 16) if code else int(match["dec"]))
        elif match["name"]:
            character = _NAMES[match["name"].lower()]
        else:
            character = match[0] if match["plain"] is None else match["plain"]
        if character := _plain(character):
            characters.append(character)
            starts.append(match.start())
    return characters, [*starts, len(text)]


def _plain(text):
    """In lower case, one character for each, without backslashes, which may be repeated any number of times."""
    return "".join(character.lower()[:1] for character in text if character != "\\")


def _base64(text):
    return base64.b64encode(text.encode()).decode().rstrip("=")
