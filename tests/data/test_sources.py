"""Every form of ratings that rec_data/README.md lists: tlrec/data/sources, prepare_data.py --format.

1. One small world, written by hand in each form with its quirks and flaws, gives the records of the plain definition, which
   is computed here; what is left out is counted; the form is recognised from names and first lines, and may be forced.
2. --domain netflix and amazon-book: the definitions of the published records, where they differ.
3. Columns of a table are found by common names or named; ids stay text, whole times whole.
"""

import datetime
import gzip
import json
import re
from itertools import groupby

import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.support.preparation import TITLES, expected, id_rows, rows, run, world, written
from tlrec.data.sources import FORMS

FLAGS = ["--history", 3, "--ratio", "2:1:1"]
WORLD = world()
MOVIES = [(str(n), title, "Drama|Comedy") for n, title in enumerate(TITLES, start=1)]
LATIN = [(n, title.replace(" 日本", ""), genres) for n, title, genres in MOVIES]
PLAIN = {n: f'"{title}"' for n, title, _ in MOVIES}
PLAIN_LATIN = {n: f'"{title}"' for n, title, _ in LATIN}
SIGNED = {n: f"{name} written by A{n}, B" for n, name in PLAIN.items()}


def delimited(rows, separator=",", end="\n"):
    """Lines as public files have them: quotes where a field needs them, doubled inside."""

    def cell(text):
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text else text

    return "".join(separator.join(map(cell, row)) + end for row in rows)


def write_json_lines(path, lines, notation=json.dumps):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(notation(line) + "\n" for line in lines)


# ----------------------------------------------------------------------------------------------------------- 1. forms
# Each writes the world into a folder, and returns how its items are written in a record, the ratings in the order of the
# file, and what is said of its flaws


def movielens_100k(folder):
    items = "".join(f"{n}|{title}|01-Jan-1995||http://x|0|1\n" for n, title, _ in LATIN)
    (folder / "u.item").write_text(items, encoding="latin-1")
    (folder / "u.data").write_text(delimited(WORLD, "\t"))
    return PLAIN_LATIN, WORLD, []


def movielens_1m(folder, movies=LATIN, encoding="latin-1"):
    (folder / "movies.dat").write_text("".join("::".join(row) + "\n" for row in movies), encoding=encoding)
    (folder / "ratings.dat").write_text("".join("::".join(row) + "\r\n" for row in WORLD), newline="")
    return {n: f'"{title}"' for n, title, _ in movies}, WORLD, []


def movielens_10m(folder):
    return movielens_1m(folder, MOVIES, "utf-8")


def movielens_csv(folder):
    (folder / "movies.csv").write_text("movieId,title,genres\n" + delimited(MOVIES), encoding="utf-8-sig")
    lines = delimited([(u, i, f"{r}.0", t) for u, i, r, t in WORLD], end="\r\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\r\n" + lines, newline="")
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,fun,1\n")
    return PLAIN, WORLD, []


def netflix(folder):
    """Ratings stand below the number of their film; here with both line ends, and without a last one."""
    films = {n: ("NULL" if n == "2" else "1999", title) for n, title, _ in LATIN}
    titles = "".join(f"{n},{year},{title}\n" for n, (year, title) in films.items())
    (folder / "movie_titles.csv").write_text(titles, encoding="latin-1")
    day = datetime.date(2005, 1, 1).toordinal() - 999_999_980
    dated = [(u, i, r, str(datetime.date.fromordinal(day + int(time)))) for u, i, r, time in WORLD]
    dated.sort(key=lambda row: row[1])
    lines = []
    for film, rated in groupby(dated, lambda row: row[1]):
        lines += [f"{film}:", *(f"{user},{rating},{date}" for user, _, rating, date in rated)]
    text = "\n".join(lines[:25]) + "\r\n" + "\r\n".join(lines[25:])
    (folder / "combined_data_1.txt").write_text(text, newline="")
    named = {
        n: f'"{title.strip()}"' if year == "NULL" else f'"{title.strip()} ({year})"'
        for n, (year, title) in films.items()
    }
    return named, dated, []


def amazon_books(folder):
    """Joined by title; "None" is an empty field to pandas. Dust has another edition, which user 3 reviewed."""
    authors = "['Rick Steves', \"Tim O'Guide\"]"
    books = [(title, authors, "2004*") for title in TITLES]
    books += [("Dust", "['Somebody']", "1990"), ("Unsigned", "", "2000"), ("Untimely", authors, "")]
    (folder / "books_data.csv").write_text("Title,authors,publishedDate\n" + delimited(books))
    reviews = [("8b" if (u, i) == ("3", "8") else i, TITLES[int(i) - 1], u, f"{r}.0", t) for u, i, r, t in WORLD]
    reviews += [("8", "Dust", "3", "1.0", "1"), ("8", "Dust", "", "5.0", "9")]  # again; by nobody
    reviews += [(title, title, "1", "5.0", "9") for title in ("Unsigned", "Untimely", "Unknown")]
    (folder / "Books_rating.csv").write_text("Id,Title,User_id,review/score,review/time\n" + delimited(reviews))
    ratings = [row for row in WORLD if row[1] != "5"]
    flaws = [
        "left out: 1 books of books_data.csv with the title of another",
        "left out: 1 further reviews of the same title by the same user",
        f"left out: {len(WORLD) - len(ratings) + 1} reviews with an empty field (most: no user)",
        "left out: 1 reviews of titles that are not in books_data.csv",
        "left out: 2 reviews of books without author or year",
        "changed: 1 ids with title and creator of another, taken for one",
    ]
    return {n: f"{name} written by Rick Steves', \"Tim O'Guide" for n, name in PLAIN.items()}, ratings, flaws


BOOK_FLAWS = [
    "left out: 1 implicit ratings (0)",
    "left out: 1 ratings of books that are not in the table",
    "left out: 1 ratings of books without title or author",
]


def book_crossing(folder):
    """Semicolons and a backslash before quotes, which moves them; one line breaks at a semicolon behind a quote."""
    books = [(n, title.replace('"', '\\"'), f"A{n}, B") for n, title, _ in LATIN]
    books += [("10", "No author", ""), ("11", 'A \\"Title\\"; more', "An Author")]
    header = '"ISBN";"Book-Title";"Book-Author"\n'
    text = header + "".join(";".join(f'"{cell}"' for cell in row) + "\n" for row in books)
    (folder / "BX-Books.csv").write_text(text, encoding="latin-1")
    ratings = [*[row[:3] for row in WORLD], ("1", "10", "5"), ("1", "99", "5"), ("2", "10", "0")]
    lines = "".join(f'"{user}";"{book}";"{rating}"\n' for user, book, rating in ratings)
    (folder / "BX-Book-Ratings.csv").write_text('"User-ID";"ISBN";"Book-Rating"\n' + lines)
    named = {n: f"{name} written by A{n}, B" for n, name in PLAIN_LATIN.items()}
    named["2"] = '"The \\B\\" Side, Part 2"" written by A2, B'
    return named, WORLD, ["left out: 1 malformed lines of BX-Books.csv", *BOOK_FLAWS]


def book_crossing_kaggle(folder):
    """Of two rows whose fields are shifted by one, the first has the author in its title still."""
    books = [(n, title, f"A{n}, B", "1999", "P") for n, title, _ in MOVIES]
    books[7] = ("8", 'Dust\\";A8, B"', "1999", "P", "")
    books.append(("10", "No author behind it", "2003", "Gallimard", ""))
    header = "ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher\n"
    (folder / "Books.csv").write_text(header + delimited(books))
    ratings = [*[row[:3] for row in WORLD], ("1", "10", "5"), ("1", "99", "5"), ("2", "10", "0")]
    (folder / "Ratings.csv").write_text("User-ID,ISBN,Book-Rating\n" + delimited(ratings))
    shifted = ["left out: 1 shifted rows of Books.csv", "changed: 1 shifted rows of Books.csv, repaired"]
    return SIGNED, WORLD, [*shifted, *BOOK_FLAWS]


def recbole(folder):
    lines = "".join(f"{u}\t{i}\t{r}.0\t{t}.0\n" for u, i, r, t in WORLD)
    (folder / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines)
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    items = "".join(f"{n}\t{title}\t1995\t{genre}\t\n" for n, title, genre in MOVIES)  # a separator too many
    (folder / "ml.item").write_text(header + items)
    return PLAIN, WORLD, []


def goodbooks(folder, header="book_id,goodreads_book_id,authors,title"):
    (folder / "ratings.csv").write_text("user_id,book_id,rating\n" + delimited([row[:3] for row in WORLD]))
    books = delimited([(n, "77", f"A{n}, B", title, "2008.0") for n, title, _ in MOVIES])
    (folder / "books.csv").write_text(f"{header},original_publication_year\n{books}")
    return SIGNED, WORLD, []


def goodbooks_kaggle(folder):
    return goodbooks(folder, "id,book_id,authors,title")


ASINS = {n: f"B0000000{n:>02}" for n in PLAIN}
BRANDS = dict.fromkeys(PLAIN, "Brand") | {"1": "Acme, Inc.", "2": None, "3": "None", "4": "Ann's"}
PRODUCTS = {n: f"{name} written by {'Unknown' if n in '23' else BRANDS[n]}" for n, name in PLAIN.items()}
OF_PRODUCTS = PRODUCTS, WORLD, ["changed: 2 items without a creator, written by Unknown"]
REVIEWS = [(f"A{user:0>13}", ASINS[item], rating, int(time)) for user, item, rating, time in WORLD]


def write_meta(path, notation=json.dumps):
    lines = [{"asin": asin, "title": TITLES[int(n) - 1], "brand": BRANDS[n]} for n, asin in ASINS.items()]
    write_json_lines(path, [*lines, {"asin": "B000000099", "title": ""}, {"asin": "B000000098"}], notation)


def amazon_2014(folder):
    write_meta(folder / "meta_Music.json.gz", notation=repr)
    names = "reviewerID", "asin", "overall", "unixReviewTime", "reviewText"
    reviews = [dict(zip(names, (u, i, float(r), t, "so ☃"))) for u, i, r, t in REVIEWS]
    write_json_lines(folder / "reviews_Music_5.json.gz", reviews)
    return OF_PRODUCTS


def amazon_2018(folder):
    write_meta(folder / "meta_Music.json")
    names = "overall", "verified", "reviewerID", "asin", "style", "unixReviewTime"
    reviews = [dict(zip(names, (float(r), True, u, i, {"Format:": " CD"}, t))) for u, i, r, t in REVIEWS]
    write_json_lines(folder / "Music.json", reviews)
    return OF_PRODUCTS


def amazon_2014_csv(folder):
    write_meta(folder / "meta_Music.json", notation=repr)
    (folder / "ratings_Music.csv").write_text("".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in REVIEWS))
    return OF_PRODUCTS


def amazon_2018_csv(folder):
    write_meta(folder / "meta_Music.json.gz")
    (folder / "Music.csv").write_text("".join(f"{i},{u},{r}.0,{t}\n" for u, i, r, t in REVIEWS))
    return OF_PRODUCTS


def write_meta_2023(folder):
    lines = []
    for place, (n, asin) in enumerate(ASINS.items()):
        maker = BRANDS[n]
        named = [{"store": maker}, {"author": {"name": maker}}, {"details": {"Brand": maker}}][place % 3]
        lines.append({"title": TITLES[int(n) - 1], "parent_asin": asin, "store": None, "details": {}} | named)
    write_json_lines(folder / "meta_Music.jsonl", lines)


def amazon_2023(folder):
    write_meta_2023(folder)
    names = "rating", "title", "asin", "parent_asin", "user_id", "timestamp"
    reviews = [dict(zip(names, (float(r), "Such a thing", "B0VARIANT9", i, u, t * 1000))) for u, i, r, t in REVIEWS]
    write_json_lines(folder / "Music.jsonl", reviews)
    return OF_PRODUCTS


def amazon_2023_csv(folder):
    write_meta_2023(folder)
    lines = "".join(f"{u},{i},{r}.0,{t}000\n" for u, i, r, t in REVIEWS)
    (folder / "Music.csv").write_text("user_id,parent_asin,rating,timestamp\n" + lines)
    return OF_PRODUCTS


@pytest.mark.parametrize(
    ("form", "make", "kind", "by"),
    [
        ("movielens", movielens_100k, "movie", float),
        ("movielens", movielens_1m, "movie", float),
        ("movielens", movielens_10m, "movie", float),
        ("movielens", movielens_csv, "movie", float),
        ("netflix", netflix, "movie", str),
        ("amazon-books", amazon_books, "book", float),
        ("book-crossing", book_crossing, "book", None),
        ("book-crossing", book_crossing_kaggle, "book", None),
        ("goodbooks", goodbooks, "book", None),
        ("goodbooks", goodbooks_kaggle, "book", None),
        ("recbole", recbole, "item", float),
        ("amazon-2014", amazon_2014, "item", float),
        ("amazon-2014", amazon_2014_csv, "item", float),
        ("amazon-2018", amazon_2018, "item", float),
        ("amazon-2018", amazon_2018_csv, "item", float),
        ("amazon-2023", amazon_2023, "item", float),
        ("amazon-2023", amazon_2023_csv, "item", float),
    ],
)
def test_every_form(form, make, kind, by, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    names, ratings, flaws = make(raw)
    run("--raw", raw, "--output", tmp_path / "found", *FLAGS)
    said = capsys.readouterr().out
    files = re.match(rf"format: {form} \((\S+), (\S+)\)\n", said)
    assert sorted(re.findall("(?:left out|changed): .*", said)) == sorted(flaws)
    assert ("warning: there are no times, so a user's ratings are taken in the order of" in said) == (by is None)
    assert written(tmp_path / "found") == expected(ratings, names, kind, by=by)
    if by:  # times are whole, whatever the source
        known = {row[3] for row in ratings}
        assert all({time, time.removesuffix("000")} & known for *_, time in id_rows(tmp_path / "found"))

    flags = ["--ratings", raw / files[1], "--items", raw / files[2], "--format", form, "--kind", "film"]
    run(*flags, "--liked_above", 2, "--output", tmp_path / "named", *FLAGS)
    assert written(tmp_path / "named") == expected(ratings, names, "film", above=2, by=by)


def test_every_form_is_in_the_readme():
    readme = (REPOSITORY / "rec_data" / "README.md").read_text()
    for form in FORMS:
        assert f"`{form.name}`" in readme


# ------------------------------------------------------------------------------------------- 2. published definitions


def test_netflix_as_published_has_no_commas_in_titles(tmp_path):
    names, ratings, _ = netflix(tmp_path)
    run("--domain", "netflix", "--raw", tmp_path, "--output", tmp_path / "out", *FLAGS)
    names = {item: name.replace(",", "") for item, name in names.items()}
    assert written(tmp_path / "out") == expected(ratings, names, "movie", by=str)


@pytest.mark.parametrize("split", ["order", "time"])
def test_amazon_book_sorts_times_as_text_in_the_published_order_only(tmp_path, split):
    names, ratings, _ = amazon_books(tmp_path)
    run("--domain", "amazon-book", "--raw", tmp_path, "--output", tmp_path / "out", *FLAGS, "--split", split)
    wanted, found = (
        expected(ratings, names, "book", above=4, by=str if split == "order" else float),
        written(tmp_path / "out"),
    )
    assert found == wanted if split == "order" else sorted(sum(found.values(), [])) == sorted(sum(wanted.values(), []))
    times = [int(time) for *_, time in id_rows(tmp_path / "out")]
    assert (times == sorted(times)) == (split == "time")
    assert "8b" in (tmp_path / "out" / "item_mapping.csv").read_text()  # editions are told apart


# -------------------------------------------------------------------------------------------------------- 3. tables


@pytest.mark.parametrize(
    "form", ["mac.csv", "tsv", "semicolons.csv", "jsonl", "json", "jsonl.gz", "parquet", "bom.csv"]
)
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
            end, encoding = "\r" if "mac" in form else "\n", "utf-8-sig" if "bom" in form else "utf-8"
            table.to_csv(path, sep=separator, index=False, lineterminator=end, encoding=encoding)
    files = ["--ratings", tmp_path / f"r.{form}", "--items", tmp_path / f"i.{form}"]
    run(*files, *columns, "--output", tmp_path / "out", "--kind", "game", *FLAGS)
    assert written(tmp_path / "out") == expected(WORLD, PLAIN, "game")
    assert f"columns of r.{form}: {named}" in capsys.readouterr().out


TITLED = [(u, i, TITLES[int(i) - 1], r, t) for u, i, r, t in WORLD]
NAMED = delimited([row[:2] for row in MOVIES])


@pytest.mark.parametrize(
    ("files", "flags"),
    [
        ({"all.csv": "user,item,title,rating,date\n" + delimited(TITLED)}, []),
        ({"a.csv": "user,-,title,rating,date\n" + delimited(TITLED)}, ["--columns", "item=title", "title=title"]),
        ({"r.tsv": "user\titem\trating\ttime\n" + delimited(WORLD, "\t"), "my_items.csv": f"id,title\n{NAMED}"}, []),
        # with the columns of another source, but not its files
        ({"r.csv": f"user_id,book_id,rating,time\n{delimited(WORLD)}", "titles.csv": f"book_id,name\n{NAMED}"}, []),
        ({"r.csv": f"userId,movieId,rating,timestamp\n{delimited(WORLD)}", "titles.csv": f"movieId,name\n{NAMED}"}, []),
    ],
    ids=["titles beside", "titles are the ids", "a folder", "like goodbooks", "like movielens"],
)
def test_tables_of_your_own(tmp_path, files, flags):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name.replace("r.", "ratings_of_mine.")).write_text(content)
    run("--raw", raw / name if len(files) == 1 else raw, "--output", tmp_path / "out", *flags, *FLAGS)
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
