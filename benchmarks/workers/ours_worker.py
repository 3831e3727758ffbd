"""TLRec: scores of records as evaluate.py makes them, or tuning as the two tuners do it.

settings  model (folder), dtype, device; share_prefix, for tuning
request   records: [...] to score, or adapter (folder to start from), rows: [{"input_ids", "labels"}, ...] and arguments:
          {name: value} of TrainingArguments
answer    log_p: [[log P(yes), log P(no)], ...], or as of trl_worker.py
The time of scoring includes tokenisation.
"""

import tempfile

import tlrec  # noqa: F401 - first: it quiets the libraries

# isort: split
import torch
from datasets import Dataset
from peft import PeftModel
from serve import serve, versions
from training import Clock
from transformers import PrinterCallback, TrainingArguments

from tlrec.errors import InputError
from tlrec.model import base_models
from tlrec.model.prompts import load_frame
from tlrec.scoring.records import Scorer, score_records
from tlrec.tuning.loss import Collator, cross_entropy
from tlrec.tuning.shared_prefix import SharedPrefix
from tlrec.tuning.trainer import TuningTrainer

FRAME = load_frame("alpaca")


def load(model, dtype, device, share_prefix=False):
    device, dtype = torch.device(device), getattr(torch, dtype)
    attention = None if share_prefix else base_models.resolve_attention("auto", device, dtype)
    tokenizer = base_models.load_tokenizer(model)
    base = base_models.load_base_model(model, device, dtype, attention=attention)

    def scoring(records):
        scores = score_records(base, tokenizer, records, FRAME)
        return {"log_p": [*zip(scores.log_p_yes.tolist(), scores.log_p_no.tolist())]}

    def tuning(adapter, rows, arguments):
        tuned = PeftModel.from_pretrained(base, adapter, is_trainable=True)
        folder, clock = tempfile.TemporaryDirectory(), Clock()
        validated = {"instruction": "", "input": "", "output": "Yes."}  # never: there is no validation
        loss = SharedPrefix(max(len(row["input_ids"]) for row in rows)) if share_prefix else cross_entropy
        trainer = TuningTrainer(
            model=tuned,
            train_dataset=Dataset.from_list(
                [row | {"answer_start": 0, "length": len(row["input_ids"])} for row in rows]
            ),
            data_collator=Collator(prompt_loss_weight=1),
            loss=loss,
            scorer=Scorer(tokenizer, [validated], FRAME, 512, with_loss=True),
            validation_labels=None,
            args=TrainingArguments(
                output_dir=folder.name,
                train_sampling_strategy="group_by_length",
                remove_unused_columns=False,  # the collator reads them
                **arguments,
            ),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)

        def work():
            trainer.train()
            if share_prefix and not loss.sharing:
                raise InputError("the prefix was not shared; the worker's log says why")
            tuned.unload()
            folder.cleanup()
            return clock.answer

        return work

    def prepare(**request):
        return (lambda: scoring(**request)) if "records" in request else tuning(**request)

    return {"versions": versions("torch", "transformers", "peft")}, prepare


if __name__ == "__main__":
    serve(load)
