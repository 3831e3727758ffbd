"""Reading files: tlrec/files.py.

1. What is no JSON that can be worked with is one line, whatever it is: damaged, endless, huge, not UTF-8, not a file.
2. A number is read to the last bit; NaN and infinity, which other libraries write, are read.
3. A value is held against a schema: the first wrong key is named, unknown keys stay, nothing is converted.
4. Text that is shown has no control characters.
"""

import json
import os
import struct

import numpy as np
import pytest

from tlrec.errors import InputError
from tlrec.evaluation.formats import Prediction
from tlrec.files import parse_json, printable, read_json, validate
from tlrec.runs import describe_run
from tlrec.runs.schema import Run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "damaged: recursion limit exceeded"),
        (b'{"a": ' + b"1" * 5000 + b"}", "damaged: number out of range"),
        (b'{"a": "\xff"}', "damaged: invalid unicode"),
        (rb'{"a": "\ud800"}', "damaged: "),
        (b'{"a": 1', "damaged: EOF"),
        (b"[1]", "expected a JSON object, found a list"),
    ],
)
def test_one_line(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: {message}") and "\n" not in str(raised.value)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (
        (".", "is not a file"),
        ("pipe", "is not a file"),
        ("none", "no such file"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(InputError) as raised:
            read_json(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name}: {message}"


def test_numbers_to_the_last_bit():
    random = np.random.default_rng(0)
    values = [*random.random(5000).tolist(), *struct.unpack("<5000d", random.bytes(40_000)), 0.1 + 0.2, 5e-324]
    values = [value for value in values if np.isfinite(value)]
    assert parse_json(json.dumps(values), "x") == values
    large = 12345678901234567890123
    assert parse_json(f"[Infinity, -Infinity, {large}]", "x") == [np.inf, -np.inf, large]
    assert np.isnan(parse_json("NaN", "x"))


RUN = {"format": 1, **describe_run("x.py", {"seed": 0}, {"train": {"path": "t", "sha256": "0", "rows": 3}})}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"train": {"path": "t", "sha256": "0"}}}, "the key 'data.train.rows' is missing"),
        ({"script": 5}, "'script': should be a valid string"),
        ({"seconds": float("nan")}, "'seconds': should be a finite number"),
        ({"results": {"history": [{"step": 1}]}}, "the key 'results.history.0.eval_auc' is missing (and 1 more)"),
        (
            {"start_adapter": {"path": "a", "sha256": "0", "config_sha256": "0", "run": {}}},
            "the key 'start_adapter.run.script' is missing (and 10",
        ),
    ],
)
def test_schema(change, message):
    with pytest.raises(InputError) as raised:
        validate({**RUN, **change}, Run, "f")
    assert str(raised.value).startswith(f"f: {message}")


def test_what_a_schema_does_not_name_stays():
    run = {**RUN, "more": {"a": [1]}, "seconds": 5, "results": {"auc": None, "history": []}}
    before = json.dumps(run)
    assert validate(run, Run, "f") is run and json.dumps(run) == before
    row = {"row": 1, "score": 0.4, "label": 1, "p_yes": 0, "p_no": 0.5, "user": "ann", "floors": {}}
    assert validate(row, Prediction, "f") is row


def test_printable():
    assert printable("Amélie – 千と千尋 a_b") == "Amélie – 千と千尋 a_b"
    assert printable("a\nb\x1b[0m\u2028\u202e\x00") == r"a\nb\x1b[0m\u2028\u202e\x00"
    assert printable(os.fsdecode(b"\xff\xc3\xa9")) == r"\xff" + "é"
    assert printable("\ud800") == r"\ud800"
