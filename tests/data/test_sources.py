"""Every form of ratings that rec_data/README.md lists: tlrec/data/sources, prepare_data.py --format.

1. One small world, written by hand in each form with its quirks, gives the records of the plain definition, which is computed
   here; the form is recognised from names and first lines, and may be forced.
2. Titles are the products', creators are brand, author or store, times are seconds, milliseconds, dates or absent.
3. Columns of a table are found by common names or named; ids stay text, whole times whole.
4. What is not there, or of no known form, is one line.
"""

import datetime
import gzip
import json

import pandas as pd
import pytest

from tests.support.preparation import TITLES, expected, rows, run, world, written
from tlrec.data.sources import FORMS, find
from tlrec.errors import InputError

FLAGS = ["--history", 3, "--ratio", "2:1:1"]
WORLD = world()


def film(number):
    return f'"{TITLES[int(number) - 1]}"'


def plain(rows):
    return {item: film(item) for _, item, _, _ in rows}


def delimited(rows, separator=",", end="\n"):
    """Lines as public files have them: quotes where a field needs them, doubled inside."""

    def cell(text):
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text else text

    return "".join(separator.join(map(cell, row)) + end for row in rows)


MOVIES = [(str(n), title, "Drama|Comedy") for n, title in enumerate(TITLES, start=1)]


def movielens_100k(folder):
    items = "".join(f"{n}|{title}|01-Jan-1995||http://x|0|1\n" for n, title, _ in MOVIES).replace("日本", "")
    (folder / "u.item").write_text(items, encoding="latin-1")
    (folder / "u.data").write_text(delimited(WORLD, "\t"))
    return {str(n): f'"{title}"'.replace("日本", "") for n, title, _ in MOVIES}


def movielens_1m(folder):
    (folder / "movies.dat").write_bytes(delimited(MOVIES, "::").replace('"""', "").encode("latin-1", errors="ignore"))
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\r\n" for row in WORLD), newline="")
    lines = (folder / "movies.dat").read_bytes().decode("latin-1").split("\n")
    return {line.split("::")[0]: f'"{line.split("::")[1]}"' for line in lines if line}


def movielens_10m(folder):
    (folder / "movies.dat").write_text("".join("::".join(row) + "\n" for row in MOVIES), encoding="utf-8")
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\n" for row in WORLD))
    return plain(WORLD)


def movielens_csv(folder):
    (folder / "movies.csv").write_text("movieId,title,genres\n" + delimited(MOVIES), encoding="utf-8-sig")
    lines = delimited([(u, i, f"{r}.0", t) for u, i, r, t in WORLD], end="\r\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\r\n" + lines, newline="")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,fun,1\n")
    return plain(WORLD)


def recbole(folder):
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (folder / "ml.inter").write_text(
        inter + delimited([(u, i, f"{r}.0", f"{t}.0") for u, i, r, t in WORLD], "\t").replace('"', "")
    )
    items = "".join(f"{n}\t{title}\t1995\t{genre}\t\n" for n, title, genre in MOVIES)  # a separator too many
    (folder / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + items
    )
    return plain(WORLD)


@pytest.mark.parametrize(
    ("form", "make"),
    [
        ("movielens", movielens_100k),
        ("movielens", movielens_1m),
        ("movielens", movielens_10m),
        ("movielens", movielens_csv),
        ("recbole", recbole),
    ],
)
def test_films(tmp_path, capsys, form, make):
    raw = tmp_path / "raw"
    raw.mkdir()
    names = make(raw)
    kind = "movie" if form == "movielens" else "item"
    for number, flags in enumerate(([], ["--format", form], ["--kind", "film", "--liked_above", 3])):
        run("--raw", raw, "--output", tmp_path / str(number), *FLAGS, *flags)
        assert f"format: {form} (" in capsys.readouterr().out
        assert written(tmp_path / str(number)) == expected(WORLD, names, "film" if number == 2 else kind)
    assert rows(tmp_path / "0" / "train.csv")[1][-1] in {time for _, _, _, time in WORLD}  # whole, whatever the source


# ------------------------------------------------------------------------------------------------------ 2. products

ASINS = {str(n): f"B0000000{n:02}" for n in range(1, len(TITLES) + 1)}
BRANDS = {"1": "Acme, Inc.", "2": None, "3": "None", "4": "Ann's"}  # the others are by Brand


def brand(item):
    name = BRANDS.get(item, "Brand")
    return "Unknown" if name in (None, "None") else name


def amazon_rows(times=1):
    return [(f"A{user:0>13}", ASINS[item], rating, str(int(time) * times)) for user, item, rating, time in WORLD]


def product(item):
    return f"{film(item)} written by {brand(item)}"


def meta(folder, name, extra=(), notation=json.dumps, opener=open):
    lines = [
        {"asin": asin, "title": TITLES[int(item) - 1], "brand": BRANDS.get(item, "Brand")}
        for item, asin in ASINS.items()
    ]
    lines = [*lines, {"asin": "B000000099", "title": "", "brand": "x"}, {"asin": "B000000098"}, *extra]
    with opener(folder / name, "wt", encoding="utf-8") as file:
        file.writelines(notation(line) + "\n" for line in lines)


def amazon_2014(folder):
    meta(folder, "meta_Music.json.gz", notation=repr, opener=gzip.open)
    reviews = [
        {
            "reviewerID": u,
            "asin": i,
            "reviewText": "so ☃",
            "overall": float(r),
            "summary": "x",
            "unixReviewTime": int(t),
        }
        for u, i, r, t in amazon_rows()
    ]
    with gzip.open(folder / "reviews_Music_5.json.gz", "wt") as file:
        file.writelines(json.dumps(review) + "\n" for review in reviews)


def amazon_2014_csv(folder):
    meta(folder, "meta_Music.json", notation=repr)
    (folder / "ratings_Music.csv").write_text("".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in amazon_rows()))


def amazon_2018(folder):
    meta(folder, "meta_Music.json")
    reviews = [
        {
            "overall": float(r),
            "verified": True,
            "reviewerID": u,
            "asin": i,
            "style": {"Format:": " CD"},
            "unixReviewTime": int(t),
        }
        for u, i, r, t in amazon_rows()
    ]
    (folder / "Music.json").write_text("".join(json.dumps(review) + "\n" for review in reviews))


def amazon_2018_csv(folder):
    meta(folder, "meta_Music.json.gz", opener=gzip.open)
    (folder / "Music.csv").write_text("".join(f"{i},{u},{r}.0,{t}\n" for u, i, r, t in amazon_rows()))


def meta_2023(folder):
    lines = []
    for place, (item, asin) in enumerate(ASINS.items()):
        line = {
            "main_category": "Music",
            "title": TITLES[int(item) - 1],
            "parent_asin": asin,
            "store": None,
            "details": {},
        }
        maker = BRANDS.get(item, "Brand")
        lines.append(line | [{"store": maker}, {"author": {"name": maker}}, {"details": {"Brand": maker}}][place % 3])
    (folder / "meta_Music.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def amazon_2023(folder):
    meta_2023(folder)
    reviews = [
        {
            "rating": float(r),
            "title": "Such a lovely thing",
            "asin": "B0VARIANT9",
            "parent_asin": i,
            "user_id": u,
            "timestamp": int(t),
        }
        for u, i, r, t in amazon_rows(times=1000)
    ]
    (folder / "Music.jsonl").write_text("".join(json.dumps(review) + "\n" for review in reviews))


def amazon_2023_csv(folder):
    meta_2023(folder)
    lines = "".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in amazon_rows(times=1000))
    (folder / "Music.csv").write_text("user_id,parent_asin,rating,timestamp\n" + lines)


def goodbooks(folder):
    (folder / "ratings.csv").write_text("user_id,book_id,rating\n" + delimited([row[:3] for row in WORLD]))
    books = delimited([(n, "77", f"A{n}, B", title, "2008.0") for n, title, _ in MOVIES])
    header = "book_id,goodreads_book_id,authors,title,original_publication_year\n"
    (folder / "books.csv").write_text(header + books)


def goodbooks_kaggle(folder):
    (folder / "ratings.csv").write_text("book_id,user_id,rating\n" + delimited([(i, u, r) for u, i, r, _ in WORLD]))
    books = delimited([(n, "77", f"A{n}, B", title) for n, title, _ in MOVIES])
    (folder / "books.csv").write_text("id,book_id,authors,title\n" + books)


@pytest.mark.parametrize(
    ("form", "make"),
    [
        ("amazon-2014", amazon_2014),
        ("amazon-2014", amazon_2014_csv),
        ("amazon-2018", amazon_2018),
        ("amazon-2018", amazon_2018_csv),
        ("amazon-2023", amazon_2023),
        ("amazon-2023", amazon_2023_csv),
    ],
)
def test_products(tmp_path, capsys, form, make):
    make(tmp_path)
    ratings = next(path for path in tmp_path.iterdir() if not path.name.startswith("meta"))
    titles = next(path for path in tmp_path.iterdir() if path.name.startswith("meta"))
    for number, files in enumerate(
        (["--raw", tmp_path], ["--raw", ratings], ["--ratings", ratings, "--items", titles])
    ):
        run(*files, "--output", tmp_path / str(number), "--kind", "song", *FLAGS)
        assert f"format: {form} ({ratings.name}, {titles.name})\n" in capsys.readouterr().out
        assert written(tmp_path / str(number)) == expected(WORLD, {item: product(item) for item in ASINS}, "song")
    prepared = json.loads((tmp_path / "0" / "prepared.json").read_text())
    assert prepared["changed"] == {"items without a creator, written by Unknown": 2}
    titles.unlink()
    with pytest.raises(InputError, match=f"ratings of {form}, but no titles beside them; give --items FILE .meta_"):
        run("--raw", ratings, "--output", tmp_path / "none", *FLAGS)


@pytest.mark.parametrize("make", [goodbooks, goodbooks_kaggle])
def test_goodbooks_without_times(tmp_path, capsys, make):
    make(tmp_path)
    run("--raw", tmp_path, "--output", tmp_path / "out", *FLAGS)
    said = capsys.readouterr().out
    assert (
        "format: goodbooks (" in said
        and "warning: there are no times, so a user's ratings are taken in the order of" in said
    )
    names = {n: f"{film(n)} written by A{n}, B" for n, _, _ in MOVIES}
    assert written(tmp_path / "out") == expected(WORLD, names, "book", by_time=False)
    with pytest.raises(InputError, match="--split time: these ratings have no times"):
        run("--raw", tmp_path, "--output", tmp_path / "time", "--split", "time", *FLAGS)


def test_netflix(tmp_path):
    """Ratings stand by film, and times are dates."""
    films = {}
    for user, item, rating, time in WORLD:
        day = datetime.date(2004, 1, 1) + datetime.timedelta(int(time) - 999_999_980)
        films.setdefault(item, []).append((user, item, rating, day.isoformat()))
    lines = [f"{item}:\n" + "".join(f"{u},{r},{day}\n" for u, _, r, day in rated) for item, rated in films.items()]
    (tmp_path / "combined_data_1.txt").write_text("".join(lines))
    titles = "".join(f"{n},{1990 + int(n)},{title}\n" for n, title, _ in MOVIES)
    (tmp_path / "movie_titles.csv").write_text(titles, encoding="utf-8")
    run("--raw", tmp_path, "--output", tmp_path / "out", *FLAGS)
    ratings = [(u, i, r, day.replace("-", "")) for rated in films.values() for u, i, r, day in rated]
    names = {n: f'"{title.strip()} ({1990 + int(n)})"' for n, title, _ in MOVIES}
    assert written(tmp_path / "out") == expected(ratings, names, "movie")


def test_amazon_books(tmp_path, capsys):
    """Books called None are without a title in this source."""
    header = (
        "Id,Title,Price,User_id,profileName,review/helpfulness,review/score,review/time,review/summary,review/text\n"
    )
    lines = [(i, TITLES[int(i) - 1], "", u, "x", "1/1", f"{r}.0", t, "", 'a "text", long') for u, i, r, t in WORLD]
    (tmp_path / "Books_rating.csv").write_text(header + delimited(lines))
    books = delimited([(title, "", f"['A{n}', 'B']", "1999") for n, title, _ in MOVIES])
    (tmp_path / "books_data.csv").write_text("Title,description,authors,publishedDate\n" + books)
    run("--raw", tmp_path, "--output", tmp_path / "out", *FLAGS)
    kept = [row for row in WORLD if TITLES[int(row[1]) - 1] != "None"]
    names = {n: f"{film(n)} written by A{n}', 'B" for n, _, _ in MOVIES}
    assert written(tmp_path / "out") == expected(kept, names, "book")
    assert f"left out: {len(WORLD) - len(kept)} reviews with an empty field" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- 3. tables


@pytest.mark.parametrize("form", ["csv", "tsv", "semicolons.csv", "jsonl", "json", "jsonl.gz", "parquet", "bom.csv"])
def test_tables_with_columns_of_other_names(tmp_path, capsys, form):
    ratings = pd.DataFrame(WORLD, columns=["Reviewer-ID", "ASIN", "stars", "when"])
    items = pd.DataFrame({"asin": list(plain(WORLD)), "Product Title": [TITLES[int(n) - 1] for n in plain(WORLD)]})
    columns = []
    if form == "parquet":
        columns = ["--columns", "user=who", "item=what", "time=at"]
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
    assert written(tmp_path / "out") == expected(WORLD, plain(WORLD), "game")
    said = capsys.readouterr().out
    named = (
        "user = who, item = what, rating = stars, timestamp = at"
        if columns
        else "user = Reviewer-ID, item = ASIN, rating = stars"
    )
    assert f"columns of r.{form}: {named}" in said


def test_titles_beside_the_ratings(tmp_path):
    lines = [(u, i, TITLES[int(i) - 1], r, t) for u, i, r, t in WORLD]
    (tmp_path / "all.csv").write_text("user,item,title,rating,date\n" + delimited(lines))
    run("--raw", tmp_path / "all.csv", "--output", tmp_path / "out", *FLAGS)
    assert written(tmp_path / "out") == expected(WORLD, plain(WORLD), "item")


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
    """The last of three ratings is the target of the only row of a user."""
    ids = dict(zip("ABC", ("007", "7", "1e3")))
    lines = [
        (f"{user:03}", ids[name], "5" if user % 2 else "1", time)
        for user in range(4)
        for name, time in zip("ABC", times)
    ]
    (tmp_path / "r.csv").write_text("user,item,rating,timestamp\n" + delimited(lines))
    (tmp_path / "i.csv").write_text("item,title\n007,A\n7,B\n1e3,C\n")
    flags = ["--history", 2, "--ratio", "2:1:1", "--split", "order", "--domain", "custom"]
    with pytest.raises(InputError, match="valid: 0.0% of 1 rows are Yes"):
        run("--ratings", tmp_path / "r.csv", "--items", tmp_path / "i.csv", "--output", tmp_path / "out", *flags)
    lines += [(f"{int(user) + 4:03}", *rest) for user, *rest in lines] * 1
    lines = sorted(lines, key=lambda line: (int(line[0]) % 2, line[0]))  # users 0 2 4 6 1 3 5 7
    lines = [line for pair in zip(lines[:12], lines[12:]) for line in pair]
    (tmp_path / "r.csv").write_text("user,item,rating,timestamp\n" + delimited(lines))
    run("--ratings", tmp_path / "r.csv", "--items", tmp_path / "i.csv", "--output", tmp_path / "out", *flags)
    for row in rows(tmp_path / "out" / "train.csv")[1:]:
        assert json.loads(row[1]) == [ids[name] for name in order[:2]] and row[4] == ids[order[2]]
        assert row[7] == kept and row[0][:2] == "00"


# ------------------------------------------------------------------------------------------------- 4. what is wrong


def test_every_form_is_in_the_readme():
    from tests.conftest import REPOSITORY

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
            ": holds notes.txt, not what --format goodbooks has: ratings.csv with books.csv",
        ),
        (
            {"ratings.csv": "userId,movieId,rating,timestamp\n1,1,5,1\n"},
            [],
            "/ratings.csv: ratings of movielens, but no titles",
        ),
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


def test_tables_that_are_like_a_public_form(tmp_path):
    """A table of one's own with the columns of another source, but not its files."""
    for header, name in (
        ("user_id,book_id,rating,timestamp", "ratings.csv"),
        ("userId,movieId,rating,timestamp", "mine.csv"),
    ):
        (tmp_path / name).write_text(header + "\n" + delimited(WORLD))
        (tmp_path / "titles.csv").write_text(f"{header.split(',')[1]},name\n" + delimited([row[:2] for row in MOVIES]))
        run("--raw", tmp_path / name, "--items", tmp_path / "titles.csv", "--output", tmp_path / header[:5], *FLAGS)
        assert written(tmp_path / header[:5]) == expected(WORLD, plain(WORLD), "item")
    lines = [
        json.dumps(dict(zip(("user_id", "item_id", "rating", "time", "title"), (*row, TITLES[int(row[1]) - 1]))))
        for row in WORLD
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    run("--raw", tmp_path / "own.jsonl", "--output", tmp_path / "jsonl", *FLAGS)
    assert written(tmp_path / "jsonl") == expected(WORLD, plain(WORLD), "item")


def test_a_folder_with_a_table_of_ratings_and_one_of_items(tmp_path):
    raw = tmp_path / "mine"
    raw.mkdir()
    (raw / "my_ratings.tsv").write_text("user\titem\trating\ttime\n" + delimited(WORLD, "\t"))
    (raw / "my_items.csv").write_text("id,title\n" + delimited([row[:2] for row in MOVIES]))
    run("--raw", raw, "--output", tmp_path / "out", *FLAGS)
    assert written(tmp_path / "out") == expected(WORLD, plain(WORLD), "item")


def test_a_form_is_not_taken_for_another(tmp_path):
    for make, form in ((amazon_2014_csv, "amazon-2014"), (amazon_2018_csv, "amazon-2018"), (goodbooks, "goodbooks")):
        folder = tmp_path / form
        folder.mkdir()
        make(folder)
        assert find(folder).form.name == form
        with pytest.raises(
            InputError, match="not what --format netflix has: combined_data_1.txt with movie_titles.csv"
        ):
            find(folder, name="netflix")
