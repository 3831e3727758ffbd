"""Models with random weights in real shapes, an adapter, and Movie test records for the benchmarks.

Speed depends on shapes, not on what the weights have learnt. All shapes share the tokenizer of pocket-llama, whose
3,072 pieces are the first ids of a larger vocabulary; it splits the Movie records into about as many tokens as LLaMA's
own."""

import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from tlrec.data.records import read_records
from tlrec.demo.workspace import FILES, make_workspace
from tlrec.errors import InputError
from tlrec.model import base_models

REPOSITORY = Path(__file__).resolve().parent.parent
POCKET = REPOSITORY / "base_model" / "pocket-llama"
MOVIE_TEST = REPOSITORY.parent / "shared" / "data" / "rec_data" / "movie" / "test.json"

# vocabulary, width, width of the feed-forward part, layers, heads
SHAPES = {
    "tiny": (3_072, 32, 48, 2, 2),  # for the tests
    "pocket": (3_072, 128, 256, 6, 4),
    "20m": (32_000, 256, 688, 5, 8),
    "7b": (32_000, 4_096, 11_008, 32, 32),  # LLaMA-7B
}


def load_tokenizer():
    return base_models.load_tokenizer(POCKET)


def make_model(shape, device, dtype, attention="sdpa", lora_dropout=0.0):
    """A random LLaMA of `shape` on `device`, frozen, with a random LoRA of the recipe's form; the same every time."""
    vocabulary, width, inner, layers, heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        initializer_range=width**-0.5,  # every layer matters, and rows get scores that differ
    )
    torch.manual_seed(0)
    with device:
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    base.eval().requires_grad_(False)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=lora_dropout, init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(base, lora)


def load_records(path, rows):
    """(records, their source): the first `rows` of the file, or demo records where the default file is absent."""
    source = str(path)
    if path == MOVIE_TEST and not path.exists():
        sizes = {
            name: {split: rows if name == "movie" else 1 for split in splits} for name, (_, splits) in FILES.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            make_workspace(Path(folder), 0, sizes)
            records = read_records(Path(folder) / "rec_data" / "movie" / "test.json")
        return records, "demo records (there is no Movie test file)"
    records = read_records(path)
    if len(records) < rows:
        raise InputError(f"{path}: has {len(records)} rows, --rows asks for {rows}")
    return records[:rows], source


def forward_operations(shape, lengths, prefix, heads):
    """Additions and multiplications of one forward pass over rows of `lengths` tokens that share their first `prefix`.

    heads: positions at which the output head is computed. Padding is not counted.
    """
    vocabulary, width, inner, layers, _ = SHAPES[shape]
    # A token in a layer: query, key, value and output projections of width x width; gate, up and down of width x inner;
    # a multiplication and an addition for each weight.
    projections = 2 * (4 * width * width + 3 * width * inner)
    # Attention at position p: p + 1 scores of `width` products over all heads, and as many to mix the values.
    tokens, pairs = prefix, prefix * (prefix + 1) // 2
    for length in lengths:
        tokens += length - prefix
        pairs += (length * (length + 1) - prefix * (prefix + 1)) // 2
    attention = 2 * 2 * width * pairs
    return layers * (projections * tokens + attention) + 2 * width * vocabulary * heads


def multiplying_weights(shape):
    """Number of weights that every token is multiplied with: all but the embedding, which is looked up."""
    vocabulary, width, inner, layers, _ = SHAPES[shape]
    return layers * (4 * width * width + 3 * width * inner) + width * vocabulary
