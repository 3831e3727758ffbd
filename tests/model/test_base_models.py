"""Adapters are loaded and saved tensor by tensor, or refused in words.

1. A `.bin` file gives every tensor; a pickle with code in it is refused and not run.
2. Whatever does not fit - rank, target modules, depth or width of the base, no tensors - is an InputError.
3. A loaded adapter computes what loralib computes from the same A, B and x, merged or not.
4. A save that is interrupted leaves nothing that loads, and no run or evaluation of the adapter before it.
5. More tokens than a model has positions for are refused before it is loaded, where it would crash.
6. Old LLaMA folders (empty special tokens, no <pad>) load; a folder that cannot be loaded is one line.
"""

import json
import os
import pickle
import shutil

import loralib
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.support.models import make_adapter, make_family, make_llama
from tlrec.errors import InputError
from tlrec.model import adapters, base_models, merging
from tlrec.model.folders import check_adapter, check_base_model
from tlrec.runs import RunFolder

CPU = torch.device("cpu")
PUBLISHED = dict(r=8, lora_alpha=16, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM")


def load(folder):
    return base_models.load_base_model(folder, CPU, torch.float32)


@pytest.fixture
def adapter(tiny_adapter, tmp_path):
    """A copy of `tiny_adapter` to spoil."""
    return shutil.copytree(tiny_adapter, tmp_path / "adapter")


def as_bin(folder, content=None):
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors if content is None else content, folder / "adapter_model.bin")
    return tensors


# ------------------------------------------------------------------------------------------------------------ loading


def test_a_bin_file_gives_every_tensor(tiny_llama, adapter):
    tensors = as_bin(adapter)
    assert len(tensors) == 2 * 2 * 2  # layers, q and v, A and B
    parameters = dict(adapters.attach_adapter(load(tiny_llama), adapter).named_parameters())
    for name, tensor in tensors.items():
        assert torch.equal(parameters[name.replace(".weight", ".default.weight")], tensor) and tensor.std() > 0


class Spy:
    """Unpickling this makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_damaged_files_and_pickled_code_are_refused_and_not_run(adapter, tmp_path):
    path = adapter / "adapter_model.bin"
    as_bin(adapter, {"a": Spy(tmp_path / "ran")})
    for content in (path.read_bytes(), pickle.dumps(Spy(tmp_path / "ran")), path.read_bytes()[:-100], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match="adapter_model.bin: damaged adapter weights: .+"):
            adapters.read_adapter(adapter)
    assert not (tmp_path / "ran").exists()


# --------------------------------------------------------------------------------------------------------- not fitting


@pytest.mark.parametrize(
    "base, changes, message",
    [
        ({"width": 64}, {}, r"q_proj.lora_A.weight has shape \(8, 64\), this run needs \(8, 32\); .*--base_model"),
        (
            {"layers": 1},
            {},
            "lacks 4 of 8 tensors, such as .*layers.1.*q_proj.lora_A.weight; it was made for another base",
        ),
        ({}, {"r": 4}, r"has shape \(4, 32\), this run needs \(8, 32\); it was made for another rank"),
        (
            {},
            {"target_modules": ["k_proj", "v_proj"]},
            "lacks 4 .* the target modules k_proj v_proj, this run has q_proj v",
        ),
    ],
    ids=str,
)
def test_an_adapter_of_another_base_or_another_lora(tiny_llama, adapter, tmp_path, base, changes, message):
    other = make_adapter(tmp_path / "other", make_llama(tmp_path / "base", **base), **changes)
    shutil.copy(other / "adapter_model.safetensors", adapter)
    with pytest.raises(InputError, match=message):
        adapters.check_adapter_on(tiny_llama, adapter)
    with pytest.raises(InputError, match=message):
        adapters.attach_adapter(load(tiny_llama), adapter)


def test_target_modules_that_the_base_does_not_have(tiny_llama):
    message = f"^--lora_target_modules: LoRA does not fit on --base_model {tiny_llama}: LlamaForCausalLM has no modules named "
    for names, missing in ((["query"], "query"), (["q_proj", "value", "key"], "key value")):  # PEFT takes the latter
        with pytest.raises(InputError, match=f"{message}{missing}$"):
            adapters.expected_adapter(tiny_llama, LoraConfig(**PUBLISHED, target_modules=names))
    with pytest.raises(InputError, match="does not fit on --base_model .*: Target modules .* not found"):
        adapters.expected_adapter(tiny_llama, LoraConfig(**PUBLISHED, target_modules=".*query"))
    whole_path = LoraConfig(**PUBLISHED, target_modules=["layers.1.self_attn.q_proj"])
    assert len(adapters.expected_adapter(tiny_llama, whole_path)) == 2


def test_an_adapter_for_modules_that_the_base_does_not_have(evaluate, tiny_adapter, tmp_path):
    gpt2 = make_family(tmp_path / "gpt2", "gpt2")
    status, _, err = evaluate(tiny_adapter, base=gpt2)
    message = f"the adapter does not fit on --base_model {gpt2}: GPT2LMHeadModel has no modules named q_proj v_proj"
    assert (status, err) == (2, f"error: {tiny_adapter}: {message}\n")


# -------------------------------------------------------------------------------------------------------- arithmetic


def test_the_layer_computes_what_loralib_computes(tiny_llama, tmp_path):
    folder = make_adapter(tmp_path / "adapter", tiny_llama, lora_alpha=32)
    model = adapters.attach_adapter(load(tiny_llama), folder)
    layer = model.base_model.model.model.layers[1].self_attn.v_proj
    oracle = loralib.Linear(32, 16, r=8, lora_alpha=32, bias=False)
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        oracle.weight.copy_(layer.get_base_layer().weight)
        oracle.lora_A.copy_(tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"])
        oracle.lora_B.copy_(tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"])
        x = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
        expected = oracle(x)
        assert (expected - x @ oracle.weight.T).abs().max() > 0.1  # the adapter matters
        torch.testing.assert_close(layer(x), expected)
        with merging.merged(model):
            torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x), expected)


# ------------------------------------------------------------------------------------------------------------- saving


def test_saved_adapter_is_the_one_in_memory(tiny_llama, tiny_adapter, tmp_path):
    model = adapters.attach_adapter(load(tiny_llama), tiny_adapter)
    adapters.save_adapter(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (tmp_path / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o644
    before, after = (adapters.read_adapter(folder) for folder in (tiny_adapter, tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    config = check_adapter(tmp_path, "--flag")
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (8, 16, ["q_proj", "v_proj"])


class Killed(BaseException):
    """Stands for the power cut: no `except Exception` sees it."""


@pytest.mark.parametrize("survived", [0, 1])
def test_an_interrupted_save_leaves_nothing_that_loads(tiny_llama, tiny_adapter, adapter, monkeypatch, survived):
    for name in ("run.json", "metrics.json", "predictions.jsonl"):
        (adapter / name).write_text("{}")
    replaced = []

    def replace(source, target, original=os.replace):
        if len(replaced) == survived:
            raise Killed
        replaced.append(target)
        original(source, target)

    model = adapters.attach_adapter(load(tiny_llama), tiny_adapter)
    monkeypatch.setattr(adapters.os, "replace", replace)
    with pytest.raises(Killed):
        adapters.save_adapter(model, adapter)
    monkeypatch.undo()
    assert len(replaced) == survived
    # the adapter, run and evaluation that stood here were to be replaced; nothing of them passes for the new ones
    assert [path.name for path in adapter.iterdir()] == ["adapter_model.safetensors"]
    with pytest.raises(InputError, match="no adapter_config.json in this folder"):
        check_adapter(adapter, "--lora_weights")
    RunFolder(adapter, {}).check_free()  # and nothing stands in the way of another try
    adapters.save_adapter(model, adapter)
    check_adapter(adapter, "--lora_weights")


# ----------------------------------------------------------------------------------------------------- base and device


def test_a_conversion_of_2023(tiny_llama, tmp_path):
    folder = make_llama(tmp_path / "old", special_tokens="empty")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
    (folder / "config.json").write_text(json.dumps(config))
    old, new = load(folder), load(tiny_llama)
    ids = torch.tensor([[1, 300, 0, 400]])  # with the id that pads
    assert torch.equal(old(ids).logits, new(ids).logits)
    tokenizer = base_models.load_tokenizer(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)


def test_weights_that_cannot_be_read(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    lost = tensors.pop("model.layers.1.self_attn.v_proj.weight")
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(InputError, match="its weights lack 1 tensors, such as model.layers.1.self_attn.v_proj.weight"):
        load(folder)
    save_file(tensors | {"model.layers.1.self_attn.v_proj.weight": lost[:, :8].clone()}, weights, {"format": "pt"})
    for content in (weights.read_bytes(), b"version https://git-lfs.github.com/spec/v1", b""):
        weights.write_bytes(content)
        with pytest.raises(InputError, match="--base_model .*model: cannot be loaded: "):
            load(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="--base_model .*model: cannot be loaded: "):
        load(folder)


@pytest.mark.parametrize("family", ["gpt2", "opt", "falcon"])
def test_more_tokens_than_positions(tmp_path, capsys, family):
    folder = make_family(tmp_path, family)  # of 1024 positions
    model, ids = load(folder), torch.full((1, 1025), 3)
    model(ids[:, :-1])
    capsys.readouterr()
    check_base_model(folder, 1024)
    check_base_model(folder)
    assert not capsys.readouterr().err
    if family in ("gpt2", "opt"):
        with pytest.raises(IndexError):
            model(ids)
        with pytest.raises(
            InputError, match=f"--cutoff_len 1025: --base_model {folder} has 1024 positions; give --cuto"
        ):
            check_base_model(folder, 1025)
    else:
        assert model(ids).logits.isfinite().all()
        check_base_model(folder, 1025)
        err = capsys.readouterr().err
        assert err.startswith(
            f"warning: --cutoff_len 1025: --base_model {folder} was trained on texts of 1024 tokens at"
        )
        assert err.count("\n") == 1


@pytest.mark.parametrize("script", ["ins_tuning.py", "rec_tuning.py", "evaluate.py"])
def test_every_script_looks_at_the_positions(run_script, tiny_workspace, tmp_path, script):
    base, data = make_family(tmp_path / "base", "gpt2"), tiny_workspace / "rec_data" / "movie"
    flags = ["--train_data_path", data / "train.json", "--val_data_path", data / "valid.json"]
    flags += ["--output_dir", tmp_path / "out"]
    if script == "evaluate.py":
        flags = ["--test_data_path", data / "test.json"]
    status, _, err = run_script(script, "--base_model", base, *flags, "--cutoff_len", 2048, "--check_only")
    message = f"error: --cutoff_len 2048: --base_model {base} has 1024 positions; give --cutoff_len 1024 or less\n"
    assert (status, err) == (2, message)


def test_dtype_on_the_cpu(monkeypatch, tiny_llama):
    assert base_models.resolve_dtype("auto", CPU) == torch.float32
    assert base_models.resolve_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(InputError, match="--dtype float16 needs a GPU"):
        base_models.resolve_dtype("float16", CPU)
    for multiplies, large, expected in (
        (True, 1, torch.bfloat16),
        (True, 10**9, torch.float32),
        (False, 1, torch.float32),
    ):
        monkeypatch.setattr(base_models, "multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        monkeypatch.setattr(base_models, "LARGE", large)
        assert base_models.resolve_dtype("auto", CPU, tiny_llama) == expected
        assert base_models.resolve_dtype("float32", CPU, tiny_llama) == torch.float32
