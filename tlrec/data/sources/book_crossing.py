"""Book-Crossing: semicolons and Latin-1 in the original dump (`BX-Book-Ratings.csv`, `BX-Books.csv`), where the escaping of
quotes breaks a few lines; commas and UTF-8 in a cleaned copy (`BX-Ratings.csv`, explicit ratings only) and in Kaggle's
(`Ratings.csv`, `Books.csv`), in which a few broken lines became rows whose fields are shifted by one.
"""

import csv
import io

import pandas as pd

from tlrec.data.sources.tables import leave_out, read_text, top_line
from tlrec.errors import InputError

RATINGS = {"User-ID": "user", "ISBN": "item", "Book-Rating": "rating"}
BOOKS = {"ISBN": "item", "Book-Title": "title", "Book-Author": "creator", "Year-Of-Publication": "year"}


def read(ratings, items, options, counts):
    """Read any form. options["implicit"]: "keep" or "drop" ratings of 0, which mean "has it", not "hates it".

    Lines with the wrong number of fields, books without title or author, and ratings of books that are not in the table are
    known flaws; they are left out and counted. Shifted rows are repaired where the title still holds the author.
    """
    skipped = counts["left out"]
    books = _read(items, BOOKS, skipped)
    shifted = books["creator"].str.fullmatch(r"\d{1,4}") & ~books["year"].str.fullmatch(r"\d*")
    if shifted.any():  # title is: The Title\";An Author"
        parts = books.loc[shifted, "title"].str.extract(r'^(.*?)\\?";(.*?)"?$')
        counts["changed"][f"shifted rows of {items.name}, repaired"] = int(parts[0].notna().sum())
        skipped[f"shifted rows of {items.name}"] = int(parts[0].isna().sum())
        books.loc[shifted, ["title", "creator"]] = parts.fillna("").to_numpy()
    unnamed = books["item"][(books["title"] == "") | (books["creator"] == "")]

    rated = _read(ratings, RATINGS, skipped)
    if options["implicit"] == "drop":
        implicit = rated["rating"].str.fullmatch(r"0+(\.0*)?")
        rated = leave_out(rated, implicit, "implicit ratings (0)", skipped, ratings)
    unknown = ~rated["item"].isin(books["item"])
    rated = leave_out(rated, unknown, "ratings of books that are not in the table", skipped, ratings)
    nameless = rated["item"].isin(unnamed)
    rated = leave_out(rated, nameless, "ratings of books without title or author", skipped, ratings)
    return rated, books[~books["item"].isin(unnamed)].drop(columns="year")


def _read(path, columns, skipped):
    """Text columns of one table, indexed by line; malformed lines are counted in `skipped`.

    A line such as `"04";"A \\"Title\\"; more";"An Author"` has a field too many; in a few lines one is lost.
    Python's csv module splits lines as pandas did for the published files, and knows their numbers.
    """
    separator = ";" if ";" in top_line(path) else ","
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=separator)
    header, rows, malformed, line = next(reader), {}, 0, 2
    for column in columns:
        if column not in header and column != "Year-Of-Publication":
            shown = ", ".join(map(repr, header))
            raise InputError(f"{path}: line 1: no column {column!r}; found {shown} when split at {separator!r}")
    places = [header.index(column) if column in header else None for column in columns]
    try:
        for fields in reader:
            if len(fields) == len(header):
                rows[line] = ["" if place is None else fields[place] for place in places]
            else:
                malformed += bool(fields)  # empty lines do not count
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}") from None
    skipped[f"malformed lines of {path.name}"] = malformed
    if not rows:
        raise InputError(f"{path}: a header, but no rows")
    return pd.DataFrame(rows.values(), columns=list(columns.values()), index=list(rows), dtype="str")
