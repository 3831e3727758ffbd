"""Raw ratings in the form that each public source has, read into one form for all.

    folder or file ──► find ──► Found(form, ratings, items) ──► form.read ──► ratings, items ──► tlrec.data.policies

A reader is a function `(ratings, items, options, counts) -> (ratings, items)`: paths to DataFrames of text whose index
holds the lines of the files. Ratings have user, item and, where the source has them, rating and timestamp; items have
item, title and perhaps creator, year and kind. options: {"implicit", "title_commas", "columns"}. What it does to known
flaws of the source it counts in `counts`, {"left out": {what: how many}, "changed": {...}}.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from tlrec.errors import InputError


@dataclass(frozen=True)
class Form:
    """How one form of a source is recognised, and read.

    ratings, items: patterns of file names, several with "|"; first: how the first line of the ratings begins; kind: the noun
    for its items; module, reader: who reads it, imported only then.
    """

    name: str
    ratings: str
    items: str
    first: str
    kind: str
    module: str
    reader: str = "read"


JSON = r'\s*\{{(?=.*"{}")(?=.*"{}")'  # an object with these keys, in any order

# Tried from top to bottom; a name may have several forms
FORMS = (
    Form("movielens", "u.data", "u.item", r"\d+\t\d+\t\d\t\d+", "movie", "movielens"),
    Form("movielens", "ratings.dat", "movies.dat", r"\d+::\d+::", "movie", "movielens"),
    Form("movielens", "ratings.csv*", "movies.csv*", r"userId,movieId,rating", "movie", "movielens"),
    Form("netflix", "combined_data_1.txt", "movie_titles.csv", r"\d+:\s*$", "movie", "netflix"),
    Form("amazon-books", "Books_rating.csv*", "books_data.csv*", r"Id,Title,.*User_id", "book", "amazon_books"),
    Form("book-crossing", "BX-Book-Ratings.csv", "BX-Books.csv", r'"?User-ID"?[;,]', "book", "book_crossing"),
    Form("book-crossing", "BX-Ratings.csv|Ratings.csv", "BX-Books.csv|Books.csv", "User-ID,", "book", "book_crossing"),
    Form("goodbooks", "ratings.csv", "books.csv", r"(user_id,book_id|book_id,user_id),rating$", "book", "goodbooks"),
    Form(
        "amazon-2023", "*.json*", "meta_*.json*", JSON.format("parent_asin", "user_id"), "item", "amazon", "read_2023"
    ),
    Form("amazon-2023", "*.csv*", "meta_*.json*", "user_id,parent_asin,rating", "item", "amazon", "read_2023"),
    Form(
        "amazon-2018", "*.json*", "meta_*.json*", JSON.format("reviewerID", "verified"), "item", "amazon", "read_2018"
    ),
    Form("amazon-2014", "*.json*", "meta_*.json*", JSON.format("reviewerID", "asin"), "item", "amazon", "read_2014"),
    Form("amazon-2018", "*.csv*", "meta_*.json*", r"\w{10},A\w+,[\d.]+,\d+$", "item", "amazon", "read_2018"),
    Form("amazon-2014", "*.csv*", "meta_*.json*", r"A\w+,\w{10},[\d.]+,\d+$", "item", "amazon", "read_2014"),
    Form("recbole", "*.inter", "*.item", r"\S+:(token|float)", "item", "own_tables", "read_recbole"),
    Form("table", "*rating*|*interaction*|*review*", "*item*|*title*|*meta*|*product*", "", "item", "own_tables"),
)
NAMES = tuple(dict.fromkeys(form.name for form in FORMS))


@dataclass(frozen=True)
class Found:
    """A form and its files; items is None where a table has the titles beside the ratings."""

    form: Form
    ratings: Path
    items: Path | None

    def read(self, options, counts):
        """(ratings, items) as the form's reader has them."""
        module = import_module(f"tlrec.data.sources.{self.form.module}")
        return getattr(module, self.form.reader)(self.ratings, self.items, options, counts)

    def said(self):
        files = self.ratings.name + (f", {self.items.name}" if self.items else "")
        return f"format: {self.form.name} ({files})"


def find(raw, items=None, name="auto"):
    """What a folder, or a file of ratings, holds: a Found. name: of a form, "auto" for any; items: a file, if not beside the
    ratings. Raises InputError if no form fits or the items are missing."""
    from tlrec.data.sources.tables import top_line  # imports pandas; not at the top, so that --help is quick

    raw = Path(raw)
    if not raw.exists():
        raise InputError(f"{raw}: no such file or folder")
    if raw.suffix in (".zip", ".tar", ".tgz", ".7z", ".rar"):
        raise InputError(f"{raw}: is an archive; unpack it and give the folder")
    forms = [form for form in FORMS if name in ("auto", form.name)]
    folder, within = (raw, None) if raw.is_dir() else (raw.parent, raw)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not names and folders:
        raise InputError(f"{raw}: holds only folders ({', '.join(folders[:5])}); give the one with the ratings")
    for form in forms:
        for ratings in [within] if within else [folder / file for file in names if _matches(file, form.ratings)]:
            if ratings.name != raw.name and _matches(ratings.name, form.items):  # meta_Books.json is like Books.json
                continue
            if name == "auto" and form.name != "table" and not _named_so(form, ratings, items):
                continue
            line = top_line(ratings)
            if re.match(form.first, line) or re.match(form.first, line.replace('"', "")):
                return _with_items(form, ratings, items, names)
    if name != "auto":
        wanted = " or ".join(f"{form.ratings} with {form.items}" for form in forms)
        found = f"begins with {top_line(raw)[:60]!r}" if within else f"holds {', '.join(names[:5]) or 'nothing'}"
        raise InputError(f"{raw}: {found}, not what --format {name} has: {wanted}")
    raise InputError(
        f"{raw}: holds {', '.join(names[:5]) or 'no files'}{', ...' if len(names) > 5 else ''}, no known format "
        f"({', '.join(NAMES)}); give --ratings FILE --items FILE --format table"
    )


def _named_so(form, ratings, items):
    """Whether the files have a form's names; of Amazon's, which are named by category, only the ratings' name tells."""
    apart = form.name in ("amazon-2014", "amazon-2018", "amazon-2023")
    return _matches(ratings.name, form.ratings) and (not items or apart or _matches(Path(items).name, form.items))


def _with_items(form, ratings, items, names):
    if items and not Path(items).is_file():
        raise InputError(f"--items {items}: no such file")
    if items:
        return Found(form, ratings, Path(items))
    beside = [name for name in names if _matches(name, form.items) and name != ratings.name]
    if form.name == "table":
        from tlrec.data.sources.own_tables import has_titles

        if has_titles(ratings) or len(beside) != 1:
            return Found(form, ratings, None)
    if len(beside) == 1:
        return Found(form, ratings, ratings.parent / beside[0])
    several = f"; there are {', '.join(beside)}" if beside else ""
    raise InputError(
        f"{ratings}: ratings of {form.name}, but no titles beside them; give --items FILE ({form.items}){several}"
    )


def _matches(name, patterns):
    return any(fnmatch(name.casefold(), pattern.casefold()) for pattern in patterns.split("|"))
