"""Token ids of the rows to learn from and to validate on. The former are a `datasets.Dataset`: in memory for a few rows,
else memory-mapped from the cache of `datasets` (HF_DATASETS_CACHE names another folder), where a run that is started
again finds them."""

import datasets
import numpy as np
import tokenizers
import transformers
from accelerate import PartialState

from tlrec.data.preferences import in_another_order
from tlrec.errors import InputError
from tlrec.files import digest_of, sha256
from tlrec.model import prompts, tokenization
from tlrec.scoring.records import Scorer

BATCH = 1000  # records tokenised at once, by all cores
FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "answer_start": datasets.Value("int32"),
        "length": datasets.Value("int32"),
        "cut": datasets.Value("bool"),
    }
)


def tokenised(encoder, records):
    """A Dataset with a row for each record whose answer fits, as in tlrec.model.tokenization.Examples.

    encoder: tlrec.model.tokenization.RecordTokenizer. records: a Dataset of records. Raises InputError if none fits.
    """

    def tokenise(batch):
        rows = encoder.examples([dict(zip(batch, row)) for row in zip(*batch.values())]).rows
        return {name: [row[name] for row in rows] for name in FEATURES}

    try:
        with PartialState().main_process_first():  # the others find what it has kept
            rows = records.map(
                tokenise,
                batched=True,
                batch_size=BATCH,
                remove_columns=records.column_names,
                features=FEATURES,
                new_fingerprint=_digest(encoder, records),
                desc="tokenising",
            )
    except OSError as error:
        raise InputError(
            f"{datasets.config.HF_DATASETS_CACHE}: token ids of {len(records)} records cannot be written there: "
            f"{error.strerror or error}; name another folder in HF_DATASETS_CACHE"
        ) from None
    limit = f"--cutoff_len {encoder.cutoff_len}"
    left_out = len(records) - len(rows)
    print(
        f"train: {len(rows)} rows, {cut(rows)} with a cut prompt"
        + (f", {left_out} left out because the answer exceeds {limit}" if left_out else "")
    )
    if not rows:
        raise InputError(f"--train_data_path: no record fits into {limit}")
    return rows


class ShuffledHistories:
    """The rows of preference records with both lists of each record in another order in each epoch, which seed, epoch and
    place of the record determine. They are tokenised when they are needed.

    encoder, records: as for `tokenised`; rows: what that returned. Raises InputError for a record in another form.
    """

    def __init__(self, encoder, records, rows, seed):
        self.encoder, self.records, self.as_given, self.seed = encoder, records, rows, seed
        self.epoch = 0
        for place in range(len(records)):
            self._shuffled(place)

    def set_epoch(self, epoch):
        """Called by the Trainer's data loader when an epoch begins."""
        self.epoch = epoch

    def __len__(self):
        return len(self.records)

    def __getitems__(self, places):
        """The rows at `places`, as torch's DataLoader asks for those of a batch."""
        return self.encoder.examples([self._shuffled(place) for place in places]).rows

    def _shuffled(self, place):
        try:
            return in_another_order(self.records[place], self.seed, self.epoch, place)
        except ValueError:
            what = f"record {place + 1} of those to learn from is not the input of a preference record"
            raise InputError(f"--shuffle_history: {what}") from None


def cut(rows):
    """How many of these rows had their prompt cut, in the order in which they are given."""
    return int(np.sum(_columns(rows)["cut"][:]))


def lengths(rows):
    """(n,) int array, tokens of each of these rows, in the order in which they are given."""
    return np.asarray(_columns(rows)["length"][:])


def _columns(rows):
    return getattr(rows, "as_given", rows).with_format("numpy")


def validation_scorer(encoder, valid, prompt_loss_weight):
    """A Scorer of the EvaluationSet `valid` that also computes the loss. prompt_loss_weight: of the prompt's tokens."""
    scorer = Scorer(encoder.tokenizer, valid.records, encoder.frame, encoder.cutoff_len, True, prompt_loss_weight)
    of_all = f" of {valid.rows_in_file}" if len(valid) < valid.rows_in_file else ""
    print(f"validation: {len(valid)}{of_all} rows, {scorer.truncated} with a cut prompt; frame: {encoder.frame.name}")
    return scorer


def _digest(encoder, records):
    """Digest of all that determines the rows: records in order, tokenizer, frame, limit, and code."""
    backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
    forms = [{"instruction": "{instruction}", "input": text} for text in ("{input}", "")]
    facts = {
        "records": records._fingerprint,
        "tokenizer": backend.to_str() if backend else datasets.fingerprint.Hasher.hash(encoder.tokenizer),
        "bos, eos": [encoder.bos, encoder.eos],
        "frame": [[encoder.frame.prompt(form), encoder.frame.head(form)] for form in forms],
        "cutoff_len": encoder.cutoff_len,
        "code": [sha256(module) for module in (__file__, tokenization.__file__, prompts.__file__)],
        "versions": [tokenizers.__version__, transformers.__version__],
    }
    return digest_of(facts)[:32]
