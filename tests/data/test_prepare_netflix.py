"""Netflix Prize, instruction_data/prepare_data.py --domain netflix.

1. A small raw file gives records that are spelled out here, one by one.
2. Whatever is wrong with arguments or raw files is one line with file and line number, and no output appears.
"""

import pytest

from tests.support.preparation import expect_error, inputs_and_outputs, prepare, rows, spoil, wording
from tlrec.data.sources import find

COMBINED = """1:
10,3,2005-01-02
11,5,2005-01-01
12,4,2005-03-01
2:
10,5,2005-01-01
12,1,2005-02-01
3:
12,5,2005-01-01
10,4,2006-01-01
11,2,2006-01-01
"""
TITLES = """1,2003,Dinosaurs, Planets, and More
2,NULL,Café
3,1999,The "B" Side
"""


@pytest.fixture
def netflix(tmp_path):
    raw = tmp_path / "netflix"
    raw.mkdir()
    (raw / "combined_data_1.txt").write_text(COMBINED)
    (raw / "movie_titles.csv").write_text(TITLES, encoding="latin-1")
    return raw


def test_netflix(netflix, tmp_path):
    assert find(netflix).form.name == "netflix"
    prepare("netflix", netflix, tmp_path / "out", "--history", 1, "--ratio", "3:1:1")
    planet, cafe, side = '"Dinosaurs Planets and More (2003)"', '"Café"', '"The "B" Side (1999)"'
    # user 10: 2 1 3; user 11: 1 3; user 12: 3 2 1
    assert inputs_and_outputs(tmp_path / "out") == [
        (wording(cafe, "", planet), "No."),
        (wording("", planet, side), "Yes."),
        (wording(planet, "", side), "No."),
        (wording(side, "", cafe), "No."),
        (wording("", cafe, planet), "Yes."),
    ]
    assert rows(tmp_path / "out" / "train.csv")[1:] == [
        ["10", "[2]", "[5]", "[1]", "1", "3", "0", "2005-01-02"],
        ["10", "[1]", "[3]", "[0]", "3", "4", "1", "2006-01-01"],
        ["11", "[1]", "[5]", "[1]", "3", "2", "0", "2006-01-01"],
    ]
    prepare("netflix", netflix, tmp_path / "kept", "--history", 1, "--ratio", "3:1:1", "--title_commas", "keep")
    assert rows(tmp_path / "kept" / "item_mapping.csv")[1][:2] == ["1", "Dinosaurs, Planets, and More (2003)"]


def test_netflix_with_windows_line_ends_and_no_last_one(netflix, tmp_path):
    prepare("netflix", netflix, tmp_path / "unix", "--history", 1, "--ratio", "3:1:1")
    (netflix / "combined_data_1.txt").write_bytes(COMBINED.rstrip("\n").replace("\n", "\r\n").encode())
    prepare("netflix", netflix, tmp_path / "windows", "--history", 1, "--ratio", "3:1:1")
    assert inputs_and_outputs(tmp_path / "windows") == inputs_and_outputs(tmp_path / "unix")


EXPECTED = "expected user,rating,date or 'film:', found"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1:\n", "2:\n1:\n", "line 6: film 2 has a second header"),
        ("3:\n", "4:\n", "line 8: film 4 is not in movie_titles.csv"),
        ("10,5,2005-01-01\n12,1,2005-02-01\n", "", "line 5: film 2 has a header, but no ratings"),
        ("12,1,2005", "12,x,2005", f"line 7: {EXPECTED} '12,x,2005-02-01'"),
        ("12,1,2005", "12,300,2005", f"line 7: {EXPECTED} '12,300,2005-02-01'"),
        ("12,1,2005-02-01", "12,1,1.2.2005", f"line 7: {EXPECTED} '12,1,1.2.2005'"),
        ("12,1,2005-02-01", "12,1,2005", f"line 7: {EXPECTED} '12,1,2005'"),
        (",", ";", f"line 2: {EXPECTED} '10;3;2005-01-02'"),
        ("12,1,2005", "12,1,1,2005", f"line 7: {EXPECTED} '12,1,1,2005-02-01'"),
        (COMBINED.partition("\n")[2], "", "line 1: film 1 has a header, but no ratings"),
    ],
)
def test_bad_ratings(old, new, message, netflix, tmp_path):
    path = netflix / "combined_data_1.txt"
    spoil(path, old, new, encoding="utf-8")
    expect_error(lambda: prepare("netflix", netflix, tmp_path / "out"), f"{path}: {message}", tmp_path / "out")


def test_bad_titles(netflix, tmp_path):
    path = netflix / "movie_titles.csv"
    spoil(path, "3,1999,", "3;1999;", encoding="latin-1")
    message = f"{path}: line 3: expected id,year,title, found '3;1999;The \"B\" Side'"
    expect_error(lambda: prepare("netflix", netflix, tmp_path / "out"), message, tmp_path / "out")
