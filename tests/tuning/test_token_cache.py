"""Token ids on disk, tlrec/tuning/token_cache.py.

1. The rows, lengths and counts of the Arrow file are those that RecordTokenizer.examples makes in memory.
2. A second run reads what the first has kept; whatever changes the token ids changes the file; labels do not.
3. The file appears whole or not at all, and a folder that cannot be written to is one line.
4. The tuner gives the same adapter from the file as from memory, its rows grouped by length.
5. Memory does not grow with the rows.
"""

import json
import re
import subprocess
import sys

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from tests.conftest import REPOSITORY
from tests.support.models import write_tokenizer
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.data.records import RecordSet, draw_shots, write_records
from tlrec.errors import InputError
from tlrec.files import sha256
from tlrec.model.base_models import load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning import token_cache
from tlrec.tuning.token_cache import training_examples

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
            records[-1] |= {"instruction": "Tell.", "output": "a harbor at night " * 100}
    return records


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and batches of five records."""
    monkeypatch.setattr(token_cache, "BATCH", 5)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "a cache")
    return tmp_path / "a cache" / "tlrec"


@pytest.fixture
def records(tmp_path):
    write_records(tmp_path / "train.json", make_records())
    return RecordSet(tmp_path / "train.json", labelled=False).rows


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


@pytest.fixture
def encoder(tokenizer):
    return RecordTokenizer(tokenizer, load_frame("alpaca"), CUTOFF)


@pytest.fixture
def no_tokenising(monkeypatch):
    """From the call on, no record may be tokenised."""

    def refuse(*arguments):
        raise AssertionError("records were tokenised")

    return lambda: monkeypatch.setattr(RecordTokenizer, "examples", refuse)


# --------------------------------------------------------------------------------------------------- 1. the same rows


@pytest.mark.parametrize("train_on_inputs", [True, False])
@pytest.mark.parametrize("shots", [-1, 6])
def test_rows_are_those_of_memory(encoder, records, cache, train_on_inputs, shots):
    drawn = draw_shots(records, shots, seed=1)
    stored, held = training_examples(encoder, drawn, train_on_inputs), encoder.examples(list(drawn), train_on_inputs)
    assert list(stored.rows) == held.rows
    assert (len(stored.rows), stored.truncated, stored.dropped) == (len(held.rows), held.truncated, held.dropped)
    assert shots == 6 or held.truncated > 2 and len(held.dropped) == 2
    assert stored.rows.lengths.tolist() == [len(row["input_ids"]) for row in held.rows]
    assert stored.rows.__getitems__([3, 0, 3]) == [held.rows[place] for place in (3, 0, 3)]
    assert stored.rows[-1] == held.rows[-1]
    assert len(list(cache.glob("*.arrow"))) == 1


def test_a_batch_stays_in_memory(encoder, records, cache):
    drawn = draw_shots(records, 5, seed=0)
    assert training_examples(encoder, drawn, True) == encoder.examples(list(drawn), True)
    assert not cache.exists()


def test_no_record_fits(encoder, tmp_path):
    write_records(
        tmp_path / "long.json",
        [{**record, "instruction": "Tell.", "output": "word " * 999} for record in make_records(7)],
    )
    examples = training_examples(encoder, RecordSet(tmp_path / "long.json", labelled=False).rows, True)
    assert (len(examples.rows), examples.truncated, examples.dropped) == (0, 0, list(range(7)))


# ----------------------------------------------------------------------------------------------------------- 2. reuse


def test_a_second_run_tokenises_nothing(encoder, records, cache, no_tokenising, tmp_path, capsys):
    first = training_examples(encoder, records, True)
    (path,) = cache.glob("*.arrow")
    assert capsys.readouterr().out == f"token ids: kept in {path}\n"
    no_tokenising()
    again = RecordSet(tmp_path / "train.json", labelled=False).rows
    second = training_examples(encoder, again, True)
    assert capsys.readouterr().out == f"token ids: found in {path}\n"
    assert list(second.rows) == list(first.rows)
    assert (second.truncated, second.dropped) == (first.truncated, first.dropped)
    hidden = training_examples(encoder, again, False).rows[0]
    assert hidden["input_ids"] == first.rows[0]["input_ids"] and hidden["labels"][0] == -100


# Prints the name that the cache gives to the records of a file.
NAME = """
import sys
from transformers import PreTrainedTokenizerFast
from tlrec.model.prompts import load_frame
from tlrec.data.records import RecordSet
from tlrec.tuning.token_cache import _digest
from tlrec.model.tokenization import RecordTokenizer

encoder = RecordTokenizer(PreTrainedTokenizerFast.from_pretrained(sys.argv[1]), load_frame("alpaca"), int(sys.argv[3]))
print(_digest(encoder, RecordSet(sys.argv[2], labelled=False).rows))
"""


@pytest.mark.slow
def test_another_process_finds_the_same_name(tokenizer, records, cache, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder = RecordTokenizer(
        PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer"), load_frame("alpaca"), CUTOFF
    )
    training_examples(encoder, records, True)
    command = [sys.executable, "-c", NAME, tmp_path / "tokenizer", tmp_path / "train.json", str(CUTOFF)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert process.returncode == 0, process.stderr
    assert [path.stem for path in cache.glob("*.arrow")] == process.stdout.split()


def test_what_changes_token_ids_changes_the_file(encoder, tokenizer, records, cache, tmp_path):
    write_tokenizer(tmp_path, answers=("No",))
    write_records(tmp_path / "other.json", make_records()[::-1])
    draws = [draw_shots(records, *draw) for draw in ((-1, 0), (-1, 1), (6, 0), (7, 0))]
    frame = load_frame("alpaca")
    for each, drawn in [
        *((encoder, drawn) for drawn in (records, *draws, RecordSet(tmp_path / "other.json", labelled=False).rows)),
        (RecordTokenizer(tokenizer, frame, CUTOFF + 1), records),
        (RecordTokenizer(tokenizer, load_frame("tallrec"), CUTOFF), records),
        (RecordTokenizer(load_tokenizer(tmp_path), frame, CUTOFF), records),
    ]:
        before = len(list(cache.glob("*.arrow")))
        assert list(training_examples(each, drawn, True).rows) == each.examples(list(drawn), True).rows
        assert len(list(cache.glob("*.arrow"))) == before + 1


# ----------------------------------------------------------------------------------------------------- 3. interruption


def test_it_appears_whole_or_not_at_all(encoder, records, cache, monkeypatch):
    calls = []

    def stop_in_the_middle(self, batch, train_on_inputs, original=RecordTokenizer.examples):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, batch, train_on_inputs)

    with monkeypatch.context() as patch:
        patch.setattr(RecordTokenizer, "examples", stop_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            training_examples(encoder, records, True)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    name = next(cache.iterdir()).stem
    (cache / f".{name}.arrow.999.part").write_text("what a killed process leaves")
    (cache / f"{name}.json").write_text('{"truncated": 7')
    examples = training_examples(encoder, records, True)
    assert list(examples.rows) == encoder.examples(list(records), True).rows
    assert sorted(path.name for path in cache.iterdir()) == [f"{name}.arrow", f"{name}.json", f"{name}.lock"]


def test_a_cache_that_cannot_be_written(encoder, records, cache):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(InputError) as error:
        training_examples(encoder, records, True)
    assert str(error.value) == (
        f"{cache}: token ids of 23 records cannot be written there: Not a directory; "
        "name another folder in HF_DATASETS_CACHE"
    )


def test_a_full_disk(encoder, records, cache, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tlrec.files.os.fsync", full)
    with pytest.raises(InputError, match="token ids of 23 records cannot be written there: No space left on device"):
        training_examples(encoder, records, True)
    assert not list(cache.glob("*.arrow")) and not list(cache.glob(".*.part"))


# ----------------------------------------------------------------------------------------------------------- 4. tuning


@pytest.mark.slow
def test_the_same_adapter_from_the_file_as_from_memory(run_script, tiny_llama, tiny_workspace, tmp_path, monkeypatch):
    train = tmp_path / "train.json"
    write_records(train, [record for record in make_records() if len(record["output"]) < 5])
    for name, batch in (("memory", 1000), ("file", 5)):
        monkeypatch.setattr(token_cache, "BATCH", batch)
        status, out, err = run_script(
            "ins_tuning.py",
            "--base_model",
            tiny_llama,
            "--train_data_path",
            train,
            "--val_data_path",
            tiny_workspace / "rec_data" / "movie" / "valid.json",
            "--output_dir",
            tmp_path / name,
            "--num_epochs",
            2,
            "--batch_size",
            4,
            "--micro_batch_size",
            2,
            "--warmup_steps",
            0,
            "--device",
            "cpu",
            "--group_by_length",
            "--no-train_on_inputs",
        )
        assert status == 0, err
        assert ("token ids: kept in" in out) == (name == "file")
        assert re.search(r"^train: 21 rows, 0 with a cut prompt", out, re.MULTILINE)
    found = [tmp_path / name / "adapter_model.safetensors" for name in ("memory", "file")]
    assert sha256(found[0]) == sha256(found[1])
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("memory", "file")]
    assert runs[0]["results"]["history"] == runs[1]["results"]["history"]
    assert runs[1]["data"]["train"]["sha256"] == sha256(train)


# ----------------------------------------------------------------------------------------------------------- 5. memory

# Prints the most memory, in bytes, that the process held of its own by the end of each file.
PEAKS = """
import re, sys, datasets
from pathlib import Path
from types import SimpleNamespace
from tlrec.data import records
from tlrec.data.records import RecordSet
from tlrec.tuning.token_cache import training_examples
records.IN_MEMORY = 0
from tlrec.model.tokenization import Examples

class Encoder:  # token ids without a tokenizer, which would take minutes
    bos, eos, cutoff_len = [1], [2], 512
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    frame = SimpleNamespace(prompt=str, head=str)

    def examples(self, records, train_on_inputs):
        ids = [[1, *(500 + (place * len(record["input"])) % 9973 for place in range(300))] for record in records]
        return Examples([{"input_ids": row, "labels": [-100] * 299 + row[299:]} for row in ids], 0)

for path in sys.argv[2:]:
    datasets.config.HF_DATASETS_CACHE = Path(sys.argv[1])
    rows = training_examples(Encoder(), RecordSet(path).rows, False).rows
    assert len(rows.__getitems__([5, len(rows) - 1])[1]["labels"]) == rows.lengths[-1] == 301
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path, cache):
    sizes = {"small.json": 2_000, "large.json": 16_000}
    for name, rows in sizes.items():
        write_records(tmp_path / name, [{**make_records(1)[0], "output": "Yes."}] * rows)
    command = [sys.executable, "-c", PEAKS, str(cache), *(str(tmp_path / name) for name in sizes)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert process.returncode == 0, process.stderr
    small, large = (int(line) for line in process.stdout.splitlines() if line.isdigit())
    # As Python lists the ids alone would take 8 bytes a token
    assert large - small < 5e6 < 14_000 * 301 * 8 / 5
