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
from tlrec.model.engine import shared_prefix

REPOSITORY = Path(__file__).resolve().parent.parent
POCKET = REPOSITORY / "base_model" / "pocket-llama"
SMOLLM2 = REPOSITORY / "base_model" / "smollm2-135m"
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


def config_of(shape):
    vocabulary, width, inner, layers, heads = SHAPES[shape]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        initializer_range=width**-0.5,  # every layer matters, and rows get scores that differ
    )


def make_model(shape, device, dtype, attention="sdpa", lora_dropout=0.0):
    """A random LLaMA of `shape` on `device`, frozen, with a random LoRA of the recipe's form; the same every time."""
    config = config_of(shape)
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


def forward_operations(config, lengths, prefix, heads):
    """Additions and multiplications of one forward pass over rows of `lengths` tokens that share their first `prefix`.

    config: of a LLaMA. heads: positions at which the output head is computed. Padding is not counted.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    projections = 2 * _weights_of_layer(config)  # a multiplication and an addition for each weight
    # Attention at position p: p + 1 scores of `width` products over all heads, and as many to mix the values.
    tokens, pairs = prefix, prefix * (prefix + 1) // 2
    for length in lengths:
        tokens += length - prefix
        pairs += (length * (length + 1) - prefix * (prefix + 1)) // 2
    attention = 2 * 2 * width * pairs
    return layers * (projections * tokens + attention) + 2 * width * config.vocab_size * heads


def multiplying_weights(config):
    """Number of weights that every token is multiplied with: all but the embedding, which is looked up."""
    return config.num_hidden_layers * _weights_of_layer(config) + config.hidden_size * config.vocab_size


def operations_of_tuned_token(config):
    """With a frozen base a token takes 2 operations for each weight forward and 2 backward (the gradient of the
    activations only); attention is not counted."""
    return 4 * multiplying_weights(config)


def scoring_operations(config, prompts):
    """Operations that the rows need: {"shared": the common prefix computed once, "whole": every row on its own}."""
    lengths, prefix = [len(prompt) for prompt in prompts], shared_prefix(prompts, min(map(len, prompts)) - 1)
    of = {"shared": prefix, "whole": 0}
    return {name: forward_operations(config, lengths, length, len(prompts)) for name, length in of.items()}


def tuning_operations(config, rows, batch_size):
    """The same of tuning on rows in batches."""
    ids = [row["input_ids"] for row in rows]
    tokens = sum(map(len, ids))
    batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    saved = sum((len(batch) - 1) * shared_prefix(batch, min(map(len, batch)) - 1) for batch in batches)
    each = operations_of_tuned_token(config)
    return {"shared": each * (tokens - saved), "whole": each * tokens}


def _weights_of_layer(config):
    """Query and output projections of width x width; key and value, of width x the width of their heads; gate, up and
    down of width x inner."""
    width, inner = config.hidden_size, config.intermediate_size
    of_key = width * config.num_key_value_heads // config.num_attention_heads
    return 2 * width * width + 2 * width * of_key + 3 * width * inner
