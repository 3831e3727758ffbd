"""Amazon reviews of a category, as published in 2014, 2018 and 2023: JSON lines, gzipped or not, or CSV files with the
ratings only. Titles come from the file of product metadata (`meta_*.json`), never from a review.

The metadata of 2014 is no JSON: its lines are Python's own notation, in single quotes.
"""

import ast

from tlrec.data.sources.tables import is_json, read_delimited, read_objects, top_line
from tlrec.errors import InputError
from tlrec.files import opened

REVIEW = {"user": "reviewerID", "item": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
REVIEW_2023 = {"user": "user_id", "item": "parent_asin", "rating": "rating", "timestamp": "timestamp"}
PRODUCT = {"item": "asin", "title": "title", "creator": "brand"}


def read_2014(ratings, items, options, counts):
    """CSV: user, item, rating, time in seconds."""
    return _read(ratings, items, REVIEW, PRODUCT, ["user", "item", "rating", "timestamp"])


def read_2018(ratings, items, options, counts):
    """CSV: the item is first."""
    return _read(ratings, items, REVIEW, PRODUCT, ["item", "user", "rating", "timestamp"])


def read_2023(ratings, items, options, counts):
    """Times are in milliseconds; a product's variants have one `parent_asin`. CSV: with a header."""
    return _read(ratings, items, REVIEW_2023, PRODUCT_2023)


def _read(ratings, items, review, product, order=None):
    if is_json(ratings):
        reviews = read_objects(ratings, review)
    else:
        reviews = read_delimited(ratings, dict.fromkeys(order) if order else review, header=order is None)
    rated = set(reviews["item"].cat.categories)
    literal = top_line(items).lstrip().startswith("{'")
    return reviews, read_objects(items, product, ("item", rated), _literals(items) if literal else None)


def _maker(row):
    """The author of a book, else the brand, else the store."""
    author, details = row.get("author"), row.get("details")
    names = [author.get("name") if isinstance(author, dict) else author]
    names += [details.get("Brand") if isinstance(details, dict) else None, row.get("store")]
    return next((name for name in names if name), None)


PRODUCT_2023 = {"item": "parent_asin", "title": "title", "creator": _maker}


def _literals(path):
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield ast.literal_eval(line.decode())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise InputError(f"{path}: line {number}: neither JSON nor Python's notation of a product") from None
