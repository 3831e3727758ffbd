"""Every form of ratings that rec_data/README.md lists: tlrec/data/sources, prepare_data.py --format. Those of Book-Crossing,
Netflix and Amazon Books, which have flaws of their own, have tests of their own (test_prepare_*).

1. One small world, written by hand in each form with its quirks, gives the records of the plain definition, which is computed
   here; the form is recognised from names and first lines, and may be forced.
2. Titles are the products', creators are brand, author or store, times are seconds, milliseconds, dates or absent.
3. Columns of a table are found by common names or named; ids stay text, whole times whole.
4. What is not there, or of no known form, is one line.
"""

import gzip
import json

import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.support.preparation import TITLES, expected, rows, run, world, written
from tlrec.data.sources import FORMS, find
from tlrec.errors import InputError

FLAGS = ["--history", 3, "--ratio", "2:1:1"]
WORLD = world()
MOVIES = [(str(n), title, "Drama|Comedy") for n, title in enumerate(TITLES, start=1)]
PLAIN = {n: f'"{title}"' for n, title, _ in MOVIES}


def delimited(rows, separator=",", end="\n"):
    """Lines as public files have them: quotes where a field needs them, doubled inside."""

    def cell(text):
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text else text

    return "".join(separator.join(map(cell, row)) + end for row in rows)


def write_json_lines(path, lines, notation=json.dumps):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(notation(line) + "\n" for line in lines)


# Each writes the world into a folder, and returns how its items are written in a record


def movielens_100k(folder):
    items = "".join(f"{n}|{title}|01-Jan-1995||http://x|0|1\n" for n, title, _ in MOVIES).replace("日本", "")
    (folder / "u.item").write_text(items, encoding="latin-1")
    (folder / "u.data").write_text(delimited(WORLD, "\t"))
    return {n: name.replace("日本", "") for n, name in PLAIN.items()}


def movielens_1m(folder):
    lines = "".join("::".join(row) + "\n" for row in MOVIES).replace("日本", "")
    (folder / "movies.dat").write_text(lines, encoding="latin-1")
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\r\n" for row in WORLD), newline="")
    return {n: name.replace("日本", "") for n, name in PLAIN.items()}


def movielens_10m(folder):
    (folder / "movies.dat").write_text("".join("::".join(row) + "\n" for row in MOVIES), encoding="utf-8")
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\n" for row in WORLD))
    return PLAIN


def movielens_csv(folder):
    (folder / "movies.csv").write_text("movieId,title,genres\n" + delimited(MOVIES), encoding="utf-8-sig")
    lines = delimited([(u, i, f"{r}.0", t) for u, i, r, t in WORLD], end="\r\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\r\n" + lines, newline="")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,fun,1\n")
    return PLAIN


def recbole(folder):
    lines = "".join(f"{u}\t{i}\t{r}.0\t{t}.0\n" for u, i, r, t in WORLD)
    (folder / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines)
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    items = "".join(f"{n}\t{title}\t1995\t{genre}\t\n" for n, title, genre in MOVIES)  # a separator too many
    (folder / "ml.item").write_text(header + items)
    return PLAIN


def goodbooks(folder):
    (folder / "ratings.csv").write_text("user_id,book_id,rating\n" + delimited([row[:3] for row in WORLD]))
    books = delimited([(n, "77", f"A{n}, B", title, "2008.0") for n, title, _ in MOVIES])
    header = "book_id,goodreads_book_id,authors,title,original_publication_year\n"
    (folder / "books.csv").write_text(header + books)
    return {n: f"{name} written by A{n}, B" for n, name in PLAIN.items()}


def goodbooks_kaggle(folder):
    (folder / "ratings.csv").write_text("book_id,user_id,rating\n" + delimited([(i, u, r) for u, i, r, _ in WORLD]))
    books = delimited([(n, "77", f"A{n}, B", title) for n, title, _ in MOVIES])
    (folder / "books.csv").write_text("id,book_id,authors,title\n" + books)
    return {n: f"{name} written by A{n}, B" for n, name in PLAIN.items()}


@pytest.mark.parametrize(
    ("form", "make", "kind"),
    [
        ("movielens", movielens_100k, "movie"),
        ("movielens", movielens_1m, "movie"),
        ("movielens", movielens_10m, "movie"),
        ("movielens", movielens_csv, "movie"),
        ("recbole", recbole, "item"),
        ("goodbooks", goodbooks, "book"),
        ("goodbooks", goodbooks_kaggle, "book"),
    ],
)
def test_films_and_books(tmp_path, capsys, form, make, kind):
    raw = tmp_path / "raw"
    raw.mkdir()
    names, timed = make(raw), form != "goodbooks"
    for number, flags in enumerate(([], ["--format", form, "--kind", "film", "--liked_above", 3])):
        run("--raw", raw, "--output", tmp_path / str(number), *FLAGS, *flags)
        said = capsys.readouterr().out
        assert f"format: {form} (" in said
        assert timed != ("warning: there are no times, so a user's ratings are taken in the order of" in said)
        wanted = expected(WORLD, names, "film" if flags else kind, by_time=timed)
        assert written(tmp_path / str(number)) == wanted
    times = {time for _, _, _, time in WORLD} if timed else {""}
    assert rows(tmp_path / "0" / "train.csv")[1][-1] in times  # whole, whatever the source
    if not timed:
        with pytest.raises(InputError, match="--split time: these ratings have no times"):
            run("--raw", raw, "--output", tmp_path / "time", "--split", "time", *FLAGS)


# ------------------------------------------------------------------------------------------------------ 2. products

ASINS = {n: f"B0000000{n:>02}" for n in PLAIN}
BRANDS = {"1": "Acme, Inc.", "2": None, "3": "None", "4": "Ann's"}  # the others are by Brand
PRODUCTS = {n: f"{name} written by {'Unknown' if n in '23' else BRANDS.get(n, 'Brand')}" for n, name in PLAIN.items()}
REVIEWS = [(f"A{user:0>13}", ASINS[item], rating, int(time)) for user, item, rating, time in WORLD]


def write_meta(path, notation=json.dumps):
    lines = [{"asin": asin, "title": TITLES[int(n) - 1], "brand": BRANDS.get(n, "Brand")} for n, asin in ASINS.items()]
    write_json_lines(
        path, [*lines, {"asin": "B000000099", "title": "", "brand": "x"}, {"asin": "B000000098"}], notation
    )


def amazon_2014(folder):
    write_meta(folder / "meta_Music.json.gz", notation=repr)
    names = "reviewerID", "asin", "overall", "unixReviewTime", "reviewText"
    reviews = [dict(zip(names, (u, i, float(r), t, "so ☃"))) for u, i, r, t in REVIEWS]
    write_json_lines(folder / "reviews_Music_5.json.gz", reviews)


def amazon_2014_csv(folder):
    write_meta(folder / "meta_Music.json", notation=repr)
    (folder / "ratings_Music.csv").write_text("".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in REVIEWS))


def amazon_2018(folder):
    write_meta(folder / "meta_Music.json")
    names = "overall", "verified", "reviewerID", "asin", "style", "unixReviewTime"
    reviews = [dict(zip(names, (float(r), True, u, i, {"Format:": " CD"}, t))) for u, i, r, t in REVIEWS]
    write_json_lines(folder / "Music.json", reviews)


def amazon_2018_csv(folder):
    write_meta(folder / "meta_Music.json.gz")
    (folder / "Music.csv").write_text("".join(f"{i},{u},{r}.0,{t}\n" for u, i, r, t in REVIEWS))


def write_meta_2023(folder):
    lines = []
    for place, (n, asin) in enumerate(ASINS.items()):
        maker = BRANDS.get(n, "Brand")
        named = [{"store": maker}, {"author": {"name": maker}}, {"details": {"Brand": maker}}][place % 3]
        lines.append({"title": TITLES[int(n) - 1], "parent_asin": asin, "store": None, "details": {}} | named)
    write_json_lines(folder / "meta_Music.jsonl", lines)


def amazon_2023(folder):
    write_meta_2023(folder)
    names = "rating", "title", "asin", "parent_asin", "user_id", "timestamp"
    reviews = [
        dict(zip(names, (float(r), "Such a lovely thing", "B0VARIANT9", i, u, t * 1000))) for u, i, r, t in REVIEWS
    ]
    write_json_lines(folder / "Music.jsonl", reviews)


def amazon_2023_csv(folder):
    write_meta_2023(folder)
    lines = "".join(f"{u},{i},{r}.0,{t}000\n" for u, i, r, t in REVIEWS)
    (folder / "Music.csv").write_text("user_id,parent_asin,rating,timestamp\n" + lines)


@pytest.mark.parametrize(
    "make", [amazon_2014, amazon_2014_csv, amazon_2018, amazon_2018_csv, amazon_2023, amazon_2023_csv]
)
def test_products(tmp_path, capsys, make):
    form = make.__name__.removesuffix("_csv").replace("_", "-")
    make(tmp_path)
    titles, ratings = sorted(tmp_path.iterdir(), key=lambda path: not path.name.startswith("meta"))
    for number, files in enumerate((["--raw", tmp_path], ["--ratings", ratings, "--items", titles])):
        run(*files, "--output", tmp_path / str(number), "--kind", "song", *FLAGS)
        assert f"format: {form} ({ratings.name}, {titles.name})\n" in capsys.readouterr().out
        assert written(tmp_path / str(number)) == expected(WORLD, PRODUCTS, "song")
    prepared = json.loads((tmp_path / "0" / "prepared.json").read_text())
    assert prepared["changed"] == {"items without a creator, written by Unknown": 2}
    titles.unlink()
    with pytest.raises(InputError, match=f"ratings of {form}, but no titles beside them; give --items FILE .meta_"):
        run("--raw", ratings, "--output", tmp_path / "none", *FLAGS)


# -------------------------------------------------------------------------------------------------------- 3. tables


@pytest.mark.parametrize("form", ["csv", "tsv", "semicolons.csv", "jsonl", "json", "jsonl.gz", "parquet", "bom.csv"])
def test_tables_with_columns_of_other_names(tmp_path, capsys, form):
    ratings = pd.DataFrame(WORLD, columns=["Reviewer-ID", "ASIN", "stars", "when"])
    items = pd.DataFrame({"asin": list(PLAIN), "Product Title": TITLES})
    columns, named = [], "user = Reviewer-ID, item = ASIN, rating = stars"
    if form == "parquet":
        columns, named = (
            ["--columns", "user=who", "item=what", "time=at"],
            "user = who, item = what, rating = stars, timestamp = at",
        )
        ratings = ratings.set_axis(["who", "what", "stars", "at"], axis=1).astype({"stars": float, "at": int})
        items = items.rename(columns={"asin": "what"})
    for name, table in (("r", ratings), ("i", items)):
        path = tmp_path / f"{name}.{form}"
        if form == "parquet":
            table.to_parquet(path)
        elif "json" in form:
            table.to_json(path, orient="records", lines="jsonl" in form)
        else:
            separator = {"tsv": "\t", "semicolons.csv": ";"}.get(form, ",")
            table.to_csv(path, sep=separator, index=False, encoding="utf-8-sig" if "bom" in form else "utf-8")
    files = ["--ratings", tmp_path / f"r.{form}", "--items", tmp_path / f"i.{form}"]
    run(*files, *columns, "--output", tmp_path / "out", "--kind", "game", *FLAGS)
    assert written(tmp_path / "out") == expected(WORLD, PLAIN, "game")
    assert f"columns of r.{form}: {named}" in capsys.readouterr().out


TITLED = [(u, i, TITLES[int(i) - 1], r, t) for u, i, r, t in WORLD]


@pytest.mark.parametrize(
    ("files", "ratings"),
    [
        ({"all.csv": "user,item,title,rating,date\n" + delimited(TITLED)}, "all.csv"),
        (
            {
                "own.jsonl": "\n".join(
                    json.dumps(dict(zip(("user_id", "item_id", "title", "rating", "time"), row))) for row in TITLED
                )
            },
            "own.jsonl",
        ),
        (
            {
                "my_ratings.tsv": "user\titem\trating\ttime\n" + delimited(WORLD, "\t"),
                "my_items.csv": "id,title\n" + delimited([row[:2] for row in MOVIES]),
            },
            "",
        ),
        *(  # with the columns of another source, but not its files
            (
                {
                    name: f"{user},{item},rating,timestamp\n" + delimited(WORLD),
                    "titles.csv": f"{item},name\n" + delimited([row[:2] for row in MOVIES]),
                },
                "",
            )
            for user, item, name in (
                ("user_id", "book_id", "ratings.csv"),
                ("userId", "movieId", "ratings_of_mine.csv"),
            )
        ),
    ],
    ids=["titles beside", "JSON lines", "a folder", "like goodbooks", "like movielens"],
)
def test_tables_of_your_own(tmp_path, files, ratings):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name).write_text(content)
    run("--raw", raw / ratings, "--output", tmp_path / "out", *FLAGS)
    assert written(tmp_path / "out") == expected(WORLD, PLAIN, "item")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_titles_that_are_the_ids_too(tmp_path, form):
    table = pd.DataFrame(TITLED, columns=["user", "-", "title", "rating", "time"]).drop(columns="-")
    path = tmp_path / f"all.{form}"
    if form == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False) if form == "csv" else table.to_json(path, orient="records", lines=True)
    run("--raw", path, "--columns", "item=title", "title=title", "--output", tmp_path / "out", *FLAGS)
    assert written(tmp_path / "out") == expected(WORLD, PLAIN, "item")


@pytest.mark.parametrize(
    ("times", "order", "kept"),
    [
        (["9007199254740993", "9007199254740992", "9007199254740994"], "BAC", "9007199254740994"),  # beyond 2**53
        (["1.5", "10", "9"], "ACB", "10"),  # one with a fraction leaves the others whole
        (["123456789012345678901234567890", "9", "9.25"], "BCA", "123456789012345678901234567890"),
        (["1.46e9", "1460000001", "1460000002.5"], "ABC", "1460000002.5"),
        (["2024-05-31", "2024-05-09T23:00", "2024-05-10 01:00:00"], "BCA", "2024-05-31"),
    ],
)
def test_times_are_exact_and_ids_text(tmp_path, times, order, kept):
    """The last of three ratings is the target of the only row of a user; every other user likes it."""
    ids = dict(zip("ABC", ("007", "7", "1e3")))
    users = [
        [(f"{user:03}", ids[name], "15"[user in (0, 2, 5, 7)], time) for name, time in zip("ABC", times)]
        for user in range(8)
    ]
    (tmp_path / "r.csv").write_text("user,item,rating,timestamp\n" + delimited(sum(users, [])))
    (tmp_path / "i.csv").write_text("item,title\n007,A\n7,B\n1e3,C\n")
    flags = ["--history", 2, "--ratio", "2:1:1", "--domain", "custom"]
    run("--ratings", tmp_path / "r.csv", "--items", tmp_path / "i.csv", "--output", tmp_path / "out", *flags)
    for row in rows(tmp_path / "out" / "train.csv")[1:]:
        assert json.loads(row[1]) == [ids[name] for name in order[:2]] and row[4] == ids[order[2]]
        assert row[7] == kept and row[0][:2] == "00"


# ------------------------------------------------------------------------------------------------- 4. what is wrong


def test_every_form_is_in_the_readme():
    readme = (REPOSITORY / "rec_data" / "README.md").read_text()
    for form in FORMS:
        assert f"`{form.name}`" in readme


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({"x.zip": "PK"}, ["--raw", "{raw}/x.zip"], "/x.zip: is an archive; unpack it and give the folder"),
        ({"deeper/ratings.csv": "x"}, [], ": holds only folders (deeper); give the one with the ratings"),
        ({}, [], ": holds no files, no known format (movielens, netflix, amazon-books, "),
        ({"notes.txt": "x"}, [], ": holds notes.txt, no known format ("),
        (
            {"notes.txt": "x"},
            ["--format", "goodbooks"],
            ": holds notes.txt, not what --format goodbooks has: ratings.csv",
        ),
        ({"ratings.csv": "userId,movieId,rating\n1,1,5\n"}, [], "/ratings.csv: ratings of movielens, but no titles"),
    ],
)
def test_folders_of_no_known_form(tmp_path, files, flags, message):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_text(content)
    flags = [flag.format(raw=raw) for flag in flags]
    with pytest.raises(InputError) as error:
        run("--raw", raw, "--output", tmp_path / "out", *flags)
    assert str(error.value).startswith(f"{raw}{message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:300], lambda b: b[:15] + b"\xff" * 15 + b[30:], lambda b: b[:400] + b"\xff" * 60]
)
def test_damaged_archives_are_one_line(tmp_path, damage):
    content = gzip.compress(
        ("user,item,title,rating,time\n" + "".join(f"{n * n},{n},x{n},3,{n}\n" for n in range(999))).encode()
    )
    (tmp_path / "r.csv.gz").write_bytes(damage(content))
    with pytest.raises(InputError, match="r.csv.gz: cannot be read"):
        run("--raw", tmp_path / "r.csv.gz", "--output", tmp_path / "out", *FLAGS)


def test_a_form_is_not_taken_for_another(tmp_path):
    for make, form in ((amazon_2014_csv, "amazon-2014"), (amazon_2018_csv, "amazon-2018"), (goodbooks, "goodbooks")):
        folder = tmp_path / form
        folder.mkdir()
        make(folder)
        assert find(folder).form.name == form
        with pytest.raises(InputError, match="not what --format netflix has: combined_data_1.txt with"):
            find(folder, name="netflix")
