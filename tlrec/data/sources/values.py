"""Text columns of raw tables as numbers and times, exactly; what is none is one line that names file and line."""

from decimal import Decimal, InvalidOperation

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from tlrec.data.sources.tables import MEND, where
from tlrec.errors import InputError


def require_filled(table, columns, path):
    """Raise InputError at the first row in which one of `columns` is empty."""
    for column in columns:
        empty = table[column] == ""
        if empty.any():
            raise InputError(
                f"{where(path, empty.idxmax())}: {column!r} is missing ({int(empty.sum())} of {len(table)} rows){MEND}"
            )


def of_one_line(table, columns):
    """The table with line breaks in those of `columns` that it has as spaces."""
    found = table.columns.intersection(columns)
    return table.assign(**{name: table[name].str.replace(r"\s*[\r\n]+\s*", " ", regex=True) for name in found})


def numbers(table, column, path):
    """A text column as finite numbers: int64 if all are whole, else float64. Raises InputError at the first other."""
    codes, kinds = table[column].factorize()
    values = pd.to_numeric(kinds.astype("str"), errors="coerce").to_numpy("float64")[codes]
    bad = ~np.isfinite(values)
    if bad.any():
        line = table.index[bad.argmax()]
        said = f"{column} {kinds[codes[bad.argmax()]]!r} is not a number ({bad.sum()} of {len(table)} rows)"
        raise InputError(f"{where(path, line)}: {said}{MEND}")
    whole = (values % 1 == 0).all()
    return pd.Series(values.astype("int64") if whole else values, index=table.index)


def times(table, path):
    """(times as they are written, the same so that they sort) of a text column `timestamp`.

    Whole numbers become int64; numbers with fractions, or too large for that, are compared exactly; all else must be dates in
    ISO 8601. Raises InputError at the first other.
    """
    values = table["timestamp"]
    if isinstance(values.dtype, pd.CategoricalDtype):  # dates of few days, in their order
        return values, values
    texts = pa.array(values, type=pa.large_string())
    for form in (texts, pa.compute.replace_substring_regex(texts, r"\.0+$", "")):
        try:
            whole = pd.Series(form.cast(pa.int64()).to_numpy(zero_copy_only=False), index=table.index)
            return whole, whole
        except pa.ArrowInvalid:
            continue
    known = {text: _exact(text) for text in values.unique()}
    if known[values.iloc[0]] is not None:
        order, wanted = values.map(known).astype(object), "not a number"
    else:
        order = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True)
        wanted = "neither a number nor a date such as 2024-05-31"
    if order.isna().any():
        line = order.isna().idxmax()
        raise InputError(f"{where(path, line)}: timestamp {values[line]!r} is {wanted}{MEND}")
    return values, order


def _exact(text):
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
