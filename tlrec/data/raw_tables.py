"""Reading raw tables: text columns with their line numbers, and one-line errors that name the line.

Readers of raw ratings build on this. Everything is read as text first, so that an id such as 0195153448 keeps its
zeros; a DataFrame's index holds line numbers of the file, counted from 1 (rows, for Parquet). A row whose quoted fields
contain line breaks counts as one line.
"""

import csv
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from tlrec.errors import InputError


def read_table(path, columns, separator=",", encoding="utf-8", header=True, optional=(), quotes=True, subset=False):
    """Read a delimited file as a DataFrame of text with `columns` and those of `optional` that are there.

    A missing field is empty text. Without a header, `columns` names the first fields of every line. `subset` loads
    the named columns only, for tables too large to load whole; surplus fields in a line then go unnoticed, and the
    words pandas takes for "missing" (NA, null, None ...) become empty too.
    Raises InputError for a missing or empty file, another encoding, a missing column or a line with surplus fields.
    """
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    found = _first_fields(path, separator, encoding, quoting)
    if header:
        require_columns(columns, found, path, separator)
        names = [*columns, *(column for column in optional if column in found)]
    elif len(found) < len(columns):
        raise InputError(
            f"{path}: line 1: expected {', '.join(columns)} and {separator!r} between them, found {len(found)} field(s)"
        )
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            encoding=encoding,
            header=0 if header else None,
            usecols=names if subset else None,
            quoting=quoting,
            dtype=str,
            keep_default_na=subset,
            skip_blank_lines=False,
        )
    except UnicodeDecodeError:
        raise InputError(_not_encoded(path, encoding)) from None
    except pd.errors.ParserError as error:
        raise InputError(_not_a_table(path, str(error))) from None
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus first fields for row labels
        raise InputError(f"{path}: line 2: more fields than the {len(found)} of line 1")
    table.index = np.arange(len(table)) + (2 if header else 1)
    table = table[names] if header else table.iloc[:, : len(columns)].set_axis(list(columns), axis=1)
    table = table.fillna("")
    return table[(table != "").any(axis=1)]


def read_parquet(path, columns, optional=()):
    """Read a Parquet file as a DataFrame of text, like `read_table`."""
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # pyarrow's own errors are both
        raise InputError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"{path}: no column {missing[0]!r}; found {', '.join(map(repr, table))}")
    table = table[[*columns, *(column for column in optional if column in table)]]
    table = table.astype(str).where(table.notna(), "").reset_index(drop=True)
    table.index += 1
    return table


def read_csv_or_parquet(path, columns, optional=()):
    """`read_parquet` for a path that ends in .parquet, else `read_table` with its defaults."""
    read = read_parquet if Path(path).suffix == ".parquet" else read_table
    return read(path, columns, optional=optional)


@contextmanager
def open_text(path, encoding):
    """Open a text file for the csv module; if reading it fails inside the block, that is an InputError."""
    try:
        with open(path, encoding=encoding, newline="") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(_not_encoded(path, encoding)) from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def where(path, line):
    """ "FILE: line 3", as every error of a raw table begins."""
    return f"{path}: {_unit(path)} {line}"


def leave_out(table, flawed, what, skipped):
    """The table without its `flawed` rows (a boolean Series); their number goes to `skipped` under the name `what`."""
    skipped[what] = int(flawed.sum())
    return table[~flawed]


def require_columns(columns, found, path, separator):
    """Raise InputError unless all `columns` are among those `found` in the first line."""
    for column in columns:
        if column not in found:
            shown = ", ".join(map(repr, found))
            raise InputError(f"{path}: line 1: no column {column!r}; found {shown} when split at {separator!r}")


def require_filled(table, columns, path):
    """Raise InputError at the first row in which one of `columns` is empty; and if there are no rows at all."""
    if table.empty:
        raise InputError(f"{path}: a header, but no rows")
    for column in columns:
        empty = table[column].str.strip() == ""
        if empty.any():
            raise InputError(f"{where(path, empty.idxmax())}: {column!r} is missing")


def require_unique(table, columns, path, what):
    """Raise InputError at the first row that repeats an earlier one in `columns`; what: words for such a row."""
    repeated = table.duplicated(columns)
    if repeated.any():
        line = repeated.idxmax()
        first = (table[columns] == table.loc[line, columns]).all(axis=1).idxmax()
        shown = ", ".join(f"{column} {table.at[line, column]}" for column in columns)
        raise InputError(f"{where(path, line)}: {what} ({shown}), the first one is in {_unit(path)} {first}")


def require_known(table, column, known, path, known_path):
    """Raise InputError at the first row whose `column` is not among `known`, the contents of `known_path`."""
    unknown = ~table[column].isin(known)
    if unknown.any():
        line = unknown.idxmax()
        raise InputError(f"{where(path, line)}: {column} {table.at[line, column]!r} is not in {known_path}")


def numbers(table, column, path):
    """A text column as finite numbers: int64 if all are whole, else float64. Raises InputError at the first other."""
    values = pd.to_numeric(table[column], errors="coerce").astype(float)
    bad = ~np.isfinite(values)
    if bad.any():
        line = bad.idxmax()
        raise InputError(f"{where(path, line)}: {column} {table.at[line, column]!r} is not a number")
    return values.astype("int64") if (values % 1 == 0).all() else values


def refuse_utf8(path):
    """Raise InputError if a file that should be Latin-1 holds UTF-8: read as Latin-1, its accents would be garbage."""
    content = Path(path).read_bytes()
    if content.isascii():
        return
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return
    line = next(number for number, text in enumerate(content.split(b"\n"), start=1) if not text.isascii())
    raise InputError(f"{where(path, line)}: UTF-8, but the original is Latin-1; use the original download")


def _unit(path):
    return "row" if Path(path).suffix == ".parquet" else "line"


def _first_fields(path, separator, encoding, quoting):
    with open_text(path, encoding) as file:
        fields = next(csv.reader(file, delimiter=separator, quoting=quoting), None)
    if not fields:
        raise InputError(f"{path}: line 1 is empty")
    return [field.removeprefix("\ufeff") for field in fields]


def _not_encoded(path, encoding):
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                byte, column = line[error.start], error.start + 1
                return f"{where(path, number)}: not {encoding}: byte 0x{byte:02x} at column {column}"
    return f"{path}: not {encoding}"


def _not_a_table(path, message):
    if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        expected, line, saw = match.groups()
        return f"{where(path, line)}: expected {expected} fields, found {saw}"
    if match := re.search(r"EOF inside string starting at row (\d+)", message):
        return f"{where(path, int(match[1]) + 1)}: a quote is opened and never closed"
    return f"{path}: {message.strip()}"
