"""The preference record: tlrec/data/records.py.

1. build_input and parse_input are inverse, whatever stands in the titles.
2. Every row of every real record file is rebuilt byte for byte from what was parsed out of it.
3. A file is written as json.dump(..., indent=4) does, and read back.
4. Whatever is wrong with a file is one line with its path and row.
5. The few-shot draw is that of datasets.Dataset.shuffle(seed), and fewer shots are a prefix of more.
6. Records whose cut into titles is doubtful are found.
"""

import json

import numpy as np
import pytest

from tlrec.data.preferences import Item, Preference, ambiguous_names, build_input, build_record, parse_input
from tlrec.data.records import check_two_classes, draw_shots, labels_of, read_records, write_records
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


@pytest.mark.parametrize("creator", ["", "Ann Author", "Steves', 'Gene Openshaw", "Hall, Jr.", 'Robert "Bob" Doe'])
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
    preference = parse_input(text)
    assert preference.likes == (Item("A", "X"), Item("B", "Y"))
    assert preference.dislikes == (Item("C", "Z"),)
    assert preference.target == Item("D", "W")
    assert preference.history == (Item("A", "X"), Item("B", "Y"), Item("C", "Z"))


def test_author_lists_with_both_kinds_of_quotes():
    """Amazon's authors are the inside of a printed Python list, where a name with an apostrophe has double quotes."""
    both = Item("War Stories", "Ann Author', \"Tim O'Writer")
    two = Item("Peace Stories", "Pat O'Reader\", \"Tim O'Writer")
    plain = Item("Plain", "X")
    preference = Preference((both, two, plain), (plain, both), two, "book")
    assert parse_input(build_input(preference)) == preference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 'User Preference: ...'"),
        ('User Preference: "A"\nWhether the user will like the target movie "B"?', "on three lines"),
        ('User Preference: A\nUser Unpreference: \nWhether the user will like the target movie "B"?', "closing quote"),
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
    records = read_records(shared_data / name)
    quoted = "rec_data/book" in name
    rebuilt = [build_record(parse_input(r["input"]), r["output"] == "Yes.", quoted_target=quoted) for r in records]
    write_records(tmp_path / "rebuilt.json", rebuilt)
    assert (tmp_path / "rebuilt.json").read_bytes() == (shared_data / name).read_bytes()


def test_files_are_ascii_with_an_indent_of_four(tmp_path):
    records = [{"instruction": "i", "input": "Fäden", "output": "Yes."}]
    write_records(tmp_path / "new" / "a.json", records)
    assert (tmp_path / "new" / "a.json").read_text() == (
        '[\n    {\n        "instruction": "i",\n        "input": "F\\u00e4den",\n        "output": "Yes."\n    }\n]'
    )
    assert read_records(tmp_path / "new" / "a.json") == records


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_records(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_records(tmp_path / "a.json", [object()])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_other_fields_are_left_out_and_free_answers_allowed_when_asked(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "i", "input": "x", "output": "1. A - B", "uid": 5}]))
    assert read_records(path, labelled=False) == [{"instruction": "i", "input": "x", "output": "1. A - B"}]


# ------------------------------------------------------------------------------------------------------ 4. bad files

GOOD = {"instruction": "i", "input": "x", "output": "Yes."}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": no such file"),
        (b"", ": not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'[{"instruction": "i",', ": not JSON: Expecting property name"),
        (b"\xff\xfe", ": cannot be read: 'utf-8' codec"),
        ({"a": 1}, ": a record file is a JSON array, this is a JSON dict"),
        ([], ": holds no records"),
        ([GOOD, "text"], ": row 2: a record is a JSON object, this is a str"),
        ([GOOD, {"instruction": "i", "output": "No."}], ": row 2: the field 'input' is missing"),
        ([{**GOOD, "input": 5}], ": row 1: the field 'input' must be a string, not int"),
        ([{**GOOD, "output": None}], ": row 1: the field 'output' must be a string, not NoneType"),
        ([GOOD, GOOD, {**GOOD, "output": "yes"}], ": row 3: 'output' must be 'Yes.' or 'No.', not 'yes'"),
        (
            [GOOD, {**GOOD, "input": "half \ud83c"}],
            ": row 2: the field 'input' has \\ud83c, half of a surrogate pair; write both halves or none",
        ),
        (b"[1" + b"0" * 5000 + b"]", ": not JSON: A number of more than 4300 digits: line 1 column 2 (char 1)"),
        (b"[" * 100_000 + b"]" * 100_000, ": not JSON: Nested too deeply: line 1 column 2 (char 1)"),
        (b'[\n{"a": ' * 100_000, ": not JSON: Nested too deeply: line 2 column 1 (char 2)"),
        ([{**GOOD, "output": "x" * 99}], f": row 1: 'output' must be 'Yes.' or 'No.', not '{'x' * 57}...'"),
    ],
)
def test_bad_files_are_one_line_with_path_and_row(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path)


def test_one_class_is_refused():
    assert labels_of([GOOD, {**GOOD, "output": "No."}]).tolist() == [1, 0]
    check_two_classes([GOOD, {**GOOD, "output": "No."}], "a.json")
    with pytest.raises(InputError) as error:
        check_two_classes([GOOD, GOOD], "a.json")
    assert str(error.value) == "a.json: all 2 rows are labelled 'Yes.'; AUC needs both 'Yes.' and 'No.'"


# --------------------------------------------------------------------------------------------------------- 5. shots


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_the_draw_is_the_one_of_datasets(seed):
    from datasets import Dataset

    records = [{"instruction": "i", "input": str(number), "output": "Yes."} for number in range(300)]
    shuffled = Dataset.from_list(records).shuffle(seed=seed)
    for shots in (1, 16, 64, 256):
        assert draw_shots(records, shots, seed) == shuffled.select(range(shots)).to_list()
    assert draw_shots(records, -1, seed) == shuffled.to_list()


def test_fewer_shots_are_a_prefix_of_more_and_seeds_differ():
    numbers = list(range(1000))
    assert draw_shots(numbers, 16, seed=0) == draw_shots(numbers, 64, seed=0)[:16]
    assert draw_shots(numbers, 16, seed=0) != draw_shots(numbers, 16, seed=1)
    assert sorted(draw_shots(numbers, -1, seed=0)) == numbers
    assert draw_shots(numbers, 5, seed=0) == [numbers[i] for i in np.random.default_rng(0).permutation(1000)[:5]]


# ------------------------------------------------------------------------------------------------------ 6. ambiguity


def test_doubtful_cuts_are_found():
    def read_back(*titles, creator=""):
        likes = tuple(Item(title, creator) for title in titles)
        return parse_input(build_input(Preference(likes, (), Item("T", creator), "movie")))

    cut_in_two = read_back('Side "A", "B" Side')  # reads as two films
    assert [item.title for item in cut_in_two.likes] == ['Side "A', 'B" Side']
    assert ambiguous_names(cut_in_two) == ['Side "A', 'B" Side']
    assert ambiguous_names(read_back("A", 'The "B" Side', "C, D")) == []
    assert ambiguous_names(read_back("A", "B", creator='X, "Y" Z')) == ['Y" Z, "B'] + 2 * ['X, "Y" Z']
