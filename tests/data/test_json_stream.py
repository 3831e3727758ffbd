"""Record files read as a stream, tlrec/data/json_stream.py and RecordFile in tlrec/data/records.py; json.load is the oracle.

1. The same values, and the same words about what is no JSON, whatever the layout and wherever a block of the file ends.
2. The bytes of every value, read again alone, give that value.
3. A RecordFile is what read_records gives, row by row; draws from both are the same rows.
4. What is wrong is said before a large file has been read to its end, and memory does not grow with the rows.
"""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tlrec.data import json_stream
from tlrec.data.json_stream import RecordStream
from tlrec.data.records import RecordFile, draw_shots, labels_of, read_records, write_records
from tlrec.errors import InputError

TRICKY = [
    {"instruction": "i", "input": 'brackets ]}, [{ and "quotes", \\ and /', "output": "Yes."},
    {"output": "No.", "more": {"nested": [[], {}, [{"}": "]"}]]}, "input": "\n\t\u0000\u2028", "instruction": ""},
    {"instruction": "Fäden 日本語 \U0001f3ac \x7f", "input": "Ã?Â¼", "output": "Yes."},
    {"instruction": "i", "input": "half elsewhere", "output": "Yes.", "more": "lone \ud83c surrogate"},
    {"instruction": "\\", "input": '\\"', "output": "No.", "numbers": [-1.5e-300, 0, 12345678901234567890, 1e400]},
    *({"instruction": "i", "input": f"plain {number}", "output": "Yes."} for number in range(7)),
]
PLAIN = TRICKY[:3] + TRICKY[4:]  # a lone surrogate has no UTF-8, only an escape
LAYOUTS = {
    "published": json.dumps(TRICKY, indent=4),
    "compact": json.dumps(TRICKY, separators=(",", ":")),
    "one line": json.dumps(TRICKY),
    "not ASCII": json.dumps(PLAIN, ensure_ascii=False, indent=1),
    "airy": "\r\n\t " + json.dumps(PLAIN, indent=2).replace("\n", "\r\n\n ") + "\n\n",
    "literals": '[1, -2.5, 12, true,false , null,\tNaN, -Infinity, [[]], [1, [2]], {}, "", "\\ud83c\\udfac"]',
    "tabs": "[\t]",
}
BLOCKS = [1, 2, 7, 64, 1000, 1 << 20]


def stream(path):
    return [value for value, _, _ in RecordStream(path)]


def comparable(values):
    return json.dumps(values)  # NaN equals itself there


# -------------------------------------------------------------------------------------------------- 1. and 2. JSON


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_and_their_bytes(tmp_path, monkeypatch, layout, block):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_bytes(LAYOUTS[layout].encode())
    content, values, between = path.read_bytes(), [], []
    reader = RecordStream(path)
    last = 0
    for value, start, end in reader:
        values.append(value)
        between.append(content[last:start])
        last = end
        assert comparable(json.loads(content[start:end])) == comparable(value)
    assert comparable(values) == comparable(json.loads(content))
    assert [sign.strip() for sign in between] == [b"["] * bool(values) + [b","] * (len(values) - 1)
    assert reader.sha256 == hashlib.sha256(content).hexdigest()


BROKEN = {
    "empty": "",
    "white space": " \n\n  ",
    "opened": "[",
    "a comma first": "[, 1]",
    "no comma": '[{"a": 1}\n {"a": 2}]',
    "another sign": "[1, 2; 3]",
    "closed otherwise": '[{"a": 1}}',
    "cut behind a comma": '[{"a": 1},\n',
    "cut in a literal": "[true, fal",
    "cut in a number": "[1, -",
    "cut in a string": '[{"a": "abc',
    "cut in an escape": '["abc\\',
    "cut in a long escape": '["abc\\u00',
    "cut in a pair": '["\\ud83c\\u',
    "a raw line break": '[\n"a\nb"]',
    "a wrong escape": '["ok", "a\\xb"]',
    "a wrong long escape": '["\\u12g4 and more text behind it, and more"]',
    "no quotes": "[\n  {a: 1}]",
    "no value": '[{"a": }]',
    "garbage behind": '[{"a": 1}]\n x',
    "another array behind": "[]\n[]",
    "lines of objects": '{"a": 1}\n{"a": 2}\n',
    "one string": '"abc',
    "BOM": "\ufeff[]",
    "a zero byte": "[1, \x00]",
    "beyond ASCII": '["ä", "日本語", \n"Fäden" "x"]',
}


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_no_json_is_said_in_the_words_of_json_load(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    texts = dict(BROKEN)
    whole = json.dumps(TRICKY[:4], indent=4)
    texts |= {f"cut at {place}": whole[:place] for place in range(1, len(whole), 5)}
    for name, text in texts.items():
        path = tmp_path / "a.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(json.JSONDecodeError) as expected:
            json.loads(text)
        with pytest.raises(InputError) as error:
            stream(path)
        assert str(error.value) == f"{path}: not JSON: {expected.value}", name


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "content", [b"\xff\xfe[]", b'["abc\xe9"]', '["Fäden", "'.encode() + b"\xe6\x97", b'["\xc3"]', b'["\xed\xa0\xbd"]']
)
def test_what_is_no_utf8_is_said_in_the_words_of_python(tmp_path, monkeypatch, content, block):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UnicodeDecodeError) as expected:
        content.decode()
    with pytest.raises(InputError) as error:
        stream(path)
    assert str(error.value) == f"{path}: cannot be read: {expected.value}"


@pytest.mark.parametrize("value", [{"a": 1}, "text", 12, 1.5, True, None])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_json_but_no_array(tmp_path, monkeypatch, value, block):
    monkeypatch.setattr(json_stream, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError) as error:
        stream(path)
    assert str(error.value) == f"{path}: a record file is a JSON array, this is a JSON {type(value).__name__}"


def test_a_huge_row(tmp_path):
    rows = [{"instruction": "i", "input": '"ä" \\ ' * 900_000, "output": "Yes."}] * 2
    write_records(tmp_path / "a.json", rows)
    assert (tmp_path / "a.json").stat().st_size > 10 * json_stream.BLOCK
    assert stream(tmp_path / "a.json") == rows


# ------------------------------------------------------------------------------------------------------ 3. records


@pytest.fixture
def tricky_file(tmp_path):
    path = tmp_path / "tricky.json"
    path.write_text(LAYOUTS["published"])
    return path


def test_rows_of_a_record_file(tricky_file):
    records, file = read_records(tricky_file), RecordFile(tricky_file)
    assert records == [{key: row[key] for key in ("instruction", "input", "output")} for row in TRICKY]
    assert list(file) == records and len(file) == len(TRICKY)
    assert (file[2], file[-1]) == (records[2], records[-1])
    assert labels_of(file).tolist() == labels_of(records).tolist()
    assert file.sha256 == hashlib.sha256(tricky_file.read_bytes()).hexdigest()
    with pytest.raises(IndexError):
        file[len(TRICKY)]


@pytest.mark.parametrize("shots", [1, 4, -1])
def test_draws_from_a_file_and_from_a_list_are_the_same(tricky_file, shots):
    drawn = draw_shots(RecordFile(tricky_file), shots, seed=3)
    assert isinstance(drawn, RecordFile)
    assert list(drawn) == draw_shots(read_records(tricky_file), shots, seed=3)
    assert list(drawn.select(np.array([0]))) == [drawn[0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], ": holds no records"),
        ([TRICKY[0], 7], ": row 2: a record is a JSON object, this is a int"),
        (
            [*TRICKY, {**TRICKY[0], "output": "yes"}],
            f": row {len(TRICKY) + 1}: 'output' must be 'Yes.' or 'No.', not 'yes'",
        ),
    ],
)
def test_every_row_is_checked_when_the_file_is_opened(tmp_path, rows, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    for read in (read_records, RecordFile):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value) == f"{path}{message}"
    if len(rows) > len(TRICKY):
        assert RecordFile(path, labelled=False)[-1]["output"] == "yes"


def test_a_real_file(shared_data):
    path = shared_data / "rec_data" / "movie" / "train.json"
    records = json.loads(path.read_text())
    assert read_records(path) == list(RecordFile(path)) == records


# -------------------------------------------------------------------------------------------- 4. without all of it


def test_a_mistake_is_found_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "BLOCK", 1000)
    rows = json.dumps(TRICKY * 100, indent=4)
    path = tmp_path / "a.json"
    for text in (
        rows.replace("plain 1", "raw \n line break", 1),
        rows.replace('"No."', '"Maybe."', 1),
        '{"a": 1}\n' + rows,
    ):
        path.write_text(text)
        reader = RecordStream(path)
        with pytest.raises(InputError):
            for row, _, _ in reader:
                if row["output"] == "Maybe.":
                    raise InputError("as read_records would")
        assert reader.file.tell() < 5000 < len(text)


# Prints the most memory, in bytes, that the process held of its own after each file.
PEAKS = """
import re, sys
from tlrec.data.records import RecordFile, draw_shots
for path in sys.argv[1:]:
    records = draw_shots(RecordFile(path), -1, 0)
    assert sum(len(record["input"]) for record in records) > 1000 * len(records)
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    sizes = {"small.json": 2_000, "large.json": 40_000}
    for name, rows in sizes.items():
        row = {"instruction": "i", "input": "a title " * 150, "output": "Yes."}
        write_records(tmp_path / name, [{**row, "input": f"{number} {row['input']}"} for number in range(rows)])
    command = [sys.executable, "-c", PEAKS, *(str(tmp_path / name) for name in sizes)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert process.returncode == 0, process.stderr
    small, large = map(int, process.stdout.split())
    assert large - small < 8e6 < (tmp_path / "large.json").stat().st_size / 5
