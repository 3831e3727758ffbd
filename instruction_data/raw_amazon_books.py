"""The reader of Amazon Books Reviews: `Books_rating.csv` (three million reviews) and `books_data.csv`.

The two are joined by title. As in the published records, only a user's first review of a title counts, and rows with an
empty field are left out; the publication year is one of the fields.
"""

from tlrec.data import raw_tables as raw
from tlrec.data.preparation import Source
from tlrec.errors import InputError

REVIEW_COLUMNS = {
    "Id": "item",
    "Title": "title",
    "User_id": "user",
    "review/score": "rating",
    "review/time": "timestamp",
}
BOOK_COLUMNS = {"Title": "title", "authors": "creator", "publishedDate": "year"}


def read_amazon_books(folder):
    """Read the two tables. Times stay text, which is how the published records sort them."""
    reviews_path, books_path = folder / "Books_rating.csv", folder / "books_data.csv"
    books = raw.read_table(books_path, list(BOOK_COLUMNS), subset=True).rename(columns=BOOK_COLUMNS)
    reviews = raw.read_table(reviews_path, list(REVIEW_COLUMNS), subset=True).rename(columns=REVIEW_COLUMNS)
    if reviews.empty or books.empty:
        raise InputError(f"{books_path if books.empty else reviews_path}: a header, but no rows")

    skipped = {}
    namesakes = books.duplicated("title")
    books = raw.leave_out(books, namesakes, f"books of {books_path.name} with the title of another", skipped)
    again = reviews.duplicated(["title", "user"])
    reviews = raw.leave_out(reviews, again, "further reviews of the same title by the same user", skipped)
    empty = (reviews == "").any(axis=1)
    reviews = raw.leave_out(reviews, empty, "reviews with an empty field (most: no user)", skipped)
    reviews["rating"] = raw.numbers(reviews, "rating", reviews_path)
    raw.numbers(reviews, "timestamp", reviews_path)

    unknown = ~reviews["title"].isin(books["title"])
    reviews = raw.leave_out(reviews, unknown, f"reviews of titles that are not in {books_path.name}", skipped)
    # "['A. Author', 'B. Writer']" becomes "A. Author', 'B. Writer", as published
    books["creator"] = books["creator"].str.replace(r"""^\[['"]?|['"]?\]$""", "", regex=True)
    incomplete = books["title"][(books["creator"] == "") | ~books["year"].str.contains(r"\d{4}")]
    unsigned = reviews["title"].isin(incomplete)
    reviews = raw.leave_out(reviews, unsigned, "reviews of books without author or year", skipped)
    if reviews.empty:
        raise InputError(f"{reviews_path}: no review is left that has all its fields and a book in {books_path.name}")
    items = reviews[["item", "title"]].drop_duplicates("item").set_index("item")
    items = items.assign(creator=items["title"].map(books.set_index("title")["creator"]), kind="book")
    return Source(reviews.drop(columns="title"), items, skipped, files=[reviews_path, books_path])
