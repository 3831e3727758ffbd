"""rec_data/prepare_data.py and instruction_data/prepare_data.py, from raw ratings to the files of a data set.

1. Windows are those of the plain definition, whatever is left unsorted for speed; the splits keep what they promise.
2. Small raw files give records, tables of ids and counts that are spelled out here; both scripts give the same.
3. MovieLens-100K gives the published files byte for byte, Book-Crossing as many records as the published ones.
4. Raw files that are downloaded are fetched once, checked, and unpacked inside the cache.
5. An interruption leaves nothing behind.
"""

import hashlib
import io
import json
import random
import runpy
import zipfile

import numpy as np
import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from tests.support.hostile import serving
from tests.support.preparation import RAW, id_rows, refused, rows, run, wording, write_raw, written
from tlrec.data.preferences import parse_input
from tlrec.data.preparation import FILES
from tlrec.data.published import FILES as PUBLISHED
from tlrec.data.published import git_blob_sha1
from tlrec.data.windows import Example, last_windows, split_examples

# -------------------------------------------------------------------------------------------- 1. windows and splits


def random_ratings(seed, users=9, count=120):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": rng.integers(0, users, count),
            "item": rng.permutation(count),
            "rating": rng.integers(1, 6, count),
            "timestamp": rng.integers(0, 40, count).astype(str),
        }
    ).assign(order=lambda table: table["timestamp"])


@pytest.mark.parametrize("last", [1, 50, 10_000, -1])
def test_windows_are_those_of_the_definition(last):
    ratings = random_ratings(seed=last + 2)
    by_user = {}
    for row in ratings.itertuples(index=False):
        by_user.setdefault(row.user, []).append(row)
    expected = []
    for rated in by_user.values():
        rated.sort(key=lambda row: row.timestamp)
        for k in range(4, len(rated)):
            before, target = rated[k - 4 : k], rated[k]
            history = tuple((row.item, row.rating) for row in before)
            expected.append(Example(target.user, history, target.item, target.rating, target.timestamp, target.order))
    expected = expected if last == -1 else expected[-last:]
    assert last_windows(ratings, history=4, last=last) == expected


def test_user_split_shares_no_user():
    examples = last_windows(random_ratings(seed=0, users=40, count=900), history=3, last=-1)
    splits = split_examples(examples, "user", [8, 1, 1], seed=0)
    users = [{example.user for example in part} for part in splits.values()]
    assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
    assert sorted(map(str, sum(splits.values(), []))) == sorted(map(str, examples))
    assert 0.74 < len(splits["train"]) / len(examples) <= 0.8
    other = split_examples(examples, "user", [8, 1, 1], seed=1)
    assert {example.user for example in other["train"]} != users[0]


def test_one_example_a_user_is_cut_exactly():
    examples = [Example(user, (("a", 1),), "b", 5) for user in range(97)]
    splits = split_examples(examples, "user", [8, 1, 1], seed=3)
    users = list(range(97))
    random.Random(3).shuffle(users)
    assert [example.user for part in splits.values() for example in part] == users
    assert [len(part) for part in splits.values()] == [77, 10, 10]


# ------------------------------------------------------------------------------------------------ 2. spelled out


@pytest.fixture
def movie(tmp_path):
    """Flags for the small raw files of MovieLens."""
    return ["--domain", "movie", "--raw", write_raw(tmp_path / "raw", "movielens"), "--history", 2, "--ratio", "2:1:1"]


# User 7 comes first; 99 < 100, and the two ratings of time 100 keep their order: 2 1 3 4. User 5: 1 2 4 3
TOY, AMELIE, NO, YES = '"Toy Story (1995)"', '"Amélie (2001)"', '"No "Quotes", Please (1999)"', '"Yes, Yes (2004)"'
MOVIES = {
    "train": [
        (wording("", f"{AMELIE}, {TOY}", NO), "No."),
        (wording("", f"{TOY}, {NO}", YES), "Yes."),
    ],
    "valid": [(wording(AMELIE, TOY, YES), "Yes.")],
    "test": [(wording(f"{AMELIE}, {YES}", "", NO), "No.")],
}


def test_titles_that_do_not_parse_back_are_counted(movie, tmp_path, capsys):
    text = RAW["movielens"]["u.item"].replace('No "Quotes", Please', 'Side "A", "B" Side')
    (tmp_path / "raw" / "u.item").write_text(text)  # in UTF-8
    run(*movie, "--output", tmp_path / "out")
    assert "1 records hold a title that does not parse back" in capsys.readouterr().out


def test_both_scripts(movie, tmp_path, monkeypatch, capsys):
    def call(folder, *flags):
        monkeypatch.setattr(
            "sys.argv", list(map(str, ["prepare_data.py", *movie, *flags, "--output", tmp_path / folder]))
        )
        runpy.run_path(str(REPOSITORY / folder / "prepare_data.py"), run_name="__main__")

    with pytest.raises(SystemExit) as stop:
        call("rec_data", "--raw", "nowhere")
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: nowhere: no such file or folder\n")
    for folder in ("rec_data", "instruction_data"):
        call(folder)
        assert capsys.readouterr().out == (
            "format: movielens (u.data, u.item)\n"
            "8 ratings of 4 items by 2 users\n"
            "ratings from 1 to 5: more than 3 is a like (--liked_above)\n"
            "train      2 records, 50.0% Yes, 1 users\n"
            "valid      1 records, 100.0% Yes, 1 users, 0 of them also in train\n"
            "test       1 records,  0.0% Yes, 1 users, 0 of them also in train\n"
            f"written to {tmp_path / folder}\n"
        )
        assert written(tmp_path / folder) == MOVIES
    for name in FILES:
        assert (tmp_path / "rec_data" / name).read_bytes() == (tmp_path / "instruction_data" / name).read_bytes()

    out = tmp_path / "rec_data"
    assert rows(out / "train.csv") == [
        "user_id history_item_id history_rating history_label item_id rating label timestamp".split(),
        ["7", '["2", "1"]', "[1, 3]", "[0, 0]", "3", "2", "0", "100"],
        ["7", '["1", "3"]', "[3, 2]", "[0, 0]", "4", "4", "1", "999"],
    ]
    assert id_rows(out)[2] == ["5", '["1", "2"]', "[2, 4]", "[0, 1]", "4", "5", "1", "300"]
    assert rows(out / "item_mapping.csv") == [
        ["item_id", "title", "creator", "kind"],
        ["1", "Toy Story (1995)", "", "movie"],
        ["2", "Amélie (2001)", "", "movie"],
        ["3", 'No "Quotes", Please (1999)', "", "movie"],
        ["4", "Yes, Yes (2004)", "", "movie"],
    ]
    prepared = json.loads((out / "prepared.json").read_text())
    assert prepared["settings"]["history"] == 2 and prepared["settings"]["last"] == 10_000
    assert prepared["raw"]["u.data"] == hashlib.sha256(RAW["movielens"]["u.data"].encode()).hexdigest()
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


TOWERS, REAL = '"Säulen &amp; Türme" written by Ken', '"The \\Real\\" Thing"" written by Ann'
CREATURES, AB, SEVEN = '"Creatures, Great" written by Jim', '"A; B" written by Sem', '"Seven" written by S'


def test_book(tmp_path):
    raw, out = write_raw(tmp_path / "raw", "book-crossing"), tmp_path / "out"
    run("--domain", "book", "--raw", raw, "--output", out, "--ratio", "1:1:1")
    users = [row[0] for row in id_rows(out)]
    # What seed 42 makes of four ratings a b c d is c b d a, a constant of Python's generator
    assert dict(zip(users, sum(written(out).values(), []), strict=True)) == {
        "8": (wording(AB, f"{REAL}, {SEVEN}", f'"{TOWERS}"', "book"), "Yes."),  # the 0 of book 03 is left out
        "7": (wording(f"{REAL}, {AB}", CREATURES, f'"{TOWERS}"', "book"), "Yes."),
        "6": (wording(f"{CREATURES}, {AB}, {TOWERS}", "", f'"{SEVEN}"', "book"), "Yes."),
    }
    shuffled = ["8", "7", "6"]
    random.Random(0).shuffle(shuffled)
    assert users == shuffled


def test_book_with_other_definitions(tmp_path):
    raw, out = write_raw(tmp_path / "raw", "book-crossing"), tmp_path / "out"
    flags = ["--ratio", "1:1:1", "--implicit", "keep", "--target_quotes", "single", "--split", "order", "--history", 2]
    run("--domain", "book", "--raw", raw, "--output", out, *flags)
    table = id_rows(out)
    assert [row[0] for row in table] == ["8", "7", "6"]
    isbn = ["01", "02", "03", "06", "07"]
    random.Random(42).shuffle(isbn)
    assert json.loads(table[0][1]) == isbn[:2] and table[0][4] == isbn[-1]
    assert written(out)["valid"][0][0].endswith(f"book {TOWERS}?")


# -------------------------------------------------------------------------------------------------- 3. the real data


@pytest.mark.slow
def test_movielens_gives_the_published_files(shared_data, tmp_path):
    run("--domain", "movie", "--raw", shared_data / "raw" / "ml-100k", "--output", tmp_path)
    for name in ("valid", "test"):
        assert git_blob_sha1(tmp_path / f"{name}.json") == PUBLISHED[f"rec_data/movie/{name}.json"][0]
    published = shared_data / "rec_data" / "movie" / "train.json"
    assert (tmp_path / "train.json").read_bytes() == published.read_bytes()
    assert len(rows(tmp_path / "item_mapping.csv")) == 1 + 1682


@pytest.mark.slow
def test_book_crossing_copy(shared_data, tmp_path, capsys):
    run("--domain", "book", "--raw", shared_data / "raw" / "book-crossing", "--output", tmp_path)
    assert capsys.readouterr().out.splitlines()[1] == "204164 ratings of 18185 items by 48299 users"
    assert len({user for user, *_ in id_rows(tmp_path)}) == 10047
    records = written(tmp_path)
    assert [len(part) for part in records.values()] == [8037, 1005, 1005]
    for text, _ in sum(records.values(), []):
        preference = parse_input(text)
        assert 3 <= len(preference.history) <= 10
        assert all(item.creator for item in (*preference.history, preference.target))


# ------------------------------------------------------------------------------------------------------ 4. download


def zipped(files):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return archive.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Serves the archive `content` on the loopback address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def answer(request):
        found = request.path.endswith("ml-100k.zip")
        request.reply(server.content if found else b"", 200 if found else 404)

    with serving(answer) as server:
        files = {f"ml-100k/{name}": content.encode("latin-1") for name, content in RAW["movielens"].items()}
        server.content, server.url = zipped(files | {"ml-100k/../../evil": "outside"}), f"{server.url}/ml-100k.zip"
        yield server


def download(server, folder, *flags):
    words = ["--domain", "movie", "--download", "--cache", folder / "cache", "--history", 2, "--ratio", "2:1:1"]
    return [*words, "--url", server.url, "--digest", f"sha256:{hashlib.sha256(server.content).hexdigest()}", *flags]


def test_download_once(server, tmp_path):
    for name in ("out", "again"):
        run(*download(server, tmp_path / "in", "--output", tmp_path / name))
        assert written(tmp_path / name) == MOVIES
    assert len(server.requests) == 1
    assert [path.parent.parent.name for path in tmp_path.rglob("evil")] == ["ml-100k.zip.unzip"]


def test_what_is_not_the_archive_is_not_used(server, tmp_path):
    def said(*flags):
        return refused(tmp_path, *download(server, tmp_path, *flags))

    assert " does not match " in (line := said("--digest", "md5:" + "0" * 32))
    assert line.startswith(f"{server.url}: ") and line.endswith("; try again, or give --url or --digest")
    assert said("--digest", "crc:1") == "--digest crc:1: write it as sha256:HEX or md5:HEX"
    gone = said("--url", server.url.replace("ml-100k", "gone"))
    assert ": 404 " in gone and gone.endswith("; give another address as --url, or get it by hand for --raw")
    for url in ("http://127.0.0.1:9/ml-100k.zip", "ml-100k.zip", "crab://x/ml-100k.zip"):
        assert said("--url", url).endswith("; try again, or give --url or --digest")
    server.content = b"<html>moved</html>"
    assert said().startswith(f"{server.url}: not a zip archive")
    server.content = zipped({"readme": ""})
    assert said() == f"{server.url}: u.data is not in it"


# --------------------------------------------------------------------------------------------------- 5. interruption


def test_an_interruption_leaves_nothing_behind(movie, tmp_path, monkeypatch):
    from tlrec.data import preparation

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_write_examples", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(*movie, "--output", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]
