"""The preference record: tlrec/data/records.py.

1. build_input and parse_input are inverse, whatever stands in the titles.
2. Every row of every real record file is rebuilt byte for byte from what was parsed out of it.
3. A file is written as json.dump(..., indent=4) does, and read back.
4. Arrays and JSON lines, with or without BOM, wherever a block of the file ends; a large file is not held in memory.
5. Whatever is wrong with a file is one line with its path, row, number of rows and mend; so are answers that are nearly
   labels.
6. The few-shot draw is that of datasets.Dataset.shuffle(seed), and fewer shots are a prefix of more.
7. Records whose cut into titles is doubtful are found.
"""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tlrec.data import records
from tlrec.data.preferences import Item, Preference, ambiguous_names, build_input, build_record, parse_input
from tlrec.data.records import (
    FIELDS,
    FORM,
    RecordSet,
    draw_shots,
    read_records,
    write_records,
)
from tlrec.errors import InputError

AWKWARD_TITLES = [
    "No Safe Place",
    "Yes",
    "No",
    '"Weird" Tales',
    'Tales of the "Weird"',
    'One, "Two", Three',
    "Clockwork Orange, A (1971)",
    "Curly {braces} and %s",
    "Where is it?",
    "User Preference: none",
    "Fädchen – 日本語 ✓",
    "VerrÃ?Â¼ckt in Alabama.",
    "back\\slash \\ quote",
    "  inner   spaces kept",
    "",
    "'single', 'quotes'",
    "(1995)",
]


# ------------------------------------------------------------------------------------------- 1. parsing and building


# Amazon's authors are the inside of a printed Python list, where a name with an apostrophe has double quotes
AUTHORS = ["", "Ann", "Hall, Jr.", 'Robert "Bob" Doe', "Steves', 'Gene", "Ann', \"Tim O'W", "Pat O'R\", \"Tim O'W"]


@pytest.mark.parametrize("creator", AUTHORS)
@pytest.mark.parametrize("title", AWKWARD_TITLES)
def test_awkward_titles_come_back(title, creator):
    plain = Item("Plain", creator)
    for likes, dislikes, target in [
        ((Item(title, creator), plain), (plain,), plain),
        ((plain, Item(title, creator)), (), plain),
        ((), (plain, Item(title, creator), plain), plain),
        ((plain,), (), Item(title, creator)),
    ]:
        preference = Preference(likes, dislikes, target, "book" if creator else "movie")
        assert parse_input(build_input(preference)) == preference
        if creator:
            assert parse_input(build_input(preference, quoted_target=True)) == preference


def test_wording_of_both_forms():
    films = Preference((Item("A (1999)"), Item("B, The (2000)")), (), Item("C"), "movie")
    assert build_record(films, liked=True) == {
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target "
        'movie by answering "Yes." or "No.".',
        "input": 'User Preference: "A (1999)", "B, The (2000)"\nUser Unpreference: \n'
        'Whether the user will like the target movie "C"?',
        "output": "Yes.",
    }
    books = Preference((), (Item("A", "X"),), Item("B", "Y Z"), "book")
    record = build_record(books, liked=False, quoted_target=True)
    assert record["input"] == (
        'User Preference: \nUser Unpreference: "A" written by X\n'
        'Whether the user will like the target book ""B" written by Y Z"?'
    )
    assert record["output"] == "No."


def test_spaces_around_written_by_may_be_missing():
    text = (
        'User Preference: "A"written byX, "B" written by Y\nUser Unpreference: "C"  written byZ\n'
        'Whether the user will like the target book "D"written byW?'
    )
    likes = Item("A", "X"), Item("B", "Y")
    assert parse_input(text) == Preference(likes, (Item("C", "Z"),), Item("D", "W"), "book")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'User Preference: ...'"),
        ('User Preference: "A"\nWhether the user will like the target movie "B"?', "on three lines"),
        ("User Preference: \nUser Unpreference: \nWhether the user will like the target movie B?", "with a quote: B"),
        ("User Preference: \nUser Unpreference: B\n\nC\nWhether the user will like the target movie B?", ": B C"),
        ('User Preference: \nUser Unpreference: "A\nWhether the user will like the target movie "B"?', "closing quote"),
    ],
)
def test_other_texts_do_not_parse(text, message):
    with pytest.raises(ValueError) as error:
        parse_input(text)
    assert message in str(error.value)


# ------------------------------------------------------------------------------------------------- 2. and 3. files

REAL_FILES = [
    *(f"rec_data/{domain}/{split}.json" for domain in ("movie", "book") for split in ("train", "valid", "test")),
    "instruction_data/netflix/train.json",
    "instruction_data/amazon-book/train.json",
]


@pytest.mark.parametrize("name", REAL_FILES)
def test_every_real_row_is_rebuilt_byte_for_byte(shared_data, tmp_path, name):
    quoted = "rec_data/book" in name
    rebuilt = [
        build_record(parse_input(row["input"]), row["output"] == "Yes.", quoted_target=quoted)
        for row in read_records(shared_data / name)
    ]
    write_records(tmp_path / "rebuilt.json", rebuilt)
    assert (tmp_path / "rebuilt.json").read_bytes() == (shared_data / name).read_bytes()


def test_files_are_ascii_with_an_indent_of_four(tmp_path):
    rows = [{"instruction": "i", "input": "Fäden", "output": "Yes."}]
    write_records(tmp_path / "new" / "a.json", rows)
    assert (tmp_path / "new" / "a.json").read_text() == (
        '[\n    {\n        "instruction": "i",\n        "input": "F\\u00e4den",\n        "output": "Yes."\n    }\n]'
    )
    assert read_records(tmp_path / "new" / "a.json") == rows


# ------------------------------------------------------------------------------------------------- 4. layouts

GOOD = {"instruction": "i", "input": "Fäden 日本語", "output": "Yes."}
ASKED = {**GOOD, "instruction": 'Answer "Yes." or "No.".'}
TRICKY = [
    {"instruction": "i", "input": 'brackets ]}, [{ and "quotes", \\ and /', "output": "Yes."},
    {"output": "No.", "more": {"nested": [[], {}, [{"}": "]"}], 1e400]}, "input": "\n\t\0\u2028", "instruction": ""},
    {**GOOD, "more": "lone \ud83c surrogate"},
]
LAYOUTS = {
    "published": json.dumps(TRICKY, indent=4),
    "one line": json.dumps(TRICKY),
    "airy": "\r\n\t " + json.dumps(TRICKY, indent=2).replace("\n", "\r\n\n ") + "\n\n",
    "a comma at the end": json.dumps(TRICKY)[:-1] + ",\n]",
    "JSON lines": "".join(json.dumps(row) + "\n" for row in TRICKY),
    "JSON lines of Windows, with commas": ",\r\n".join(map(json.dumps, TRICKY)),
    "JSON lines, joined with their BOMs": "\n\ufeff".join(map(json.dumps, TRICKY)),
    "one after the other": "".join(json.dumps(row, indent=1) for row in TRICKY),
}


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_rows(tmp_path, monkeypatch, layout, block):
    monkeypatch.setattr(records, "BLOCK", block)
    expected = [{field: row[field] for field in FIELDS} for row in TRICKY]
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"):
        (tmp_path / "a.json").write_bytes(LAYOUTS[layout].encode(encoding))
        assert read_records(tmp_path / "a.json") == expected, encoding


def test_a_single_record_and_a_huge_one(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD | {"uid": 5}))
    assert read_records(tmp_path / "a.json") == [GOOD]
    rows = [{**GOOD, "input": '"ä" \\ ' * 900_000}] * 2
    write_records(tmp_path / "a.json", rows)
    assert (tmp_path / "a.json").stat().st_size > 10 * records.BLOCK
    assert read_records(tmp_path / "a.json") == rows


@pytest.mark.parametrize("in_memory", [1 << 26, 0])
def test_rows_as_a_dataset(tmp_path, monkeypatch, in_memory):
    import datasets

    monkeypatch.setattr(records, "IN_MEMORY", in_memory)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "a.json"
    for rows in ([GOOD, {**GOOD, "output": "No."}] * 5, [GOOD] * 3):  # not the first file's copy for the second
        path.write_text(json.dumps(rows))
        file = RecordSet(path)
        assert list(file.rows) == list(file) == rows and len(file) == len(rows)
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert list(draw_shots(file.rows, 2, 5)) == draw_shots(rows, 2, 5)
    assert bool(file.rows.cache_files) == (in_memory == 0)


# Prints the most memory, in bytes, that the process held of its own after each file.
PEAKS = """
import re, sys
from tlrec.data import records
records.IN_MEMORY, records.BLOCK = 0, 1 << 18
for path in sys.argv[1:]:
    assert len(records.RecordSet(path).rows[-1]["input"]) > 1000
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    sizes = {"small.json": 5_000, "large.json": 45_000}
    for name, rows in sizes.items():
        row = {"instruction": "i", "input": "a title " * 150, "output": "Yes."}
        write_records(tmp_path / name, [{**row, "input": f"{number} {row['input']}"} for number in range(rows)])
    command = [sys.executable, "-c", PEAKS, *(str(tmp_path / name) for name in sizes)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert process.returncode == 0, process.stderr
    small, large = map(int, process.stdout.split())
    held = (tmp_path / "large.json").stat().st_size - (tmp_path / "small.json").stat().st_size
    assert large - small < 12e6 < held / 4, (small, large)


# ------------------------------------------------------------------------------------------------------ 5. bad files

NO_FIELD = ": row 1: the field 'instruction' is missing (1 of 1 rows)"
LIKE = "it differs by case, spaces or the full stop only: write"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": no such file"),
        (b"", ": holds no records"),
        (b'[{"instruction": "i",', f": row 1 is not JSON: Expecting property name enclosed in double quotes; {FORM}"),
        (json.dumps([GOOD, GOOD])[:-1], ": is cut off after row 2: the array is not closed; copy it again"),
        (json.dumps([GOOD]) + json.dumps([GOOD]), f": something follows the array of 1 rows; {FORM}"),
        ("instruction,input,output\n", f": row 1 is not JSON: Expecting value; {FORM}"),
        (b'["abc\xe9"]', ": cannot be read: not utf-8: invalid continuation byte; save it as UTF-8"),
        ({"a": 1}, f"{NO_FIELD}; a record has instruction, input, output"),
        ({"data": [GOOD]}, f"{NO_FIELD}; give what 'data' holds as a file of its own"),
        ([GOOD, "text", 5], f": row 2: a record is a JSON object, this is a str (2 of 3 rows); {FORM}"),
        ([GOOD, {**GOOD, "output": None}], ": row 2: the field 'output' must be a string, not NoneType (1 of 2 rows)"),
        (
            [{**GOOD, "input": "\ud83c"}],
            ": row 1: the field 'input' has \\ud83c, half of a surrogate pair (1 of 1 rows); write",
        ),
        (b"[1" + b"0" * 5000 + b"]", ": row 1 is not JSON: a number of too many digits; "),
        (b"[" * 100_000, ": row 1 is not JSON: nested too deeply; "),
        (
            [{**GOOD, "output": "x" * 99}],
            f": row 1: 'output' must be 'Yes.' or 'No.', not '{'x' * 57}...' (1 of 1 rows)",
        ),
    ],
)
def test_bad_files_are_one_line_with_path_row_and_mend(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        content = content if isinstance(content, (bytes, str)) else json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (read_records, RecordSet):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}{message}") and "\n" not in str(error.value)


@pytest.mark.parametrize("answer", ["yes", "YES.", " yes . ", "Yes..", "No"])
def test_answers_that_are_nearly_labels(tmp_path, answer):
    """They are named wherever they can only be labels: asked for, needed, or all that a file has."""
    path, label = tmp_path / "a.json", "Yes." if "y" in answer.lower() else "No."
    near = {**GOOD, "output": answer}
    for rows, labelled, row, count in (
        ([GOOD, near, near], True, 2, 2),
        ([{**ASKED, "output": answer}], False, 1, 1),
        ([GOOD, near], False, 2, 1),
    ):
        path.write_text(json.dumps(rows))
        with pytest.raises(InputError) as error:
            read_records(path, labelled)
        assert str(error.value) == (
            f"{path}: row {row}: 'output' must be 'Yes.' or 'No.', not {answer!r} ({count} of {len(rows)} rows); "
            f"{LIKE} {label!r}"
        )
    path.write_text(json.dumps([near, {**GOOD, "output": "1. Night - Harbour"}]))
    assert len(read_records(path, labelled=False)) == 2  # free text may be "yes" as well


@pytest.mark.parametrize("answer", ["是", "Yes, because"])
def test_other_answers_where_a_label_is_asked_for(tmp_path, answer):
    (tmp_path / "a.json").write_text(json.dumps([ASKED, {**ASKED, "output": answer}]))
    with pytest.raises(InputError, match="row 2: .* rewrite the answers as these two, or leave such rows out"):
        read_records(tmp_path / "a.json", labelled=False)


# --------------------------------------------------------------------------------------------------------- 6. shots


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_draw_is_the_one_of_datasets(seed):
    from datasets import Dataset

    rows = [{"instruction": "i", "input": str(number), "output": "Yes."} for number in range(300)]
    held = Dataset.from_list(rows)
    shuffled = held.shuffle(seed=seed)
    for shots in (1, 16, 64, 256):
        drawn = shuffled.select(range(shots)).to_list()
        assert draw_shots(rows, shots, seed) == draw_shots(held, shots, seed).to_list() == drawn
    order = np.random.default_rng(seed).permutation(300)
    assert draw_shots(list(range(300)), 16, seed) == order[:16].tolist() != list(range(16))
    assert draw_shots(rows, -1, seed) == draw_shots(held, -1, seed).to_list() == shuffled.to_list()


# ------------------------------------------------------------------------------------------------------ 7. ambiguity


def test_doubtful_cuts_are_found():
    def read_back(*titles, creator=""):
        likes = tuple(Item(title, creator) for title in titles)
        return parse_input(build_input(Preference(likes, (), Item("T", creator), "movie")))

    cut_in_two = read_back('Side "A", "B" Side')  # reads as two films
    assert [item.title for item in cut_in_two.likes] == ['Side "A', 'B" Side']
    assert ambiguous_names(cut_in_two) == ['Side "A', 'B" Side']
    assert ambiguous_names(read_back("A", 'The "B" Side', "C, D")) == []
    assert ambiguous_names(read_back("A", "B", creator='X, "Y" Z')) == ['Y" Z, "B'] + 2 * ['X, "Y" Z']
