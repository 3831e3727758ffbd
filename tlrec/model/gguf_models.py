"""Tokenizer and model of a GGUF file as Hugging Face objects, checked against the file.

transformers does the reading. This module adds what it leaves out: pre-tokenizers it does not know, the scaling of
rotary embeddings, the width of heads, and a check that every number of the file is used.
"""

import json
import math

import torch
from gguf import TokenType
from tokenizers import Tokenizer, decoders, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.pytorch_utils import Conv1D

from tlrec.errors import InputError, first_line
from tlrec.model.gguf_files import ROPE_FREQUENCIES, count_numbers

# llama.cpp's names of ways to split a text before byte-level BPE that transformers does not know.
SPLITS_OF_GPT2 = ("default", "gpt-2", "phi-2", "olmo", "mpt", "jina-en", "jina-es", "jina-de")
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
ENDS_OF_TURN = ("eos", "eot", "eom")  # ids in the file, each of which ends an answer
BLOCK = 32  # weights that share one scale in most quantised types
TEXT = (
    "The library at the corner of the old market opens at nine in the morning. On Saturdays it fills with "
    "families who\nlook for something to read together, and the woman at the desk knows most of them by name. "
    '"If you liked the book about the\nlighthouse," she tells a boy of ten, "you will like this one, too: it '
    'has a storm, a map, and a dog that finds the way home."\nHis sister, who is older, shakes her head. She '
    "has read nothing but stories about space since 1997, she says, and she wants\nnumber 12 of the series. It "
    "is on loan until next week. So they take the dog, and on the way home their father asks which of\nthe "
    "three films that they saw this year was the best. Neither of them can decide, and they talk about it "
    "until dinner.\n"
)

# ---------------------------------------------------------------------------------------------------------- tokenizer


def build_tokenizer(gguf):
    """The tokenizer that the file's vocabulary describes, with special tokens and chat template.

    Raises InputError if token ids would differ from the file's.
    """
    try:
        architecture, vocabulary, settings = get_gguf_tokenizer(str(gguf.path))
        backend, _ = convert_gguf_tokenizer(architecture, vocabulary)
    except Exception as error:  # every kind of vocabulary raises its own class
        raise InputError(f"{gguf.path}: its vocabulary cannot be read: {first_line(error)}") from None
    backend = _only_tokens_of_the_file(gguf, backend)
    _split_as_llama_cpp(gguf, backend)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=gguf.get("context_length"),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **settings,
    )
    check_tokenizer(gguf, tokenizer)
    return tokenizer


def _only_tokens_of_the_file(gguf, backend):
    """Without the special tokens that transformers' classes add, such as GPT-2's <|endoftext|>: their ids come after
    the file's and have no row in the embedding."""
    content = json.loads(backend.to_str())
    size = len(gguf.metadata["tokenizer.ggml.tokens"])
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < size]
    if content["model"].get("unk_token") not in content["model"]["vocab"]:
        content["model"]["unk_token"] = None
    return Tokenizer.from_str(json.dumps(content))


def _split_as_llama_cpp(gguf, backend):
    """Set the pre-tokenizer where transformers would use that of another family."""
    kind, split = gguf.metadata.get("tokenizer.ggml.model"), gguf.metadata.get("tokenizer.ggml.pre", "default")
    if kind == "llama" and not gguf.architecture.startswith("gemma"):
        if not gguf.metadata.get("tokenizer.ggml.add_space_prefix", True):
            backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
            parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            backend.decoder = decoders.Sequence(parts)
    elif kind == "gpt2" and split in SINGLE_DIGITS:
        # "  1994" is two spaces and four digits, not a space and " 1994"
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif kind == "gpt2" and split not in (*GGUF_PRE_TOKENIZER_SPLITS, *SPLITS_OF_GPT2):
        raise InputError(
            f"{gguf.path}: splits text as {split!r} (tokenizer.ggml.pre), which transformers does not know; "
            "token ids would differ from those it was trained with"
        )


def check_tokenizer(gguf, tokenizer):
    """Raise InputError unless every token has the id that it has in the file, special tokens in a text become one id,
    and a text is decoded from its ids unchanged."""
    tokens, types = gguf.metadata["tokenizer.ggml.tokens"], gguf.metadata.get("tokenizer.ggml.token_type")
    spelling = bytes_to_unicode()
    found = tokenizer.convert_ids_to_tokens(list(range(len(tokens))))
    for number, (token, mine) in enumerate(zip(tokens, found)):
        as_bytes = "".join(spelling[byte] for byte in token.encode())
        if mine not in (token, as_bytes, token.replace(" ", "▁")):
            raise InputError(
                f"{gguf.path}: token {number} is {token!r} in the file and {mine!r} as transformers reads it"
            )
    if len(tokenizer) != len(tokens):
        raise InputError(f"{gguf.path}: {len(tokens)} tokens in the file, {len(tokenizer)} as transformers reads it")

    for name in ("bos", "eos", "unknown", "padding"):
        number = gguf.metadata.get(f"tokenizer.ggml.{name}_token_id")
        mine = getattr(tokenizer, {"unknown": "unk", "padding": "pad"}.get(name, name) + "_token_id")
        if mine != number:
            raise InputError(f"{gguf.path}: {name} token is {number} in the file and {mine} as transformers reads it")
    special = set(tokenizer.added_tokens_decoder)
    if types:
        whole = (TokenType.CONTROL, TokenType.USER_DEFINED)
        special |= {number for number, kind in enumerate(types) if kind in whole and found[number] == tokens[number]}
    for number in sorted(special):
        ids = tokenizer.encode(tokens[number], add_special_tokens=False)
        if ids != [number] and tokens[number].strip():  # runs of spaces merge with one another
            raise InputError(f"{gguf.path}: special token {tokens[number]!r} is {number} in the file, {ids} in a text")

    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    if tokenizer.unk_token_id not in ids and (text := tokenizer.decode(ids)) != TEXT:
        place = next(place for place, pair in enumerate(zip(text + "\0", TEXT)) if pair[0] != pair[1])
        raise InputError(
            f"{gguf.path}: {TEXT[place : place + 20]!r} is decoded from its token ids as "
            f"{text[place : place + 20]!r}; transformers reads this vocabulary wrongly"
        )


def generation_config(gguf, tokenizer):
    """Greedy decoding that stops at any token that ends a turn."""
    ends = [gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ENDS_OF_TURN]
    ends = list(dict.fromkeys(number for number in ends if number is not None))
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )


# -------------------------------------------------------------------------------------------------------------- model


def load_model(gguf):
    """The file's model, unpacked to float32, as transformers loads it with a complete configuration.

    Raises InputError if a weight is missing from the file, or if the model does not have all numbers of the file.
    """
    place = {"pretrained_model_name_or_path": gguf.path.parent, "gguf_file": gguf.path.name}
    try:
        config = complete_config(gguf, AutoConfig.from_pretrained(**place))
        model, loading = AutoModelForCausalLM.from_pretrained(
            **place, config=config, dtype=torch.float32, output_loading_info=True
        )
    except InputError:
        raise
    except Exception as error:  # every architecture raises its own class
        raise InputError(f"{gguf.path}: transformers cannot load it: {first_line(error)}") from None
    if missing := sorted(loading["missing_keys"]):  # transformers leaves them random
        raise InputError(f"{gguf.path}: the file lacks {len(missing)} weights, such as {missing[0]}")
    there = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    expected = count_numbers(gguf, config.tie_word_embeddings)
    if sum(there.values()) != expected:
        raise InputError(
            f"{gguf.path}: transformers makes a {type(model).__name__} of {sum(there.values()):,} numbers, the file "
            f"has {expected:,}; the model would differ from the file"
        )
    return model.eval().requires_grad_(False)


def complete_config(gguf, config):
    """Add what transformers does not take from the file: the width of heads, rotary scaling, and the ids of special
    tokens. For an absent one it would keep the family's id, which may lie outside the vocabulary."""
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        setattr(config, f"{name}_token_id", gguf.metadata.get(f"tokenizer.ggml.{key}_token_id"))
    if (width := gguf.get("attention.key_length")) and gguf.architecture in ("llama", "qwen2", "qwen3", "qwen3moe"):
        config.head_dim = width
    scaling = _rope_scaling(gguf, config)
    if scaling:
        ropes = config.rope_parameters
        # Gemma 3 has one for each kind of layer, and scales that of the layers with full attention
        (ropes["full_attention"] if "full_attention" in ropes else ropes).update(scaling)
    config.__dict__.pop("_model_name_or_path", None)  # the model's name in the file
    return config


def _rope_scaling(gguf, config):
    """What rope_parameters need in addition, in transformers' terms; {} for plain rotary embeddings."""
    if ROPE_FREQUENCIES in gguf.tensors:
        return _llama3_scaling(gguf, config)
    kind = gguf.get("rope.scaling.type", "none")
    factor = gguf.get("rope.scaling.factor", gguf.get("rope.scale_linear"))
    if kind == "none" and factor is None:
        return {}
    if kind in ("none", "linear") and factor:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor:
        length = gguf.get("rope.scaling.original_context_length", config.max_position_embeddings)
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    if gguf.architecture in ("gpt-oss", "qwen35", "qwen35moe"):  # transformers reads these itself
        return {}
    raise InputError(
        f"{gguf.path}: scales rotary embeddings as {kind!r} (rope.scaling.type), which cannot be converted"
    )


def _llama3_scaling(gguf, config):
    """Llama 3.1 and later: the file has the divisor of each frequency, transformers wants the rule that makes them."""
    from gguf import GGUFReader, dequantize

    tensor = next(each for each in GGUFReader(gguf.path).tensors if each.name == ROPE_FREQUENCIES)
    divisors = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).flatten().double()
    factor, low, high, length = float(divisors.max()), 1.0, 4.0, 8192
    theta, pairs = config.rope_parameters["rope_theta"], len(divisors)
    turns = length / (2 * math.pi * theta ** (torch.arange(pairs).double() / pairs))  # of each pair within `length`
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    rule = 1 / ((1 - smooth) / factor + smooth)
    if not torch.allclose(divisors, rule, rtol=1e-3):
        raise InputError(
            f"{gguf.path}: {ROPE_FREQUENCIES} does not follow the rule of Llama 3, and transformers knows no other"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }


@torch.no_grad()
def round_to(model, dtype):
    """Round every weight to its value as `dtype`, in place; the model's own number type does not change."""
    for weight in model.parameters():
        weight.copy_(weight.to(dtype))


def fresh_model(model, dtype):
    """The same weights as `dtype` in a new model that can be saved, which one from a GGUF file cannot. The new model
    may share the weights, so do not use `model` afterwards."""
    config = model.config
    del config.quantization_config  # it would prevent saving
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=dtype)
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    fresh.load_state_dict(weights, assign=True)
    fresh.tie_weights()
    return fresh


# --------------------------------------------------------------------------------------------- what quantisation costs


@torch.no_grad()
def logits(model, ids):
    """The model's logits (length, vocabulary) of one row of token ids, as float32."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def loss(logits, ids):
    """Mean cross-entropy of each next token, in nats."""
    return float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])))


@torch.no_grad()
def round_once_more(model, seed=0):
    """Add to every matrix the error of one more rounding of the same coarseness, in place; return its size relative to
    the weights (root of mean squares).

    The distance between neighbouring levels is the smallest difference within a block of 32 weights of a row; the error
    of rounding to the nearest level is uniform, up to half of that. The original weights are unknown, but to second
    order an error of the same size costs, on average, as much as the first one.
    """
    generator = torch.Generator().manual_seed(seed)
    error = size = 0.0
    for weight in _matrices(model):
        rows = weight.reshape(-1, weight.shape[-1])
        whole = rows.shape[1] // BLOCK * BLOCK
        for part in rows[:, :whole].split(max(1, (1 << 22) // rows.shape[1])):
            blocks = part.reshape(-1, BLOCK)
            gaps = blocks.sort(dim=1).values.diff(dim=1)
            step = gaps.masked_fill(gaps <= 1e-6 * blocks.abs().amax(dim=1, keepdim=True), math.inf).amin(
                dim=1, keepdim=True
            )
            step = step.masked_fill(step.isinf(), 0)  # all weights of the block are equal
            noise = (torch.rand(blocks.shape, generator=generator) - 0.5) * step
            error += float(noise.square().sum())
            size += float(blocks.square().sum())
            part += noise.reshape(part.shape)
    return math.sqrt(error / size)


def _matrices(model):
    """Views of all matrices, each once, with the rows of the file as rows."""
    turned = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    for weight in model.parameters():
        if weight.ndim >= 2:
            yield weight.data.T if id(weight) in turned else weight.data
