"""Small models that the tests make themselves: a SentencePiece tokenizer, LLaMAs of two layers, adapters on them."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tlrec.demo.world import NEUTRAL, THEMES
from tlrec.prompts import load_frame

WIDTH, LAYERS, HEADS = 32, 2, 4
LONG = 1000000000000000019884624838656  # what old conversions give as model_max_length


@cache
def sentencepiece_model(answers=("Yes", "No")):
    """Bytes of a SentencePiece model laid out as LLaMA's: <unk> <s> </s>, 256 bytes, then BPE pieces. `answers` are the
    words that get a piece of their own."""
    quoted = " or ".join(f'"{answer}."' for answer in answers)
    record = {
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target "
        f"movie by answering {quoted}.",
        "input": "User Preference: \nUser Unpreference: \nWhether the user will like the target movie written by ?",
    }
    lines = load_frame("tallrec").prompt(record).split("\n") * 20
    lines += [f'"{word} ({year})", "{word} of the Night"' for word in NEUTRAL for year in (2101, 2150)]
    lines += [" ".join(words) for words in THEMES.values()]
    lines += [form.format(answer) for form in ("/{}/", "({})", "-{}.", "{}") for answer in answers] * 40
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=640, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=1,
        eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def write_tokenizer(folder, special_tokens="good", answers=("Yes", "No")):
    """The tokenizer files of a LLaMA folder: with special tokens ("good"), with "empty" ones as in conversions of 2023,
    or "absent", nothing but `tokenizer.model`."""
    folder = Path(folder)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(answers))
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    good = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if special_tokens == "good":
        tokenizer = good | {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
        special = good
    elif special_tokens == "empty":
        tokenizer = dict.fromkeys(good, "") | {"tokenizer_class": "LLaMATokenizer", "model_max_length": LONG}
        special = {}
    else:
        return
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def make_llama(folder, width=WIDTH, layers=LAYERS, seed=0, special_tokens="good"):
    """A LLaMA with random weights, large enough ones that rows get clearly different scores; returns its folder."""
    folder = Path(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=640, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, special_tokens)
    return folder


def make_adapter(folder, base_folder, seed=1, **changes):
    """An adapter in the published configuration (or with `changes`), A and B random; returns its folder."""
    torch.manual_seed(seed)
    options = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]} | changes
    base = LlamaForCausalLM.from_pretrained(base_folder)
    model = get_peft_model(base, LoraConfig(**options, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (Path(folder) / "README.md").unlink()  # PEFT's empty model card
    return Path(folder)
