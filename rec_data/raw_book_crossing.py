"""The reader of Book-Crossing, in two forms.

The original dump: `BX-Book-Ratings.csv` and `BX-Books.csv`, semicolons, Latin-1, quotes escaped in a way that breaks a
few lines. A cleaned copy: `BX-Ratings.csv` and `BX-Books.csv`, commas, UTF-8, explicit ratings only.
"""

import csv

import pandas as pd

from tlrec.data import raw_tables as raw
from tlrec.data.preparation import Source
from tlrec.errors import InputError

RATING_COLUMNS = {"User-ID": "user", "ISBN": "item", "Book-Rating": "rating"}
BOOK_COLUMNS = {"ISBN": "item", "Book-Title": "title", "Book-Author": "creator"}


def read_book_crossing(folder, implicit):
    """Read either form. implicit: "keep" or "drop" ratings of 0, which mean "has it", not "hates it".

    Lines with the wrong number of fields, books without title or author, and ratings of books that are not in the
    table are known flaws of the dump; they are left out and counted.
    """
    books_path = folder / "BX-Books.csv"
    original, cleaned = folder / "BX-Book-Ratings.csv", folder / "BX-Ratings.csv"
    ratings_path, form = (original, (";", "latin-1")) if original.exists() else (cleaned, (",", "utf-8"))
    if not ratings_path.exists():
        raise InputError(f"{folder}: holds neither {original.name} (the dump) nor {cleaned.name} (a cleaned copy)")

    skipped = {}
    books = _read(books_path, BOOK_COLUMNS, *form, skipped)
    raw.require_unique(books, ["item"], books_path, "a book is described twice")
    unnamed = books["item"][(books["title"] == "") | (books["creator"] == "")]

    ratings = _read(ratings_path, RATING_COLUMNS, *form, skipped)
    raw.require_filled(ratings, ratings.columns, ratings_path)
    ratings["rating"] = raw.numbers(ratings, "rating", ratings_path)
    raw.require_unique(ratings, ["user", "item"], ratings_path, "a second rating of the same book by the same user")
    if implicit == "drop":
        ratings = raw.leave_out(ratings, ratings["rating"] == 0, "implicit ratings (0)", skipped)
    unknown = ~ratings["item"].isin(books["item"])
    ratings = raw.leave_out(ratings, unknown, "ratings of books that are not in the table", skipped)
    nameless = ratings["item"].isin(unnamed)
    ratings = raw.leave_out(ratings, nameless, "ratings of books without title or author", skipped)
    if ratings.empty:
        left_out = ", ".join(what for what, count in skipped.items() if count)
        raise InputError(f"{ratings_path}: nothing is left without {left_out}")
    books = books.assign(kind="book").set_index("item").drop(index=unnamed)
    return Source(ratings.assign(timestamp=None), books, skipped, files=[ratings_path, books_path])


def _read(path, columns, separator, encoding, skipped):
    """Text columns of one table, indexed by line; malformed lines are counted in `skipped`.

    A line such as `"04";"A \\"Title\\"; more";"An Author"` has a field too many; in a few lines one is lost.
    Python's csv module splits lines as pandas did for the published files, and knows their numbers.
    """
    with raw.open_text(path, encoding) as file:
        reader = csv.reader(file, delimiter=separator)
        header = next(reader, [])
        raw.require_columns(columns, header, path, separator)
        positions = [header.index(name) for name in columns]
        rows, lines, malformed, line = [], [], 0, 2
        for fields in reader:
            if len(fields) == len(header):
                rows.append([fields[position] for position in positions])
                lines.append(line)
            else:
                malformed += bool(fields)  # empty lines do not count
            line = reader.line_num + 1
    skipped[f"malformed lines of {path.name}"] = malformed
    if not rows:
        raise InputError(f"{path}: a header, but no rows")
    return pd.DataFrame(rows, columns=list(columns.values()), index=lines, dtype=str)
