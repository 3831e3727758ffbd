"""The items that can be recommended: a table of titles, and a search in it for titles as people write them."""

import re
import unicodedata
from collections import defaultdict

from tlrec.data.preferences import Item, parse_item
from tlrec.errors import InputError

NEAR = 80  # of 100: titles at least this similar are suggested
YEAR = re.compile(r" \(\d{4}\)$")
SHORT = 4  # characters; a shorter title is a part of many others by chance


class Catalogue:
    """The items of a table, in its order and each once.

    items: list of Item; repeated: number of rows that were left out because they repeat an earlier item; kinds: the
    values of the column `kind`, in order of first appearance, [] without such a column.
    """

    def __init__(self, path, items, kinds):
        self.path, self.kinds = path, kinds
        self.items = list(dict.fromkeys(items))
        self.repeated = len(items) - len(self.items)
        self._places = defaultdict(list)
        for place, item in enumerate(self.items):
            self._places[_key(item.title)].append(place)

    def find(self, item):
        """Places of the items that equal this one, apart from case, spaces and how accents are encoded. If one of the
        two has no creator, only the titles are compared."""
        places = self._places.get(_key(item.title), [])
        names = {place: _key(self.items[place].creator) for place in places}
        return [place for place in places if not (item.creator and names[place]) or names[place] == _key(item.creator)]

    def nearest(self, item, limit=5):
        """Places of the items whose titles (with or without year or creator) are most like this one's, the most similar
        first; [] if none is near."""
        from rapidfuzz import fuzz, process, utils

        # The order of words and the text around a title count a little. rapidfuzz's own mixture (WRatio) would also
        # match any two titles that share a word, such as "the", and differ in length.
        measures = {fuzz.ratio: 1, fuzz.token_sort_ratio: 0.95, fuzz.token_set_ratio: 0.95, fuzz.partial_ratio: 0.9}
        texts = [(place, item.title) for place, item in enumerate(self.items)]
        texts += [(place, YEAR.sub("", title)) for place, title in texts if YEAR.search(title)]
        texts += [(place, f"{item.title} {item.creator}") for place, item in enumerate(self.items) if item.creator]
        places, texts = zip(*((place, utils.default_process(text)) for place, text in texts), strict=True)
        wanted, found = utils.default_process(f"{item.title} {item.creator}"), {}
        for measure, weight in measures.items():
            for text, score, number in process.extract(
                wanted, texts, scorer=measure, score_cutoff=NEAR / weight, limit=None
            ):
                if measure is not fuzz.partial_ratio or min(len(text), len(wanted)) >= SHORT:
                    place = places[number]
                    found[place] = max(score * weight, found.get(place, 0))

        def order(place):  # remakes differ in the year alone: of equally near ones, the year that was typed decides
            title = utils.default_process(self.items[place].title)
            return -found[place], -fuzz.token_sort_ratio(wanted, title), place

        return sorted(found, key=order)[:limit]


def read_catalogue(path):
    """The Catalogue of a CSV (UTF-8) or Parquet file with a column `title` and perhaps `creator` and `kind`; others,
    such as the `item_id` of item_mapping.csv, are not read. Line breaks in titles and creators become spaces.

    Raises InputError, naming file and line, if there is no title column, no row, a row without a title, or one without
    a creator where others have one: in a record, such an item could not be separated from the title that follows it.
    """
    from tlrec.data.sources import tables, values  # imports pandas; not at the top, so that --help is quick

    found, separator = tables.columns_of(path)
    if "title" not in found:
        raise InputError(f"{path}: line 1: no column 'title'; found {', '.join(map(repr, found))}")
    wanted = {name: name for name in ("title", "creator", "kind") if name in found}
    table = values.of_one_line(tables.read_columns(path, wanted, separator), ["title", "creator"])
    creators = "creator" in table and (table["creator"].str.strip() != "").any()
    values.require_filled(table, ["title", "creator"] if creators else ["title"], path)
    kinds = list(dict.fromkeys(table["kind"])) if "kind" in table else []
    names = table["creator"] if creators else [""] * len(table)
    return Catalogue(path, [Item(title, name) for title, name in zip(table["title"], names, strict=True)], kinds)


def typed_item(text, where):
    """The Item that a user means by `Title` or `"Title" written by Author`; InputError, beginning with `where`, for a
    text that is empty or not UTF-8."""
    text = " ".join(text.split())
    if not text:
        raise InputError(f"{where}: an empty title")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: a title that is not UTF-8") from None
    try:
        return parse_item(text)
    except ValueError:  # no quotes around it
        return Item(text)


def _key(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
