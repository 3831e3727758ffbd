"""Goodbooks-10k: `ratings.csv` without times, and `books.csv`. In its Kaggle copy the ratings name a book's `id`, in the
original its `book_id`."""

from tlrec.data.sources.tables import columns_of, read_delimited


def read(ratings, items, options, counts):
    found, _ = columns_of(items)
    item = "book_id" if "goodreads_book_id" in found or "id" not in found else "id"
    columns = {"item": item, "title": "title", "creator": "authors"}
    if "original_publication_year" in found:
        columns["year"] = "original_publication_year"
    books = read_delimited(items, columns)
    return read_delimited(ratings, {"user": "user_id", "item": "book_id", "rating": "rating"}), books
