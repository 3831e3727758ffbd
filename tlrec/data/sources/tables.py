"""Raw files as tables of text: CSV and its kin by pyarrow, JSON lines, Parquet; and one-line errors that name the line.

Everything is read as text first, so that an id such as 0195153448 keeps its zeros and a time its digits. A DataFrame's
index holds line numbers of the file, counted from 1 (rows, for Parquet and JSON). A row whose quoted fields contain line
breaks counts as one line. Users and items are categories, so that tens of millions of rows fit into memory.
"""

import csv
import io
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from tlrec.data.records import json_values
from tlrec.errors import InputError, first_line
from tlrec.files import opened, read_bytes

CATEGORIES = ("user", "item", "rating")
MEND = "; mend or remove such lines"
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # how a file in UTF-16 begins
_SEPARATORS = ",\t;|"


def top_line(path):
    """The first line of a file as text, without BOM and line break."""
    with opened(path) as file:
        start = file.read(1 << 16)
    encoding = "utf-16" if start[:2] in UTF16 else "utf-8"
    return re.split(r"[\r\n]", start.decode(encoding, errors="replace").lstrip("\ufeff"), maxsplit=1)[0]


def read_text(path):
    """The text of a file in UTF-8, or in Latin-1 if it is no UTF-8."""
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def is_json(path):
    return top_line(path).lstrip().startswith(("{", "["))


def columns_of(path):
    """(names of the columns, separator) of a table; the separator of JSON lines and Parquet is None."""
    if Path(path).suffix == ".parquet":
        with _one_line_of_parquet(path):
            return pyarrow.parquet.read_schema(path).names, None
    if is_json(path):
        row = next(json_values(path), None)
        if not isinstance(row, dict):
            raise InputError(f"{path}: expected JSON objects, one for each row")
        return list(row), None
    line = top_line(path)
    if not line.strip():
        raise InputError(f"{path}: line 1 is empty")
    separator = max(_SEPARATORS, key=line.count)
    return _fields_of(line, separator, quotes=True), separator


@contextmanager
def _one_line_of_parquet(path):
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except pa.ArrowNotImplementedError as error:  # such as a column of lists
        raise InputError(f"{path}: {first_line(error)}; write all columns as text or numbers") from None
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a Parquet file: {first_line(error)}") from None


def read_columns(path, columns, separator):
    """The `columns`, {name: name in the file}, of a table with a header, of JSON lines or of Parquet, as text."""
    once = {column: name for name, column in columns.items()}
    if len(once) < len(columns):  # one column under two names, such as titles that are the ids too
        table = read_columns(path, {name: column for column, name in once.items()}, separator)
        return _categories(table[[once[column] for column in columns.values()]].set_axis(list(columns), axis=1))
    if Path(path).suffix == ".parquet":
        with _one_line_of_parquet(path):
            found = pyarrow.parquet.read_table(path, columns=list(columns.values()))
            texts = [pa.compute.fill_null(found[column].cast(pa.string()), "") for column in columns.values()]
            found = pa.table(texts, names=list(columns))
            found.validate(full=True)  # that texts are UTF-8
            table = found.to_pandas()
        table.index += 1
        return _categories(table)
    if separator is None:
        return read_objects(path, columns)
    return read_delimited(path, columns, separator)


def read_objects(path, fields, known=None, source=None):
    """A table from JSON lines. fields: {name: key of a row, or function of it}; what is None becomes "". known: (name, texts):
    only rows with one of these texts are kept, so that a large table of items is not held in memory."""
    rows, lines = [], []
    for number, row in enumerate(source or json_values(path, numbers=str), start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}: row {number}: expected a JSON object, found a {type(row).__name__}")
        values = {name: field(row) if callable(field) else row.get(field) for name, field in fields.items()}
        if known is None or values[known[0]] in known[1]:
            rows.append(["" if value is None else str(value) for value in values.values()])
            lines.append(number)
    if not lines:
        raise InputError(f"{path}: has no rows" + (f" about the {known[0]}s that are rated" if known else ""))
    return _categories(pd.DataFrame(rows, columns=list(fields), index=lines, dtype="str"))


def _categories(table):
    for name in table.columns.intersection(CATEGORIES):
        table[name] = table[name].astype("category")
    return table


def read_delimited(path, columns, separator=",", header=True, latin=False, quotes=True, skipped=None):
    """A delimited file as a DataFrame of text; empty lines are left out.

    columns: {name: name in the header}; without a header, the names of the first fields, in order. The separator "::" is
    allowed. latin: what turns out to be no UTF-8 is Latin-1. Empty fields at the end of a line are dropped if the header has
    none. Other lines of another length are counted in `skipped`, or, without it, are an InputError; so are a missing column,
    another encoding, a quote that is never closed, and a file without rows.
    """
    found = _fields_of(top_line(path), separator, quotes)
    if not any(found):
        raise InputError(f"{path}: line 1 is empty")
    if missing := [column for column in columns.values() if header and column not in found]:
        shown = ", ".join(map(repr, found))
        raise InputError(f"{path}: line 1: no column {missing[0]!r}; found {shown} when split at {separator!r}")
    if len(found) < len(columns):
        raise InputError(
            f"{path}: line 1: expected {', '.join(columns)} and {separator!r} between them, found {len(found)} field(s)"
        )
    places = {name: found.index(columns[name]) if header else place for place, name in enumerate(columns)}
    table, odd = read_lines(path, len(found), places, separator, header, latin, quotes)
    mended, malformed = {}, 0
    for line, text in sorted(odd.items()):
        fields = _fields_of(text, separator, quotes)
        if len(fields) > len(found) and not any(fields[len(found) :]):
            mended[line] = [fields[place] for place in places.values()]
        elif any(fields):
            malformed += 1
            if skipped is None:
                unclosed = quotes and text.count('"') % 2
                what = f"expected {len(found)} fields, found {len(fields)}"
                raise InputError(
                    f"{path}: line {line}: {'a quote is opened and never closed' if unclosed else what}{MEND}"
                )
    if skipped is not None:
        skipped[f"malformed lines of {Path(path).name}"] = malformed
    if mended:
        more = pd.DataFrame(mended.values(), columns=list(places), index=list(mended), dtype="str")
        table = _categories(pd.concat([table.astype("str"), more]).sort_index())
    empty = (table == "").all(axis=1)
    table = table[~empty] if empty.any() else table
    if table.empty:
        raise InputError(f"{path}: a header, but no rows" if header else f"{path}: has no rows")
    return table


def read_lines(path, width, places, separator=",", header=False, latin=False, quotes=False):
    """(DataFrame of the fields at `places`, {name: place}, of the lines with `width` fields; {line: text} of all others).
    For the other arguments see `read_delimited`."""
    odd, wanted = {}, {str(place): name for name, place in places.items()}
    types = {False: pa.string(), True: pa.dictionary(pa.int32(), pa.string())}
    mark = separator if len(separator) == 1 else "\x1f"

    def invalid(row):
        odd[row.number] = row.text.replace(mark, separator)
        return "skip"

    with opened(path) as file:
        if latin:
            file = io.BufferedReader(io.BytesIO(read_text(path).replace(separator, mark).encode()))
        try:
            table = pa.csv.read_csv(
                file,
                pa.csv.ReadOptions(
                    column_names=list(map(str, range(width))),
                    skip_rows=int(header),
                    use_threads=False,
                    # pyarrow finds errors in "utf-8" late, and then not always as an exception
                    encoding="utf-16" if file.peek(2)[:2] in UTF16 else "utf-8-sig",
                ),
                pa.csv.ParseOptions(
                    delimiter=mark,
                    quote_char='"' if quotes else False,
                    newlines_in_values=quotes,
                    ignore_empty_lines=False,
                    invalid_row_handler=invalid,
                ),
                pa.csv.ConvertOptions(
                    column_types={place: types[name in CATEGORIES] for place, name in wanted.items()},
                    include_columns=list(wanted),
                ),
            )
        except UnicodeError:
            raise InputError(_not_utf8(path)) from None
        except pa.ArrowInvalid as error:
            if "Could not skip initial" in str(error):
                raise InputError(f"{path}: a header, but no rows") from None
            raise InputError(f"{path}: cannot be read as a table: {first_line(error)}") from None
    table = table.unify_dictionaries().rename_columns(list(wanted.values())).to_pandas()
    table.index = np.setdiff1d(np.arange(len(table) + len(odd)) + 1 + header, list(odd), assume_unique=True)
    return table, odd


def _not_utf8(path):
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte, column = line[error.start], error.start + 1
                return f"{where(path, number)}: not utf-8: byte 0x{byte:02x} at column {column}; save it as UTF-8"
    return f"{path}: not utf-8; save it as UTF-8"


def leave_out(table, flawed, what, counts, path):
    """The rows of a table that are not `flawed` (boolean); the others are counted as `what`. Raises InputError if none is
    left."""
    counts[what] = int(flawed.sum())
    if counts[what] == len(table):
        raise InputError(f"{path}: no row is left without {counts[what]} {what}; do the two files belong together?")
    return table[~flawed]


def _fields_of(text, separator, quotes):
    if len(separator) > 1:
        return text.split(separator)
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    try:
        return next(csv.reader([text.rstrip("\r\n")], delimiter=separator, quoting=quoting), [])
    except csv.Error:
        return [text]


def where(path, line):
    """ "FILE: line 3", as every error of a raw table begins."""
    return f"{path}: {'row' if Path(path).suffix == '.parquet' else 'line'} {line}"
