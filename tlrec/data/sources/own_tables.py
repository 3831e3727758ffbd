"""Tables whose columns are found by their names: a table of your own (CSV with any separator, JSON lines or Parquet; ratings,
and titles in a second file or beside them), and RecBole's atomic files."""

import re

from tlrec.data.sources.tables import columns_of, read_columns, read_delimited
from tlrec.errors import InputError

# {name here: (whether it must be there, names in the wild without signs and capitals, the most telling first)}
RATINGS = {
    "user": (
        True,
        "user userid uid reviewerid reviewer customerid customer profileid memberid accountid visitorid sessionid",
    ),
    "item": (
        True,
        "item itemid iid parentasin asin movieid bookid isbn productid gameid appid animeid songid trackid artistid businessid "
        "recipeid jokeid newsid articleid courseid",
    ),
    "rating": (
        False,
        "rating ratings stars star score overall reviewscore bookrating reviewrating ratingvalue label liked like vote",
    ),
    "timestamp": (False, "timestamp time when date datetime unixreviewtime reviewtime createdat ratedat ts"),
}
ITEMS = {
    "item": (True, RATINGS["item"][1] + " id"),
    "title": (
        True,
        "title itemtitle movietitle booktitle producttitle originaltitle name itemname productname gamename appname",
    ),
    "creator": (False, "creator author authors bookauthor artist artistname brand director directors developer store"),
    "kind": (False, "kind"),
    "year": (False, "year releaseyear yearofpublication publicationyear originalpublicationyear"),
}


def read(ratings, items, options, counts):
    """The columns are those of --columns, else those with a common name."""
    given = dict(options["columns"] or {})
    found, separator = columns_of(ratings)
    columns = choose_columns(found, RATINGS, given, ratings)
    if items is None:
        beside = choose_columns(found, ITEMS, given | {"item": columns["item"]}, ratings)
        frame = read_columns(ratings, columns | beside, separator)
        return frame[list(columns)], frame[list(beside)].drop_duplicates("item")
    titles, its_separator = columns_of(items)
    columns_of_items = choose_columns(titles, ITEMS, given, items)
    return read_columns(ratings, columns, separator), read_columns(items, columns_of_items, its_separator)


def read_recbole(ratings, items, options, counts):
    """`*.inter` and `*.item`: separated by tabs, with typed headers such as `user_id:token`, and without quoting."""
    frames = []
    for path, wanted in ((ratings, RATINGS), (items, ITEMS)):
        typed = {name.partition(":")[0]: name for name in columns_of(path)[0]}
        columns = choose_columns(list(typed), wanted, {}, path)
        columns = {name: typed[column] for name, column in columns.items()}
        frames.append(read_delimited(path, columns, "\t", quotes=False))
    return frames


def has_titles(path):
    """Whether a table of ratings has a column of titles."""
    return any(_plain(name) in ITEMS["title"][1].split() for name in columns_of(path)[0])


def _plain(name):
    """A column's name without signs and capitals."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def choose_columns(found, wanted, given, path):
    """{name here: name in the file} of the columns `found` in a file; `given` ones count first. Raises InputError if one that is
    needed is not there, and prints what differs from the names here."""
    plain = {_plain(name): name for name in reversed(found)}
    columns = {}
    for name, (needed, known) in wanted.items():
        if name in given and given[name] in found:
            columns[name] = given[name]
            continue
        column = next((plain[word] for word in known.split() if word in plain), None)
        if column is not None and column not in columns.values() and (name not in given or name == "item"):
            columns[name] = column
        elif needed or name in given:
            asked = f"no column {given[name]!r}" if name in given else f"no column for the {name}"
            raise InputError(
                f"{path}: line 1: {asked}; found {', '.join(map(repr, found))}; give --columns {name}=NAME"
            )
    if said := [f"{name} = {column}" for name, column in columns.items() if name != column]:
        print(f"columns of {path.name}: {', '.join(said)}")
    return columns
