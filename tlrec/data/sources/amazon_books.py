"""The reader of Amazon Books Reviews: `Books_rating.csv` (three million reviews) and `books_data.csv`.

The two are joined by title. As in the published records, only a user's first review of a title counts, and rows with an
empty field are left out; the publication year is one of the fields.
"""

from tlrec.data.sources.tables import leave_out, read_delimited

REVIEWS = {"item": "Id", "title": "Title", "user": "User_id", "rating": "review/score", "timestamp": "review/time"}
BOOKS = {"title": "Title", "creator": "authors", "year": "publishedDate"}
# What pandas, with which the published records were made, takes for an empty field
EMPTY = "#N/A,#N/A N/A,#NA,-1.#IND,-1.#QNAN,-NaN,-nan,1.#IND,1.#QNAN,<NA>,N/A,NA,NULL,NaN,None,n/a,nan,null".split(",")


def read(ratings, items, options, counts):
    """Read the two tables, `Books_rating.csv` and `books_data.csv`."""
    skipped = counts["left out"]
    books = read_delimited(items, BOOKS, skipped=skipped)
    reviews = read_delimited(ratings, REVIEWS, skipped=skipped).astype("str")
    books, reviews = books.replace(EMPTY, ""), reviews.replace(EMPTY, "")

    flawed = books.duplicated("title")
    books = leave_out(books, flawed, f"books of {items.name} with the title of another", skipped, items)
    again = reviews.duplicated(["title", "user"])
    reviews = leave_out(reviews, again, "further reviews of the same title by the same user", skipped, ratings)
    empty = (reviews == "").any(axis=1)
    reviews = leave_out(reviews, empty, "reviews with an empty field (most: no user)", skipped, ratings)
    unknown = ~reviews["title"].isin(books["title"])
    reviews = leave_out(reviews, unknown, f"reviews of titles that are not in {items.name}", skipped, ratings)
    # "['A. Author', 'B. Writer']" becomes "A. Author', 'B. Writer", as published
    books["creator"] = books["creator"].str.replace(r"""^\[['"]?|['"]?\]$""", "", regex=True)
    incomplete = books["title"][(books["creator"] == "") | ~books["year"].str.contains(r"\d{4}")]
    unclear = reviews["title"].isin(incomplete)
    reviews = leave_out(reviews, unclear, "reviews of books without author or year", skipped, ratings)
    found = reviews[["item", "title"]].drop_duplicates("item")
    found = found.assign(creator=found["title"].map(books.set_index("title")["creator"]))
    return reviews.drop(columns="title"), found
