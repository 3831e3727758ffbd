"""What prepare_data.py does where ratings are not as they should be: tlrec/data/policies.py.

1. Repeated ratings, identical lines, items without a title or of two lines, ids with one title: decided, counted, kept.
2. The scale says what a like is; a split with one label, clicks and unknown scales are one line with the flag to give.
3. Dislikes drawn for clicks are unseen items of like popularity; the same flags give the same bytes.
"""

import csv
import json
from collections import Counter

import pytest

from tests.support.preparation import TITLES, expected, id_rows, run, world, written
from tlrec.data.preparation import FILES
from tlrec.errors import InputError

FLAGS = ["--history", 3, "--ratio", "2:1:1"]
NAMES = {str(n): f'"{title}"' for n, title in enumerate(TITLES, start=1)}


def write(folder, ratings, items=None):
    header = "user,item,rating,timestamp" if len(ratings[0]) == 4 else "user,item,timestamp"
    (folder / "r.csv").write_text("\n".join([header, *map(",".join, ratings)]))
    with open(folder / "i.csv", "w", newline="") as file:
        csv.writer(file).writerows(items or [["item", "title"], *enumerate(TITLES, start=1)])


def prepare(folder, *flags, name="out"):
    run("--ratings", folder / "r.csv", "--items", folder / "i.csv", "--output", folder / name, *FLAGS, *flags)
    return json.loads((folder / name / "prepared.json").read_text())


# ------------------------------------------------------------------------------------------------------ 1. decisions


@pytest.mark.parametrize("how", ["last", "first", "mean", "error"])
def test_repeated_ratings(tmp_path, how):
    once = world(count=7)
    again = [(user, item, str(6 - int(rating)), str(int(time) + 7)) for user, item, rating, time in once[::5]]
    write(tmp_path, [*again, *once, *once[:4]])  # the later ones come first, and four lines are there twice
    if how == "error":
        said = f"/r.csv: line {len(again) + 2}: a second rating .*, one of {len(again)}; give --repeated last, first or mean"
        with pytest.raises(InputError, match=said):
            prepare(tmp_path, "--repeated", how)
        return
    counts = prepare(tmp_path, "--repeated", how)["skipped"]
    assert counts == {
        "lines that repeat an earlier one": 4,
        f"ratings of an item that its user rated again, of which the {how} counts": len(again),
    }
    pairs = {row[:2] for row in again}
    kept = [*again, *[row for row in once if row[:2] not in pairs]] if how != "first" else once
    if how == "mean":
        kept = [(u, i, "3" if (u, i) in pairs else rating, time) for u, i, rating, time in kept]
    assert written(tmp_path / "out") == expected(kept, NAMES, "item")


def test_items_without_titles_and_ratings_of_unknown_items(tmp_path):
    ratings = world()
    titles = [(n, "" if n == 4 else title) for n, title in enumerate(TITLES[:-1], start=1)]
    write(tmp_path, ratings, [["item", "title"], (1, ""), *titles, (3, "x")])
    assert prepare(tmp_path)["skipped"] == {
        "items without a title": 2,
        "further descriptions of an item": 1,
        "ratings of items without a title": sum(item in ("4", "9") for _, item, _, _ in ratings),
    }
    kept = [row for row in ratings if row[1] not in ("4", "9")]
    assert written(tmp_path / "out") == expected(kept, NAMES, "item")


@pytest.mark.parametrize("how", ["one", "keep"])
def test_ids_with_one_title(tmp_path, how):
    ratings = world(count=9)
    names = [(1, "Dust", "A", "1990"), (2, "Dust", "A", "2001"), (3, "Dust", "A", ""), (4, "Dust", "A", "")]
    names += [(5, "Dust", "B", ""), *((n, TITLES[n - 1], "C", "") for n in (6, 7, 8, 9))]
    write(tmp_path, ratings, [["item", "title", "creator", "year"], *names])
    counts = prepare(tmp_path, "--same_title", how)
    spelled = {str(n): f'"{title}" written by {author}' for n, title, author, _ in names}
    if how == "keep":
        marks = {"1": "1990", "2": "2001", "3": "3", "4": "4"}
        spelled |= {n: f'"Dust ({mark})" written by A' for n, mark in marks.items()}
        assert counts["changed"] == {"titles of several items, told apart by year or id": 4}
        assert written(tmp_path / "out") == expected(ratings, spelled, "item")
        return
    assert counts["changed"] == {"ids with title and creator of another, taken for one": 3}
    best = {}
    for row in sorted(ratings, key=lambda row: int(row[3])):  # stable
        best[row[0], min(row[1], "1") if row[1] in "1234" else row[1]] = row
    kept = [row for row in ratings if row in best.values()]
    assert written(tmp_path / "out") == expected(kept, spelled, "item")


def test_creators_that_are_missing(tmp_path):
    ratings = world()
    items = [(n, title, "" if n < 7 else "x") for n, title in enumerate(TITLES, start=1)]
    write(tmp_path, ratings, [["item", "title", "brand"], *items])
    assert prepare(tmp_path)["changed"] == {"creators dropped, because most items have none": 3}
    assert written(tmp_path / "out") == expected(ratings, NAMES, "item")


def test_a_line_break_in_a_title_becomes_a_space(tmp_path):
    ratings = world()
    write(tmp_path, ratings, [["item", "title"], *enumerate(["Two\r\n lines", *TITLES[1:]], start=1)])
    prepare(tmp_path)
    assert written(tmp_path / "out") == expected(ratings, NAMES | {"1": '"Two lines"'}, "item")


def test_files_that_do_not_belong_together(tmp_path):
    write(tmp_path, [(user, f"x{item}", rating, time) for user, item, rating, time in world()])
    with pytest.raises(InputError, match="no row is left without 48 ratings of items without a title; do the two"):
        prepare(tmp_path)


# --------------------------------------------------------------------------------------------------------- 2. scales


@pytest.mark.parametrize(
    ("scale", "above"),
    [
        (["1", "2", "3", "4", "5"], 3),
        (["0", "0.5", "3.5", "5"], 3),
        (["1", "4", "6", "10"], 5),
        (["0", "45", "80", "100"], 60),
        (["0", "1"], 0),
        (["-10", "-2.5", "9.75"], 0),
    ],
)
def test_the_scale_says_what_a_like_is(tmp_path, capsys, scale, above):
    ratings = world(users=12, scale=scale)
    write(tmp_path, ratings)
    prepared = prepare(tmp_path)
    assert prepared["settings"]["liked_above"] == above
    wanted = expected(ratings, NAMES, "item", above=above)
    assert written(tmp_path / "out") == wanted
    shares = {name: sum(answer == "Yes." for _, answer in part) / len(part) for name, part in wanted.items()}
    assert prepared["liked"] == pytest.approx(shares)
    said, (low, *_, high) = capsys.readouterr().out, sorted(map(float, scale))
    assert f"ratings from {low:g} to {high:g}: more than {above} is a like" in said
    assert all(f"{name:5} {len(wanted[name]):6} records, {share:5.1%} Yes" in said for name, share in shares.items())


def test_scales_that_need_a_flag(tmp_path):
    write(tmp_path, world(scale=["1", "7", "2500"]))
    with pytest.raises(InputError, match="^ratings from 1 to 2500 are no known scale; say with --liked_above which of"):
        prepare(tmp_path)
    prepare(tmp_path, "--liked_above", 5)
    for above, said in (
        (9999, "0.0% of .* rows are Yes, with a like above 9999; give a --liked_above"),
        (0, "100.0% of"),
    ):
        with pytest.raises(InputError, match=f"^train: {said}"):
            prepare(tmp_path, "--liked_above", above, name="none")
    with pytest.raises(InputError, match="--negatives sampled: .*r.csv has ratings of its own; it is for clicks"):
        prepare(tmp_path, "--negatives", "sampled", name="none")
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------------ 3. negatives


@pytest.mark.parametrize("column", [True, False])
def test_clicks_need_dislikes(tmp_path, column):
    items = [["item", "title"], *[(n, f"Film {n}") for n in range(300)]]
    clicks = [
        (str(user), str((user * 7 + step * step) % 150), *["1"] * column, str(step))
        for user in range(30)
        for step in range(12)
    ]
    clicks = list({click[:2]: click for click in clicks}.values())
    write(tmp_path, clicks, items)
    what = "all ratings are 1" if column else "there is no rating"
    with pytest.raises(InputError, match=f"{what}, but this task needs dislikes as well as likes; give --negatives"):
        prepare(tmp_path)
    prepared = prepare(tmp_path, "--negatives", "sampled", "--last", -1)
    assert prepared["changed"] == {"dislikes drawn at random (--negatives sampled)": len(clicks)}
    taken, drawn = {click[:2] for click in clicks}, Counter()
    for user, history, _, labels, item, _, label, _ in id_rows(tmp_path / "out"):
        for seen, liked in (*zip(json.loads(history), json.loads(labels)), (item, int(label))):
            assert ((user, seen) in taken) == (liked == 1)
        assert len({*json.loads(history), item}) == 4
        drawn[label] += 1
    assert abs(drawn["0"] - drawn["1"]) < 0.1 * drawn.total()
    prepare(tmp_path, "--negatives", "sampled", "--last", -1, name="again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_negatives_are_as_popular_as_what_was_taken(tmp_path):
    """Forty items that half of the users took, and four hundred that one took: dislikes come from both alike."""
    popular = [(f"u{user}", f"p{item}", str(item)) for user in range(100) for item in range(40) if (user + item) % 2]
    rare = [(f"u{user}", f"r{user * 4 + k}", str(50 + k)) for user in range(100) for k in range(4)]
    write(tmp_path, popular + rare, [["item", "title"], *[(i, i) for i in sorted({row[1] for row in popular + rare})]])
    prepare(tmp_path, "--negatives", "sampled", "--last", -1)
    kinds = Counter((row[4][0], row[6]) for row in id_rows(tmp_path / "out"))
    assert kinds["p", "0"] > 0.5 * kinds["p", "1"] and kinds["r", "0"] > 0.5 * kinds["r", "1"]
