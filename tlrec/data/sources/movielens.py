"""MovieLens in its three forms: 100K (`u.data`, tabs; `u.item`), 1M and 10M (`ratings.dat`, `movies.dat`; `::`), and the
later ones (`ratings.csv`, `movies.csv`)."""

from tlrec.data.sources.tables import read_delimited, top_line

RATINGS = {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}
MOVIES = {"item": "movieId", "title": "title"}


def read(ratings, items, options, counts):
    """The titles of 100K and 1M are in Latin-1, those of 10M in UTF-8."""
    line = top_line(ratings)
    if "::" in line or "\t" in line:
        ratings_by, items_by = ("::", "::") if "::" in line else ("\t", "|")
        form = {"header": False, "quotes": False, "latin": True}
        return read_delimited(ratings, RATINGS, ratings_by, **form), read_delimited(items, MOVIES, items_by, **form)
    return read_delimited(ratings, RATINGS), read_delimited(items, MOVIES)
