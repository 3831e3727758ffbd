"""tlrec/model/memory.py: rows that fit into the CPU's memory; the count itself is held against real steps in
tests/tuning/test_memory_table.py.

1. The shape is read off the model, LoRA's modules included, for a LLaMA and for a GPT-2.
2. More memory, more rows; a row that does not fit is an InputError of one line that says what would help.
3. Control groups limit what may be used, version 1 and 2, with the file cache left out.
4. A tuner with little memory says so, takes fewer rows at once, and ends with the same adapter but for rounding; with too
   little it ends before the base model is loaded, and so does evaluate.py.
"""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from tests.support.tuned import furthest, weights
from tlrec.errors import InputError
from tlrec.model import base_models, memory
from tlrec.model.memory import check_scoring_fits, rows_that_fit, shape_of, tokens_in_a_pass


def meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


LLAMA = LlamaConfig(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def test_shapes():
    shape, weights = shape_of(meta(LLAMA), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    assert (shape.vocabulary, shape.width, shape.inner, shape.layers, shape.heads) == (1000, 64, 192, 3, 4)
    assert (shape.lora_r, shape.lora_inputs) == (4, (64, 192))
    assert weights == 1000 * 64 + 3 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 192 + 2 * 64) + 64
    gpt2 = meta(GPT2Config(vocab_size=500, n_embd=48, n_layer=2, n_head=4))
    shape, _ = shape_of(gpt2, LoraConfig(target_modules=["c_attn"]))
    assert (shape.vocabulary, shape.width, shape.inner, shape.layers, shape.lora_inputs) == (500, 48, 192, 2, (48,))


def test_rows():
    lora = LoraConfig(target_modules=["q_proj", "v_proj"])
    fixed = (meta(LLAMA), lora, 100, 32, torch.float32, "none", False)
    rows = [rows_that_fit(*fixed, memory) for memory in (4e6, 8e6, 16e6, 1e9)]
    assert rows == sorted(rows) and 0 < rows[0] < rows[2] < rows[3] == 32
    halved = rows_that_fit(meta(LLAMA), lora, 100, 32, torch.bfloat16, "none", False, 8e6)
    checkpointed = rows_that_fit(meta(LLAMA), lora, 100, 32, torch.float32, "none", True, 8e6)
    assert rows[1] < halved and rows[1] < checkpointed
    long = np.int32(100_000)  # as lengths on disk are; bytes would overflow in it
    assert rows_that_fit(meta(LLAMA), lora, long, 32, torch.float32, "none", False, 8e9) < 32
    with pytest.raises(InputError, match=r"one row of 100 tokens takes about 0\.0 GB, and 0\.0 GB .* --cutoff_len"):
        rows_that_fit(*fixed, 1e6)


def test_tokens(monkeypatch):
    check_scoring_fits(meta(LLAMA), 100, torch.float32, "none", 4e6)
    with pytest.raises(InputError, match="the base model and one row of 100 tokens take about"):
        check_scoring_fits(meta(LLAMA), 100, torch.float32, "none", 0.5e6)
    model = AutoModelForCausalLM.from_config(LLAMA)
    tokens = []
    for size in (1e9, 4e6, 10):
        monkeypatch.setattr(memory, "memory_at_hand", lambda size=size: size)
        tokens.append(tokens_in_a_pass(model, 2048))
    assert tokens[0] == 2048 and 100 < tokens[1] < 2048 and tokens[2] == 1


VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
VERSION_2 = ("memory.max", "memory.current", "memory.stat")


@pytest.mark.parametrize(
    "groups, folder, names, contents, limits",
    [
        ("0::/user/job\n", "user/job", VERSION_2, ("5000", "900", "anon 500\ninactive_file 400"), [(5000, 500)]),
        (
            "0::/of/a/container\n",
            "",
            VERSION_2,
            ("7000", "100", "inactive_file 0"),
            [(7000, 100)],
        ),  # which sees the root
        ("0::/\n", "", VERSION_2, ("max", "100", "inactive_file 0"), []),
        ("4:memory:/a\n0::/\n", "memory/a", VERSION_1, ("6000", "1000", "total_inactive_file 300"), [(6000, 700)]),
    ],
)
def test_control_groups(tmp_path, groups, folder, names, contents, limits):
    (tmp_path / "own").write_text(groups)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, contents):
        (tmp_path / folder / name).write_text(text + "\n")
    assert list(memory._group_limits(tmp_path, tmp_path / "own")) == limits


def test_what_may_be_used(monkeypatch):
    class Machine:
        total, available = 1000, 900

    monkeypatch.setattr("psutil.virtual_memory", lambda: Machine)
    monkeypatch.setattr(memory, "_group_limits", lambda: [])
    assert memory.memory_at_hand() == 700  # a share of all, so that it does not depend on the hour
    Machine.available = 500
    assert memory.memory_at_hand() == 450  # but others use the rest
    monkeypatch.setattr(memory, "_group_limits", lambda: [(400, 100)])
    assert memory.memory_at_hand() == 270


# ------------------------------------------------------------------------------------------------------ the scripts


@pytest.fixture
def tuned(few_shot, tmp_path, monkeypatch):
    """tuned(name, bytes) -> what rec_tuning.py with so much memory returns."""

    def run(name, size):
        monkeypatch.setattr(memory, "memory_at_hand", lambda: size)
        flags = ["--batch_size", 16, "--micro_batch_size", 16, "--lora_dropout", 0, "--learning_rate", 3e-4]
        return few_shot(tmp_path / name, "--sample", -1, *flags)

    return run


@pytest.mark.slow
def test_little_memory_changes_no_result(tuned, tmp_path):
    status, out, _ = tuned("whole", 10e9)
    assert status == 0 and "rows go through the model" not in out
    status, out, err = tuned("divided", 14e6)
    assert status == 0, err
    assert (
        "memory: 0.0 GB may be used here, so 8 rows go through the model at once instead of 16; the batch stays 16 rows"
        in out
    )
    assert furthest(weights(tmp_path / "whole"), weights(tmp_path / "divided")) < 1e-5


def test_too_little_memory_ends_before_loading(tuned, evaluate, tiny_adapter, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the base model was loaded")

    monkeypatch.setattr(base_models, "load_base_model", refuse)
    status, _, err = tuned("none", 1e5)
    line = err.splitlines()[-1]  # after the progress bar of tokenising
    assert status == 2 and line.startswith("error: one row of ") and "GB of memory may be used here" in line, err
    status, _, err = evaluate(tiny_adapter)
    assert status == 2 and err.startswith("error: the base model and one row of 512 tokens take about"), err
