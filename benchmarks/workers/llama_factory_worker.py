"""LLaMA-Factory, in its own environment: supervised tuning on rows of token ids, from a LoRA adapter.

settings  model (folder), dtype, device
request   as of trl_worker.py
answer    as of trl_worker.py
Its command loads model and data too, which is not in the time.
"""

import importlib.util
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path

from datasets import Dataset, DatasetDict
from serve import serve, versions
from training import Clock
from transformers.utils import is_torchaudio_available

# It imports torchaudio, whose builds on PyPI are for GPUs, but text never calls it: without it an empty module will do.
if not is_torchaudio_available():
    sys.modules["torchaudio"] = importlib.util.module_from_spec(ModuleSpec("torchaudio", None))

from llamafactory.train.tuner import run_exp


def load(model, dtype, device):
    def prepare(adapter, rows, arguments):
        folder, clock = tempfile.TemporaryDirectory(), Clock()
        rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(Path(folder.name) / "rows")
        settings = {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": model,
            "finetuning_type": "lora",
            "adapter_name_or_path": adapter,
            "template": "empty",
            "dataset": "rows",  # a name only: the rows are tokenised already
            "tokenized_path": str(Path(folder.name) / "rows"),
            "output_dir": str(Path(folder.name) / "output"),
            "disable_shuffling": True,
            "disable_gradient_checkpointing": True,  # it would do so whatever `arguments` say
        }

        def work():
            run_exp(settings | arguments, callbacks=[clock])
            folder.cleanup()
            return clock.answer

        return work

    return {"versions": versions("llamafactory", "torch", "transformers", "peft")}, prepare


if __name__ == "__main__":
    serve(load)
