"""Token ids of source records in the cache: rows per second, CPU seconds and memory.

    python benchmarks/bench_tokenising.py --rows 8000
    python benchmarks/bench_tokenising.py --base_model base_model/smollm2-135m

two encodes  each row with and without its answer by the tokenizer's own call; the prompt ends where the two first differ
ours         tlrec.tuning.token_cache: one encode a row, by the tokenizer's backend
Both write input_ids, answer_start and length to an Arrow file, a thousand rows at a time; all rows must be equal. Fewer
records than --rows are repeated. RAYON_NUM_THREADS sets the threads of the tokenizer.
"""

import argparse
import sys
import tempfile
from contextlib import redirect_stdout
from os.path import commonprefix
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tlrec and benchmarks, wherever this is called from

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import datasets
import numpy as np
import torch
from datasets.arrow_writer import ArrowWriter

from benchmarks import measure
from benchmarks.bench_large_data import demo_records
from benchmarks.models import MOVIE_TEST, POCKET
from tlrec.data.records import RecordSet, write_records
from tlrec.errors import one_line_errors
from tlrec.files import write_json
from tlrec.model.base_models import load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning.token_cache import BATCH, FEATURES, training_examples

NETFLIX = MOVIE_TEST.parents[2] / "instruction_data" / "netflix" / "train.json"


def two_encodes(encoder, records, path):
    """The rows as a memory-mapped datasets.Dataset, each tokenised with and without its answer."""
    writer = ArrowWriter(path=str(path), features=FEATURES)
    for start in range(0, len(records), BATCH):
        batch = [records[place] for place in range(start, min(start + BATCH, len(records)))]
        prompts = [encoder.frame.prompt(record) for record in batch]
        texts = [prompt + record["output"] for prompt, record in zip(prompts, batch)]
        alone, whole = (encoder.tokenizer(each, add_special_tokens=False)["input_ids"] for each in (prompts, texts))
        rows = [encoder.bos + ids + encoder.eos for ids in whole]
        starts = [len(encoder.bos) + len(commonprefix(pair)) for pair in zip(alone, whole)]
        writer.write_batch({"input_ids": rows, "answer_start": starts, "length": [*map(len, rows)]})
    writer.finalize()
    return datasets.Dataset.from_file(str(path))


def ours(encoder, records, folder):
    with patch.object(datasets.config, "HF_DATASETS_CACHE", folder), redirect_stdout(sys.stderr):
        return training_examples(encoder, records, False).rows.stored


def prepare(args):
    """{name: function without arguments}; each call writes a new file."""
    encoder = RecordTokenizer(load_tokenizer(args.base_model), load_frame("alpaca"), 100_000)  # nothing is cut
    records = RecordSet(args.data).rows
    records = records.select(np.arange(max(args.rows, BATCH + 1)) % len(records))

    def folder():
        return Path(tempfile.mkdtemp(dir=args.folder))

    return {
        "two encodes": lambda: two_encodes(encoder, records, folder() / "rows.arrow"),
        "ours": lambda: ours(encoder, records, folder()),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--base_model", type=Path, default=POCKET, help="(default: pocket-llama)")
    add("--data", type=Path, default=NETFLIX, help="labelled records (default: Netflix, else demo records)")
    add("--rows", type=int, default=8_000, help="(default: %(default)s)")
    add("--repeats", type=int, default=3, help="(default: %(default)s)")
    add("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as args.folder:
        if args.data == NETFLIX and not NETFLIX.exists():
            args.data = Path(args.folder) / "demo.json"
            write_records(args.data, demo_records(min(args.rows, 2_000)))
        figures, results = measure.measure(prepare, args, torch.device("cpu"))
        rows, plain = results["ours"], results["two encodes"]
        assert rows.data.equals(plain.data), "the rows differ"
        tokens = int(rows.data.column("length").to_numpy().sum())

    first, second = figures["two encodes"], figures["ours"]
    report = measure.environment(torch.device("cpu")) | {"rows": len(rows), "tokens": tokens, "measured": figures}
    report["times_as_fast"] = {name: first[name] / second[name] for name in ("median", "cpu_median")}
    print(f"{report['hardware']}, {args.base_model.name}, {len(rows):,} rows, {tokens:,} tokens")
    measure.print_table(
        ["", "seconds", "CPU seconds", "tokens/CPU s", "peak GB"],
        [
            [name, found["median"], found["cpu_median"], tokens / found["cpu_median"], found["peak_memory_gb"]]
            for name, found in figures.items()
        ],
    )
    print("times as fast: {median:.2f}, in CPU seconds {cpu_median:.2f}".format(**report["times_as_fast"]))
    if args.output:
        write_json(args.output, report)
    return report


if __name__ == "__main__":
    with one_line_errors():
        main()
