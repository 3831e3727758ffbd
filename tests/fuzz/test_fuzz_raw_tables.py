"""Raw tables of anyone's ratings, with anything in their cells and any damage.

1. Tables of one's own, written by the csv module or as Parquet, are read as they were, or refused by an InputError of one
   line; what is read becomes records that parse.
2. The same tables, and small ones in the form of each published source, cut or changed at any byte: read, or refused in
   one line, and no row is made up.
"""

import csv

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.damage import damaged
from tests.support.preparation import RAW, write_raw
from tlrec.data.policies import clean
from tlrec.data.preferences import parse_input
from tlrec.data.preparation import build_records
from tlrec.data.prepare import DOMAINS
from tlrec.data.sources import find
from tlrec.data.windows import shuffled_histories
from tlrec.errors import InputError

pytestmark = pytest.mark.slow

cells = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ['"', ",", "\n", "\r", "NA", "nan", "inf", "1e999", "-0", "2024-05-31", "0", "1", "5", "\x00", "\ufeff"]
    ),
)
names = st.text(st.characters(codec="utf-8"), max_size=8)


def read(raw, items=None, form="auto", domain="own", **settings):
    """The Source of raw files, as prepare_data.py makes it."""
    return clean(find(raw, items, form), DOMAINS[domain] | settings)


def read_own_ratings(ratings, items):
    return read(ratings, items, "table", kind="movie", same_title="published")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz raw")


def said(folder, call):
    """(result, None) or (None, message) of an InputError of one line that names a file of the folder."""
    try:
        return call(), None
    except InputError as error:
        assert len(str(error).splitlines()) == 1 and str(folder) in str(error), str(error)
        return None, str(error)


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def check(source, rows):
    """Whatever was read is no more than was there, and makes records that parse."""
    assert 0 < len(source.ratings) <= rows
    if source.ratings["user"].nunique() < len(source.ratings):
        try:
            examples = shuffled_histories(source.ratings, history=10, min_ratings=2, seed=0)
        except InputError:
            return
        for record in build_records(examples, source.items, liked_above=3)[0]:
            parse_input(record["input"])


RATED = ["user", "item", "rating", "timestamp"]
own_ratings = st.lists(
    st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 10**9)),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:2],
)


@given(own_ratings, st.lists(st.tuples(names, names), min_size=3, max_size=3))
def test_own_tables(folder, ratings, items):
    tables = {
        "ratings": [RATED, *ratings],
        "items": [["item", "title", "creator"], *((n, *row) for n, row in zip("abc", items))],
    }
    found = []
    for ending in ("csv", "parquet"):
        paths = [folder / f"{name}.{ending}" for name in tables]
        for path, (header, *lines) in zip(paths, tables.values()):
            write_csv(path, [header, *lines])
            if ending == "parquet":
                pd.DataFrame(lines, columns=header).astype(str).to_parquet(path)
        source, _ = said(folder, lambda: read_own_ratings(*paths))
        if source:
            check(source, len(ratings))
            rated = source.ratings[["user", "item", "rating"]].itertuples(index=False, name=None)
            assert {*rated} <= {row[:3] for row in ratings}
        found.append(source and source.items[["title", "creator"]].values.tolist())
    assert found[0] == found[1]


@given(st.lists(st.lists(cells, min_size=1, max_size=5), max_size=6), st.lists(st.lists(cells, max_size=4), max_size=6))
def test_any_cells(folder, ratings, items):
    write_csv(folder / "r.csv", [RATED, *ratings])
    write_csv(folder / "i.csv", [["item", "title", "creator", "kind"], *items])
    source, _ = said(folder, lambda: read_own_ratings(folder / "r.csv", folder / "i.csv"))
    if source:
        check(source, len(ratings))


@given(st.binary(max_size=200), st.sampled_from(["csv", "parquet"]))
def test_any_bytes(folder, content, ending):
    paths = [folder / f"any.{ending}", folder / f"other.{ending}"]
    for path in paths:
        path.write_bytes(content)
    said(folder, lambda: read_own_ratings(*paths))


DOMAINS_OF = {settings["format"]: domain for domain, settings in DOMAINS.items()}


@pytest.mark.parametrize("form", [form for form in RAW if form != "table"])
@given(damaged(), st.integers(0, 1))
def test_damaged_sources(tmp_path_factory, form, damage, which):
    folder = write_raw(tmp_path_factory.mktemp(form) / "raw", form)
    path = folder / list(RAW[form])[which]
    path.write_bytes(damage(path.read_bytes()))
    source, _ = said(folder, lambda: read(folder, form=form, domain=DOMAINS_OF.get(form, "own")))
    if source:
        assert 0 < len(source.ratings) <= sum(file.read_bytes().count(b"\n") + 1 for file in folder.iterdir())
