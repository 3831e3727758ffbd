"""A record file read as a stream: the values of a JSON array one after the other, whatever the file's size.

Each value comes with the bytes where it begins and ends, so that it can be read again alone. Errors have the wording of
`json.load`, where it has one.
"""

import codecs
import hashlib
import json
import re
import sys

from tlrec.errors import InputError

BLOCK = 1 << 20  # bytes read at once
LONGEST_TOKEN = 16  # characters; this near to the end of the held text, more may change the meaning: fal, 1., \ud83c\u
_scan = json.JSONDecoder().scan_once  # what json.load itself calls: (text, position) -> (value, end)
_WHITE_SPACE = re.compile(r"[ \t\n\r]*")


class RecordStream:
    """Iterates once over (value, start, end) of the JSON array in the file `path`; offsets in bytes, end exclusive.

    Raises InputError, naming the file, if it cannot be read or is not a JSON array. That may show only at its end, so
    do not use the values before. Afterwards `sha256` is the hexadecimal digest of the whole file.
    """

    def __init__(self, path):
        self.path = path
        try:
            self.file = open(path, "rb", buffering=0)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._digest = hashlib.sha256()
        self._text, self._at = "", 0  # the text that is held of the file, and the current position in it
        self._counted, self._bytes = 0, 0  # a position in the text, and how many bytes of the file are before it
        self._before = (0, 0, 0)  # lines, characters of the last line, and all characters before the held text

    @property
    def sha256(self):
        return self._digest.hexdigest()

    def __iter__(self):
        sign = self._next_sign()
        if self._text.startswith("\ufeff"):
            raise self._not_json("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0)
        if sign != "[":
            value, _, _ = self._value()
            self._end()
            raise InputError(f"{self.path}: a record file is a JSON array, this is a JSON {type(value).__name__}")
        self._at += 1
        if self._next_sign() != "]":
            yield self._value()
            while (sign := self._next_sign()) == ",":
                self._at += 1
                self._next_sign()
                yield self._value()
            if sign != "]":
                raise self._not_json("Expecting ',' delimiter", self._at)
        self._at += 1
        self._end()

    def _value(self):
        """The value that begins here, with its offsets."""
        while True:
            start = self._at
            try:
                value, end = _scan(self._text, start)
            except StopIteration as stop:
                message, position = "Expecting value", stop.value
            except json.JSONDecodeError as error:
                message, position = error.msg, error.pos
            except ValueError:  # Python limits the length of integers
                raise self._not_json(f"A number of more than {sys.get_int_max_str_digits()} digits", start) from None
            except RecursionError:
                raise self._not_json("Nested too deeply", start) from None
            else:
                if end > len(self._text) - LONGEST_TOKEN and self._more():  # a number might go on
                    continue
                self._at = end
                return value, self._offset(start), self._offset(end)
            cut_off = message.startswith("Unterminated string") or position > len(self._text) - LONGEST_TOKEN
            if not (cut_off and self._more()):
                raise self._not_json(message, position)

    def _next_sign(self):
        """Go to the next character that is not white space and return it; "" at the end of the file."""
        while True:
            self._at = _WHITE_SPACE.match(self._text, self._at).end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _end(self):
        if self._next_sign():
            raise self._not_json("Extra data", self._at)

    def _more(self):
        """Drop the text up to here and hold another block, at least doubling the rest; False at the end of the file."""
        try:
            block = self.file.read(max(BLOCK, len(self._text) - self._at))
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: cannot be read: {self._not_utf8(error)}") from None
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error}") from None
        if not block:
            return False
        self._digest.update(block)
        self._offset(self._at)
        self._before = self._place(self._at)
        self._text, self._at, self._counted = self._text[self._at :] + text, 0, 0
        return True

    def _offset(self, position):
        """Byte of the file at a position in the text, which must not be before that of the last call."""
        new = self._text[self._counted : position]
        self._bytes += len(new) if new.isascii() else len(new.encode())
        self._counted = position
        return self._bytes

    def _place(self, position):
        """Lines, characters of the last line, and all characters of the file before a position in the text."""
        lines, last_line, chars = self._before
        new = self._text[:position]
        breaks = new.count("\n")
        last_line = position - new.rindex("\n") - 1 if breaks else last_line + position
        return lines + breaks, last_line, chars + position

    def _not_json(self, message, position):
        lines, last_line, chars = self._place(position)
        return InputError(f"{self.path}: not JSON: {message}: line {lines + 1} column {last_line + 1} (char {chars})")

    def _not_utf8(self, error):
        """The message of a UnicodeDecodeError, counted from the beginning of the file."""
        first, last = (self.file.tell() - len(error.object) + place for place in (error.start, error.end - 1))
        where = f"bytes in position {first}-{last}"
        if first == last:
            where = f"byte 0x{error.object[error.start]:02x} in position {first}"
        return f"'utf-8' codec can't decode {where}: {error.reason}"
