"""Token ids of the rows to learn from, tlrec/tuning/rows.py.

1. The rows are those of RecordTokenizer.examples, in the order of the draw.
2. A large file's are kept in the cache of `datasets`: a second run tokenises nothing; whatever changes the ids does.
3. What a killed process leaves does no harm, and a cache that cannot be written to is one line.
"""

import datasets
import pytest

from tests.support.models import write_tokenizer
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
