"""Token ids of the rows to learn from, tlrec/tuning/rows.py.

1. The rows are those of RecordTokenizer.examples, in the order of the draw.
2. A large file's are kept in the cache of `datasets`: a second run tokenises nothing; whatever changes the ids does.
3. What a killed process leaves does no harm, and a cache that cannot be written to is one line.
4. The same adapter from the cache as from memory.
5. Memory does not grow with the rows.
"""

import re
import subprocess
import sys

import datasets
import pytest

from tests.conftest import REPOSITORY
from tests.support.models import write_tokenizer
from tests.support.tuned import digest, history
from tlrec.data import records as records_module
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.data.records import RecordSet, draw_shots, write_records
from tlrec.errors import InputError
from tlrec.model.base_models import load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning import rows as rows_module
from tlrec.tuning.rows import cut, lengths, tokenised

CUTOFF = 210


def make_records(count=23):
    """Short and long histories, so that some are cut, and every tenth answer too long."""
    records = []
    for number in range(count):
        likes = tuple(Item(f"Night {n} (2101)") for n in range(number % 13))
        records.append(
            build_record(Preference(likes, (Item("No (2102)"),), Item(f"Harbor {number}"), "movie"), number % 2)
        )
        if number % 10 == 4:
            records[-1] |= {"instruction": "Describe.", "output": "a harbor at night " * 100}
    return records


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, which every file goes to, and batches of five records."""
    monkeypatch.setattr(rows_module, "BATCH", 5)
    monkeypatch.setattr(records_module, "IN_MEMORY", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "a cache")
    return tmp_path / "a cache"


@pytest.fixture
def records(tmp_path):
    write_records(tmp_path / "train.json", make_records())
    return RecordSet(tmp_path / "train.json", labelled=False).rows


@pytest.fixture
def encoder(tiny_llama):
    return RecordTokenizer(load_tokenizer(tiny_llama), load_frame("alpaca"), CUTOFF)


@pytest.mark.parametrize("shots", [-1, 6])
@pytest.mark.parametrize("in_memory", [False, True])
def test_rows_are_those_of_the_tokenizer(encoder, records, monkeypatch, tmp_path, shots, in_memory, capsys):
    if in_memory:
        monkeypatch.setattr(records_module, "IN_MEMORY", 1 << 20)
        records = RecordSet(tmp_path / "train.json", labelled=False).rows
    drawn = draw_shots(records, shots, seed=1)
    rows, expected = tokenised(encoder, drawn), encoder.examples(list(drawn))
    assert list(rows["input_ids"]) == [row["input_ids"] for row in expected.rows]
    assert list(rows["answer_start"]) == [row["answer_start"] for row in expected.rows]
    assert lengths(rows).tolist() == [len(row["input_ids"]) for row in expected.rows]
    assert cut(rows) == expected.truncated and len(drawn) - len(rows) == len(expected.dropped)
    assert shots == 6 or expected.truncated > 2 and len(expected.dropped) == 2
    assert capsys.readouterr().out.startswith(f"train: {len(rows)} rows, {expected.truncated} with a cut prompt")


def test_a_second_run_tokenises_nothing(encoder, records, tmp_path, monkeypatch, tiny_llama):
    drawn = draw_shots(records, -1, seed=1)
    first = tokenised(encoder, drawn)

    def refuse(*arguments, **options):
        raise AssertionError("records were tokenised")

    again = RecordTokenizer(load_tokenizer(tiny_llama), load_frame("alpaca"), CUTOFF)
    monkeypatch.setattr(RecordTokenizer, "examples", refuse)
    second = tokenised(again, draw_shots(RecordSet(tmp_path / "train.json", labelled=False).rows, -1, seed=1))
    assert list(second) == list(first)


def test_what_changes_token_ids_is_tokenised_anew(encoder, records, tmp_path):
    write_tokenizer(tmp_path, answers=("No",))
    write_records(tmp_path / "other.json", make_records()[::-1])
    draws = [draw_shots(records, *draw) for draw in ((-1, 0), (-1, 1), (6, 0), (7, 0))]
    frame = load_frame("alpaca")
    for each, drawn in [
        *((encoder, drawn) for drawn in (records, *draws, RecordSet(tmp_path / "other.json", labelled=False).rows)),
        (RecordTokenizer(encoder.tokenizer, frame, CUTOFF + 1), records),
        (RecordTokenizer(encoder.tokenizer, load_frame("tallrec"), CUTOFF), records),
        (RecordTokenizer(load_tokenizer(tmp_path), frame, CUTOFF), records),
    ]:
        ids = [row["input_ids"] for row in each.examples(list(drawn)).rows]
        assert list(tokenised(each, drawn)["input_ids"]) == ids


def test_a_run_that_was_killed_is_no_harm(encoder, records, monkeypatch):
    calls = []

    def stop_in_the_middle(self, *arguments, original=RecordTokenizer.examples, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(RecordTokenizer, "examples", stop_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            tokenised(encoder, records)
    assert list(tokenised(encoder, records)["input_ids"]) == [
        row["input_ids"] for row in encoder.examples(list(records)).rows
    ]


def test_a_cache_that_cannot_be_written(encoder, records, cache, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datasets.arrow_dataset.ArrowWriter.write_batch", full)
    with pytest.raises(InputError) as error:
        tokenised(encoder, records)
    assert str(error.value) == (
        f"{cache}: token ids of 23 records cannot be written there: No space left on device; "
        "name another folder in HF_DATASETS_CACHE"
    )


@pytest.mark.slow
def test_the_same_adapter_from_the_cache_as_from_memory(instruct, tmp_path, monkeypatch):
    write_records(tmp_path / "train.json", [record for record in make_records() if len(record["output"]) < 5])
    flags = ["--train_data_path", tmp_path / "train.json", "--group_by_length", "--no-train_on_inputs"]
    for name, size in (("memory", 1 << 20), ("cache", 0)):
        monkeypatch.setattr(records_module, "IN_MEMORY", size)
        status, out, err = instruct(tmp_path / name, *flags)
        assert status == 0, err
        assert re.search(r"^train: 21 rows, 0 with a cut prompt", out, re.MULTILINE)
    assert digest(tmp_path / "memory") == digest(tmp_path / "cache")
    assert history(tmp_path / "memory") == history(tmp_path / "cache")


# Prints the memory, in bytes, that the process holds of its own at the end of each file, without what is mapped.
PEAKS = """
import re, sys, datasets
from types import SimpleNamespace
from tlrec.data import records
from tlrec.model.tokenization import Examples
from tlrec.tuning.rows import lengths, tokenised

class Encoder:  # token ids without a tokenizer, which would take minutes
    bos, eos, cutoff_len = [1], [2], 512
    tokenizer = SimpleNamespace()
    frame = SimpleNamespace(prompt=str, head=str)

    def examples(self, records):
        ids = [[1, *range(500 + len(record["input"]), 800 + len(record["input"]))] for record in records]
        return Examples([{"input_ids": row, "answer_start": 299, "length": 301, "cut": False} for row in ids])

records.IN_MEMORY = 0
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
for path in sys.argv[2:]:
    rows = tokenised(Encoder(), records.RecordSet(path).rows)
    assert len(rows[len(rows) - 1]["input_ids"]) == lengths(rows)[-1] == 301
    print(1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path, cache):
    # The first file fills what the readers keep whatever the rows (up to 12 MB), so that only growth with the rows is left
    sizes = {"small.json": 20_000, "large.json": 80_000}
    for name, rows in sizes.items():
        write_records(tmp_path / name, [{**make_records(1)[0], "output": "Yes."}] * rows)
    command = [sys.executable, "-c", PEAKS, str(cache), *(str(tmp_path / name) for name in sizes)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert process.returncode == 0, process.stderr
    small, large = (int(line) for line in process.stdout.splitlines() if line.isdigit())
    # In memory the ids alone would take 4 bytes a token, as Python lists 8
    assert large - small < 60_000 * 301 * 4 / 5
