"""benchmarks/memory_table.py counts what tuning takes.

1. LoRA, optimizer, activations and temporary tensors are within 3 % of the bytes of all tensors of a real step on the CPU,
   for two sizes, with and without checkpointing, in 16, 8 and 4 bits.
   In float32, and with LoRA on all linear layers, within a tenth.
2. The weights are those of the loaded model, scales of quantisation included.
3. The table has a row a model and setting, and is the one of base_model/README.md.
"""

from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks import memory_table
from benchmarks.memory_table import SHAPES, SMALL_SHAPES
from tests.conftest import REPOSITORY
from tlrec.model import base_models
from tlrec.model.memory import activations, lora_and_optimizer


@pytest.mark.parametrize(
    "size, rows, length, quantization, checkpointing",
    [
        ("small", 4, 64, "none", False),
        ("other", 2, 128, "none", True),
        ("small", 4, 64, "4bit", False),
        ("small", 2, 192, "4bit", True),
        ("small", 4, 64, "8bit", False),
        ("small", 2, 192, "8bit", True),
    ],
)
@pytest.mark.slow
def test_the_count_is_what_a_step_takes(size, rows, length, quantization, checkpointing):
    computed, measured = memory_table.check(SMALL_SHAPES[size], rows, length, quantization, checkpointing)
    assert computed == pytest.approx(measured, rel=0.03)


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    "dtype, targets, checkpointing",
    [("float32", None, False), ("float32", ALL_LINEAR, True), ("bfloat16", ALL_LINEAR, False)],
)
@pytest.mark.slow
def test_the_count_of_other_numbers_and_modules(dtype, targets, checkpointing):
    """It chooses how many rows fit, so that a tenth is near enough."""
    shape, number = SMALL_SHAPES["small"], 4 if dtype == "float32" else 2
    if targets:
        shape = replace(shape, lora_inputs=(shape.width,) * 6 + (shape.inner,))
    computed = lora_and_optimizer(shape) + activations(shape, 4 * 128, "none", checkpointing, mask=4, number=number)
    assert computed == pytest.approx(
        memory_table.measured(shape, 4, 128, "none", checkpointing, dtype, targets), rel=0.1
    )


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_the_weights_are_those_of_the_model(tmp_path, quantization):
    shape = memory_table.Shape(vocabulary=100, width=128, inner=384, layers=2, heads=4)
    config = LlamaConfig(
        vocab_size=100, hidden_size=128, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    base = base_models.load_base_model(tmp_path, torch.device("cpu"), torch.bfloat16, quantization)
    base = base_models.prepare_for_tuning(base, gradient_checkpointing=False)
    size = sum(parameter.nbytes for parameter in base.parameters())
    if quantization == "8bit":  # the first forward pass has moved the scales from the weight to the layer's state
        size += sum(layer.state.SCB.nbytes for layer in base.modules() if isinstance(layer, Linear8bitLt))
    for parameter in base.parameters():
        if quantization == "4bit" and (state := getattr(parameter, "quant_state", None)):
            size += state.absmax.nbytes + state.state2.absmax.nbytes
    assert memory_table.weights(shape, quantization) == pytest.approx(size, rel=1e-4)


def test_the_parameters_of_llama_7b():
    assert memory_table.weights(SHAPES["LLaMA-7B"], "none") == 2 * 6_738_415_616
    assert memory_table.weights(SHAPES["LLaMA-13B"], "none") == 2 * 13_015_864_320
    assert memory_table.lora_and_optimizer(SHAPES["LLaMA-7B"]) == 16 * 4_194_304


def test_the_table(capsys):
    memory_table.main([])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 2 + 6 and "computed, not measured" in table
    assert table in (REPOSITORY / "base_model" / "README.md").read_text(encoding="utf-8")
