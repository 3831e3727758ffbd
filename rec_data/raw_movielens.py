"""The reader of MovieLens-100K: `u.data` (user, item, rating, time; tabs) and `u.item` (Latin-1; id, title, ...)."""

from tlrec.data import raw_tables as raw
from tlrec.data.preparation import Source


def read_movielens(folder):
    """Read the folder of an unpacked ml-100k.zip. Times stay text, which is how the published records sort them."""
    items_path, ratings_path = folder / "u.item", folder / "u.data"
    items = raw.read_table(items_path, ["item", "title"], "|", "latin-1", header=False, quotes=False)
    raw.refuse_utf8(items_path)
    raw.require_filled(items, ["item", "title"], items_path)
    raw.require_unique(items, ["item"], items_path, "an item is described twice")

    ratings = raw.read_table(ratings_path, ["user", "item", "rating", "timestamp"], "\t", header=False, quotes=False)
    raw.require_filled(ratings, ratings.columns, ratings_path)
    ratings["rating"] = raw.numbers(ratings, "rating", ratings_path)
    raw.numbers(ratings, "timestamp", ratings_path)
    raw.require_known(ratings, "item", items["item"], ratings_path, items_path.name)
    raw.require_unique(ratings, ["user", "item"], ratings_path, "a second rating of the same item by the same user")
    items = items.assign(creator="", kind="movie").set_index("item")
    return Source(ratings, items, skipped={}, files=[ratings_path, items_path])
