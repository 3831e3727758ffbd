"""TRL, in its own environment: SFTTrainer on rows of token ids, from a LoRA adapter.

settings  model (folder), dtype, device
request   adapter (folder to start from), rows: [{"input_ids", "labels"}, ...] in the order to take them, arguments: {name:
          value} of TrainingArguments
answer    losses, grad_norms: [one for each step]; seconds, cpu_seconds of the steps
"""

import tempfile

import torch
from datasets import Dataset
from peft import PeftModel
from serve import serve, versions
from training import Clock
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer


def load(model, dtype, device):
    tokenizer = AutoTokenizer.from_pretrained(model)

    def prepare(adapter, rows, arguments):
        # The trainer changes the model, so each request gets its own.
        base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), device_map={"": device})
        folder, clock = tempfile.TemporaryDirectory(), Clock()
        trainer = SFTTrainer(
            model=PeftModel.from_pretrained(base, adapter, is_trainable=True),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            args=SFTConfig(output_dir=folder.name, train_sampling_strategy="sequential", **arguments),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)

        def work():
            trainer.train()
            folder.cleanup()
            return clock.answer

        return work

    return {"versions": versions("trl", "torch", "transformers", "peft")}, prepare


if __name__ == "__main__":
    serve(load)
