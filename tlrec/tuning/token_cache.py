"""Token ids of training rows on disk, so that memory does not grow with their number.

More than one batch of records is written to an Arrow file in the cache of Hugging Face `datasets` (HF_DATASETS_CACHE
names another folder) and memory-mapped from there. Its name is the digest of all that determines the ids, so a run that
is started again finds it; it appears whole or not at all, and may be deleted at any time. A single batch, such as a
few-shot draw, stays in memory: it takes less than a second to make, and small runs then need no cache folder.

    <HF_DATASETS_CACHE>/tlrec/<digest>.arrow   input_ids, answer_start (index of the first answer token), length
    <HF_DATASETS_CACHE>/tlrec/<digest>.json    {"truncated": count, "dropped": [index, ...]}, written before
"""

import hashlib
import json
import tempfile
from pathlib import Path

import datasets
import tokenizers
import transformers
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock
from tqdm import tqdm

from tlrec.errors import InputError
from tlrec.files import sha256, whole_file, write_json
from tlrec.model import prompts, tokenization
from tlrec.model.tokenization import Examples

BATCH = 1000  # records tokenised at once
FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "answer_start": datasets.Value("int32"),
        "length": datasets.Value("int32"),
    }
)


class TokenRows:
    """Training rows `{"input_ids", "labels"}` as from RecordTokenizer.examples, read from an Arrow file when needed.

    lengths: (n,) int array, tokens of each row.
    """

    def __init__(self, path, train_on_inputs):
        self.stored = datasets.Dataset.from_file(str(path))  # memory-mapped
        self.train_on_inputs = train_on_inputs
        self.lengths = self.stored.data.column("length").to_numpy()

    def __len__(self):
        return len(self.stored)

    def __getitem__(self, place):
        return self.__getitems__([place])[0]

    def __getitems__(self, places):
        """The rows at `places`, as torch's DataLoader asks for those of a batch."""
        stored = self.stored[places]
        return [
            {"input_ids": ids, "labels": ids if self.train_on_inputs else [-100] * start + ids[start:]}
            for ids, start in zip(stored["input_ids"], stored["answer_start"])
        ]


def training_examples(encoder, records, train_on_inputs):
    """What `encoder.examples(records, train_on_inputs)` returns; of more than a batch, `rows` are TokenRows.

    encoder: tlrec.model.tokenization.RecordTokenizer; records: a datasets.Dataset of them. Raises InputError if the
    cache cannot be written.
    """
    if len(records) <= BATCH:
        return encoder.examples(list(records), train_on_inputs)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "tlrec"
    path = folder / f"{_digest(encoder, records)}.arrow"
    if path.exists():
        print(f"token ids: found in {path}")
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # only one of several processes tokenises
                if not path.exists():
                    for left in folder.glob(f".{path.name}.*.part"):  # by a process that was killed
                        left.unlink()
                    _write(path, encoder, records)
        except OSError as error:
            raise InputError(
                f"{folder}: token ids of {len(records)} records cannot be written there: {error.strerror or error}; "
                "name another folder in HF_DATASETS_CACHE"
            ) from None
        print(f"token ids: kept in {path}")
    return Examples(TokenRows(path, train_on_inputs), **json.loads(path.with_suffix(".json").read_text()))


def _write(path, encoder, records):
    truncated, dropped = 0, []
    with whole_file(path, "wb") as file:
        writer = ArrowWriter(stream=file, features=FEATURES)
        for start in tqdm(range(0, len(records), BATCH), desc="tokenising", unit="batch", leave=False):
            batch = [records[place] for place in range(start, min(start + BATCH, len(records)))]
            examples = encoder.examples(batch, train_on_inputs=False)
            truncated += examples.truncated
            dropped += [start + place for place in examples.dropped]
            writer.write_batch(
                {
                    "input_ids": [row["input_ids"] for row in examples.rows],
                    "answer_start": [row["labels"].count(-100) for row in examples.rows],
                    "length": [len(row["input_ids"]) for row in examples.rows],
                }
            )
        writer.finalize(close_stream=False)
        write_json(path.with_suffix(".json"), {"truncated": truncated, "dropped": dropped})


def _digest(encoder, records):
    """Hexadecimal digest of all that determines the rows: records in order, tokenizer, frame, limit, and code."""
    with tempfile.TemporaryDirectory() as folder:
        encoder.tokenizer.save_pretrained(folder)
        tokenizer = {path.name: sha256(path) for path in sorted(Path(folder).iterdir())}
    forms = [{"instruction": "{instruction}", "input": text} for text in ("{input}", "")]
    facts = {
        "records": records._fingerprint,
        "tokenizer": tokenizer,
        "bos, eos": [encoder.bos, encoder.eos],
        "frame": [[encoder.frame.prompt(form), encoder.frame.head(form)] for form in forms],
        "cutoff_len": encoder.cutoff_len,
        "code": [sha256(module) for module in (__file__, tokenization.__file__, prompts.__file__)],
        "versions": [tokenizers.__version__, transformers.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
