"""Small models that the tests make themselves: tokenizers, LLaMAs and others of two layers, adapters on them."""

import io
import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tlrec.demo.world import NEUTRAL, THEMES
from tlrec.model.prompts import load_frame

WIDTH, LAYERS, HEADS = 32, 2, 4
LONG = 1000000000000000019884624838656  # what old conversions give as model_max_length


def corpus(answers=("Yes", "No")):
    """Lines of text to make a tokenizer of; `answers` are frequent enough to become tokens of their own."""
    quoted = " or ".join(f'"{answer}."' for answer in answers)
    record = {
        "instruction": "Given the user's preference and unpreference, identify whether the user will like the target "
        f"movie by answering {quoted}.",
        "input": "User Preference: \nUser Unpreference: \nWhether the user will like the target movie written by ?",
    }
    lines = load_frame("tallrec").prompt(record).split("\n") * 20
    lines += [f'"{word} ({year})", "{word} of the Night"' for word in NEUTRAL for year in (2101, 2150)]
    lines += [" ".join(words) for words in THEMES.values()]
    return lines + [form.format(answer) for form in ("/{}/", "({})", "-{}.", "{}") for answer in answers] * 40


@cache
def sentencepiece_model(answers=("Yes", "No")):
    """Bytes of a SentencePiece model laid out as LLaMA's: <unk> <s> </s>, 256 bytes, then BPE pieces. `answers` are the
    words that get a piece of their own."""
    lines, model = corpus(answers), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=640,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
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
        vocab_size=640,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, special_tokens)
    return folder


def make_adapter(folder, base_folder, seed=1, **changes):
    """An adapter in the published configuration (or with `changes`), A and B random; returns its folder."""
    torch.manual_seed(seed)
    options = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.05} | changes
    base = LlamaForCausalLM.from_pretrained(base_folder)
    model = get_peft_model(base, LoraConfig(**options, bias="none", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (Path(folder) / "README.md").unlink()  # PEFT's empty model card
    return Path(folder)


# ------------------------------------------------------------------------------------------------------ other families

CHATML = """{%- if messages[0]["role"] != "system" -%}
{{ "<|im_start|>system\nYou are helpful.<|im_end|>\n" }}
{%- endif -%}
{%- for message in messages -%}
{{ "<|im_start|>" + message["role"] + "\n" + message["content"] + "<|im_end|>\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\n" }}{%- endif -%}"""

THINKING = """{%- for message in messages -%}
{{ "<|im_start|>" + message["role"] + "\n" }}
{%- if loop.last and message["role"] == "assistant" -%}{{ "<think>\n\n</think>\n\n" }}{%- endif -%}
{{ message["content"] + "<|im_end|>\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ "<|im_start|>assistant\n" }}
{%- if enable_thinking is defined and not enable_thinking -%}{{ "<think>\n\n</think>\n\n" }}{%- endif -%}
{%- endif -%}"""

DATED = """{{ bos_token }}
{%- if strftime_now is defined -%}{%- set date = strftime_now("%d %b %Y") -%}
{%- else -%}{%- set date = "26 Jul 2024" -%}{%- endif -%}
{{ "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date + "<|eot_id|>" }}
{%- for message in messages -%}
{{ "<|start_header_id|>" + message["role"] + "<|end_header_id|>\n\n" + message["content"] | trim + "<|eot_id|>" }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|start_header_id|>assistant<|end_header_id|>\n\n" }}{%- endif -%}"""

BRACKETS = """{{ bos_token }}
{%- for message in messages -%}
{%- if message["role"] == "user" -%}{{ "[INST] " + message["content"] + " [/INST]" }}
{%- else -%}{{ " " + message["content"] + " " + eos_token }}{%- endif -%}
{%- endfor -%}"""

TURNS = """{{ bos_token }}
{%- for message in messages -%}
{%- set role = "model" if message["role"] == "assistant" else message["role"] -%}
{{ "<start_of_turn>" + role + "\n" + message["content"] | trim + "<end_of_turn>\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<start_of_turn>model\n" }}{%- endif -%}"""

TAGS = """{%- for message in messages -%}
{{ "<|" + message["role"] + "|>\n" + message["content"] + "<|end|>\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|assistant|>\n" }}{%- else -%}{{ eos_token }}{%- endif -%}"""

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def bpe(special_tokens, pre_tokenizer):
    """(vocabulary, merges) of a small BPE: over bytes, in words as "gpt2" or "llama3" cuts them, or, as "gemma", over
    characters with "▁" for spaces and bytes to fall back on."""
    tokenizer = Tokenizer(BPE(byte_fallback=pre_tokenizer == "gemma"))
    tokenizer.pre_tokenizer = words(pre_tokenizer)
    special_tokens, alphabet = list(special_tokens), ByteLevel.alphabet()
    if pre_tokenizer == "gemma":
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        special_tokens, alphabet = special_tokens + [f"<0x{byte:02X}>" for byte in range(256)], []
    trainer = BpeTrainer(
        vocab_size=640,
        show_progress=False,
        special_tokens=special_tokens,
        max_token_length=10,
        initial_alphabet=alphabet,
    )
    tokenizer.train_from_iterator((line + "\n" for line in corpus()), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def words(pre_tokenizer):
    """The pre-tokenizer of `bpe`."""
    if pre_tokenizer == "llama3":
        return Sequence([Split(Regex(LLAMA3_WORDS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    if pre_tokenizer == "gemma":
        return Split(" ", "merged_with_previous")
    return ByteLevel(add_prefix_space=False)


def byte_level_tokenizer(special_tokens=(), pre_tokenizer="gpt2", **named):
    """A byte-level tokenizer over `bpe`; named: bos_token, eos_token, where it has them."""
    tokenizer = Tokenizer(BPE(*bpe((*special_tokens, *named.values()), pre_tokenizer)))
    tokenizer.pre_tokenizer, tokenizer.decoder = words(pre_tokenizer), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special_tokens)})
    return tokenizer


def merging(*merges):
    """A byte-level tokenizer without words, BOS, EOS and <pad>, whose tokens are the bytes and these merges of two."""
    merges = [tuple(merge.split()) for merge in merges]
    vocabulary = sorted(ByteLevel.alphabet()) + ["".join(merge) for merge in merges]
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


YES, NO = ("Ċ Y", "ĊY e", "ĊYe s"), ("Ċ N", "ĊN o")  # Ċ is how byte-level tokenizers write the newline


def like_llama3():
    headers = ("<|start_header_id|>", "<|end_header_id|>")
    return byte_level_tokenizer(headers, "llama3", bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def like_qwen():
    """No BOS; the published files name their own class."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = transformers.Qwen2Tokenizer(*bpe(special, "llama3"), eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return tokenizer


def like_gemma():
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
    tokenizer = transformers.GemmaTokenizer(*bpe(special, "gemma"))
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[-2:])})
    return tokenizer


def like_phi3():
    """LLaMA's pieces, and marks of turns that are not EOS."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(folder)
        tokenizer = transformers.LlamaTokenizer.from_pretrained(folder, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    return tokenizer


def like_gpt2(tokenizer_class="GPT2Tokenizer", special="<|endoftext|>"):
    """One token that is BOS and EOS, and no <pad>."""
    names = {"bos_token": special, "eos_token": special, "unk_token": special}
    return getattr(transformers, tokenizer_class)(*bpe((special,), "gpt2"), **names)


def like_llama():
    """Nothing but `tokenizer.model`: `make_family` writes it."""


SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "vocab_size": 656}
SIZES |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "max_position_embeddings": 1024}
GROUPED = SIZES | {"num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 8}
WINDOW = {"sliding_window": 16}  # shorter than the part that all prompts share
CAPS = {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 4.0, "query_pre_attn_scalar": 8}
LINEAR = {
    f"linear_{name}": size
    for name, size in (("num_key_heads", 2), ("num_value_heads", 4), ("key_head_dim", 8), ("value_head_dim", 8))
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
VISION |= {"image_size": 28, "patch_size": 14}

# name: (configuration, its arguments, tokenizer, chat template)
FAMILIES = {
    "llama": ("LlamaConfig", GROUPED, like_llama, None),
    "llama3": ("LlamaConfig", GROUPED, like_llama3, DATED),
    "qwen2": ("Qwen2Config", GROUPED | {"tie_word_embeddings": True}, like_qwen, CHATML),
    "qwen3": ("Qwen3Config", GROUPED, like_qwen, THINKING),
    "qwen3_5": (
        "Qwen3_5TextConfig",
        GROUPED | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
        like_qwen,
        THINKING,
    ),
    "mistral": ("MistralConfig", GROUPED | WINDOW, like_llama, BRACKETS),
    "gemma2": ("Gemma2Config", GROUPED | WINDOW | CAPS, like_gemma, TURNS),
    "gemma3": ("Gemma3Config", {"text_config": GROUPED | WINDOW, "vision_config": VISION}, like_gemma, TURNS),
    "phi3": ("Phi3Config", GROUPED | WINDOW, like_phi3, TAGS),
    "gpt2": ("GPT2Config", SIZES, like_gpt2, None),
    "gpt_neox": ("GPTNeoXConfig", SIZES | {"intermediate_size": 64}, lambda: like_gpt2("GPTNeoXTokenizer"), None),
    "opt": ("OPTConfig", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 16}, lambda: like_gpt2(special="</s>"), None),
    "falcon": ("FalconConfig", SIZES | {"alibi": True}, lambda: byte_level_tokenizer(eos_token="<|endoftext|>"), None),
    "bloom": ("BloomConfig", SIZES, lambda: byte_level_tokenizer(["<pad>"], bos_token="<s>", eos_token="</s>"), None),
}

# A few of them stand for all where tests are to be quick
QUICK = {"llama", "qwen2", "mistral", "bloom"}
EACH_FAMILY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def make_family(folder, name, seed=0):
    """A model of that family with random weights, large enough ones that rows get clearly different scores, a tokenizer
    and a chat template in its manner; returns its folder."""
    folder = Path(folder)
    config, arguments, tokenizer, template = FAMILIES[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**arguments))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    if tokenizer is like_llama:
        write_tokenizer(folder)
    else:
        tokenizer().save_pretrained(folder)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder
