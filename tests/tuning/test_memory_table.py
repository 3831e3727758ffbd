"""benchmarks/memory_table.py counts what tuning takes.

1. LoRA, optimizer, activations and temporary tensors are within 3 % of the bytes of all tensors of a real step on the CPU,
   for two sizes, with and without checkpointing, in 16, 8 and 4 bits.
   In float32, and with LoRA on all linear layers, within a tenth.
2. The weights are those of the loaded model, scales of quantisation included.
3. The table has a row a model and setting, and is the one of base_model/README.md.
"""

import tempfile
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.autograd import _functions as bitsandbytes_products
from bitsandbytes.nn import Linear8bitLt
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, PrinterCallback, TrainingArguments

from benchmarks import memory_table
from benchmarks.memory_table import SHAPES
from tests.conftest import REPOSITORY
from tlrec.model import base_models
from tlrec.model.memory import activations, lora_and_optimizer
from tlrec.tuning.loss import Collator, cross_entropy
from tlrec.tuning.trainer import TuningTrainer

SMALL = {"small": memory_table.Shape(512, 128, 384, 3, 4), "other": memory_table.Shape(640, 192, 512, 2, 6)}


class LiveTensors(TorchDispatchMode):
    """Adds up the storages that operations return, until they are freed."""

    def __init__(self, known):
        super().__init__()
        self.sizes, self.now, self.peak = dict.fromkeys(known, 0), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result

    def forget(self, key):
        self.now -= self.sizes.pop(key)


def measured(shape, rows, length, quantization, checkpointing, dtype, targets):
    """Bytes of all tensors at the peak of two tuning steps of a random model on the CPU, without its frozen weights.

    One micro-batch of `rows` rows of `length` tokens, by the tuners' own trainer. targets: modules that get LoRA,
    None for q and v. The 8-bit product of a GPU has another implementation than that of the CPU; it runs on the CPU
    too, and is the one measured here.
    """
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
    )
    product = bitsandbytes_products.MatMul8bitFp
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
        base = base_models.load_base_model(folder, torch.device("cpu"), getattr(torch, dtype), quantization)
        base = base_models.prepare_for_tuning(base, checkpointing)
        frozen = [tensor.untyped_storage()._cdata for tensor in (*base.parameters(), *base.buffers())]
        lora = LoraConfig(
            r=shape.lora_r, lora_alpha=16, lora_dropout=0.05, target_modules=targets, task_type="CAUSAL_LM"
        )
        ids = torch.randint(shape.vocabulary, (rows, length)).tolist()
        trainer = TuningTrainer(
            model=get_peft_model(base, lora),
            train_dataset=Dataset.from_list([{"input_ids": row, "answer_start": 0, "length": length} for row in ids]),
            data_collator=Collator(prompt_loss_weight=1),
            loss=cross_entropy,
            scorer=SimpleNamespace(rows=[]),  # never used
            validation_labels=None,
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=rows,
                max_steps=2,
                bf16=dtype == "bfloat16",
                use_cpu=True,
                gradient_checkpointing=checkpointing,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        try:
            bitsandbytes_products.MatMul8bitFp = bitsandbytes_products.MatMul8bitLt
            with LiveTensors(frozen) as live:
                trainer.train()
        finally:
            bitsandbytes_products.MatMul8bitFp = product
    weights_of_lora = sum(
        weight.nbytes for weight in trainer.model.parameters() if weight.requires_grad
    )  # existed before
    return live.peak + weights_of_lora


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    "size, rows, length, quantization, checkpointing, dtype, targets",
    [
        ("small", 4, 64, "none", False, "bfloat16", None),
        ("other", 2, 128, "none", True, "bfloat16", None),
        ("small", 4, 64, "4bit", False, "bfloat16", None),
        ("small", 2, 192, "4bit", True, "bfloat16", None),
        ("small", 4, 64, "8bit", False, "bfloat16", None),
        ("small", 2, 192, "8bit", True, "bfloat16", None),
        ("small", 4, 128, "none", False, "float32", None),
        ("small", 4, 128, "none", True, "float32", ALL_LINEAR),
        ("small", 4, 128, "none", False, "bfloat16", ALL_LINEAR),
    ],
)
@pytest.mark.slow
def test_the_count_is_what_a_step_takes(size, rows, length, quantization, checkpointing, dtype, targets):
    shape, number = SMALL[size], 4 if dtype == "float32" else 2
    if targets:
        shape = replace(shape, lora_inputs=(shape.width,) * 6 + (shape.inner,))
    computed = lora_and_optimizer(shape) + activations(shape, rows * length, quantization, checkpointing, 4, number)
    published = (
        number == 2 and not targets
    )  # of the others it chooses how many rows fit, so that a tenth is near enough
    found = measured(shape, rows, length, quantization, checkpointing, dtype, targets)
    assert computed == pytest.approx(found, rel=0.03 if published else 0.1)


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
    assert lora_and_optimizer(SHAPES["LLaMA-7B"]) == 16 * 4_194_304


def test_the_table():
    table = "\n".join(memory_table.table(512))
    assert len(table.splitlines()) == 2 + 6 and "computed, not measured" in table
    assert table in (REPOSITORY / "base_model" / "README.md").read_text(encoding="utf-8")
