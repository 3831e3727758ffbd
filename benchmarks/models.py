"""Models in real shapes with an adapter, records, and padded batches for the benchmarks.

Speed depends on shapes, not on what the weights have learnt. All shapes share the tokenizer of pocket-llama, whose
3,072 pieces are the first ids of a larger vocabulary; it splits the Movie records into about as many tokens as LLaMA's
own."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from tlrec.data.records import read_records
from tlrec.errors import InputError
from tlrec.model import base_models
from tlrec.model.memory import Shape

REPOSITORY = Path(__file__).resolve().parent.parent
POCKET = REPOSITORY / "base_model" / "pocket-llama"
SMOLLM2 = REPOSITORY / "base_model" / "smollm2-135m"

SHAPES = {
    "tiny": Shape(3_072, 32, 48, 2, 2),  # for the tests
    "pocket": Shape(3_072, 128, 256, 6, 4),
    "20m": Shape(32_000, 256, 688, 5, 8),
    "7b": Shape(32_000, 4_096, 11_008, 32, 32),  # LLaMA-7B
}


def llama_config(shape, **more):
    """The LlamaConfig of a Shape."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        **more,
    )


def load_tokenizer(shape):
    return base_models.load_tokenizer(SMOLLM2 if shape == "smollm2" else POCKET)


def make_model(shape, device, dtype, attention="sdpa", lora_dropout=0.0):
    """SmolLM2-135M, or a random LLaMA of `shape`, on `device`, frozen, with a random LoRA of the recipe's form, no tensor
    of which is zero; the same every time."""
    torch.manual_seed(0)
    if shape == "smollm2":
        base = base_models.load_base_model(SMOLLM2, device, dtype, attention=attention)
    else:
        spread = SHAPES[shape].width ** -0.5  # every layer matters, and rows get scores that differ
        config = llama_config(SHAPES[shape], max_position_embeddings=2048, initializer_range=spread)
        with device:
            base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    base.eval().requires_grad_(False)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=lora_dropout, init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


def load_records(path, rows):
    """The first `rows` records of a file; InputError if it has fewer."""
    records = read_records(path)
    if len(records) < rows:
        raise InputError(f"{path}: has {len(records)} rows, --rows asks for {rows}")
    return records[:rows]


def left_padded(rows, device):
    """(token ids, mask), both (rows, longest), padded on the left as the published code does; the padding has id 0."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
