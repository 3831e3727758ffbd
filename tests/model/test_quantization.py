"""A base model in 4 bits computes and learns what its weights say, also on CPUs for which bitsandbytes packs them.

The CPU is made out to be one with AVX512-BF16, for packing is plain Python and happens on any CPU that says so.

1. Neither loading, nor a validation, nor training, packs a weight.
2. Gradients of every LoRA layer, and scores in float32, are those of the same weights in plain linear layers.
3. Widths that cannot be packed load.
"""

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

from tests.support.models import make_adapter, make_llama
from tlrec.data.records import read_records
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame
from tlrec.scoring.records import Scorer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def packing_cpu(monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory):
    """Folder of a LLaMA whose layers have whole blocks of 64 weights, and so could be packed."""
    return make_llama(tmp_path_factory.mktemp("wide"), width=64)


@pytest.fixture(scope="module")
def start(wide_llama, tmp_path_factory):
    return make_adapter(tmp_path_factory.mktemp("start"), wide_llama, target_modules=["q_proj", "v_proj", "down_proj"])


@pytest.fixture(scope="module")
def scorer(wide_llama, tiny_workspace):
    records = read_records(tiny_workspace / "rec_data" / "movie" / "valid.json")
    return Scorer(base_models.load_tokenizer(wide_llama), records, load_frame("alpaca"), 512, with_loss=True)


def load(folder):
    return base_models.load_base_model(folder, CPU, torch.float32, "4bit")


def layers_in_4bit(model):
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7  # all linear layers of both blocks
    return layers


def packed(model):
    """Layers whose weights are packed, or are no longer quantised twice."""
    states = [layer.weight.quant_state for layer in layers_in_4bit(model)]
    return [state for state in states if getattr(state, "packing_format_for_cpu", False) or state.state2 is None]


def dequantized(model):
    """The same model with plain linear layers of the same weights."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).to(torch.float32)
            assert weight.unique().numel() >= 16
            plain = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            model.set_submodule(path, plain)
    model.is_quantized = False
    assert not any(isinstance(module, Linear4bit) for module in model.modules())
    return model


def test_nothing_is_packed(wide_llama, start, scorer):
    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(CPU)
    assert layer.support_avx512bf16_for_cpu  # bitsandbytes would; else this would prove nothing
    model = load(wide_llama)
    assert packed(model) == []
    model = adapters.attach_adapter(base_models.prepare_for_tuning(model, False), start, tuned=True)
    scorer.score(model)
    assert packed(model) == []
    model.train()(input_ids=torch.arange(3, 9)[None], labels=torch.arange(3, 9)[None]).loss.backward()
    scorer.score(model)
    assert packed(model) == []


def test_scores_and_gradients_are_those_of_the_same_weights_in_plain_layers(wide_llama, start, scorer):
    ids = torch.tensor(scorer.rows[0])[None]
    gradients, scores = [], []
    for base in (load(wide_llama), dequantized(load(wide_llama))):
        model = adapters.attach_adapter(base, start, tuned=True).eval()
        scores.append(scorer.score(model))  # as the validation before a step
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    quantized, plain = gradients
    assert len(plain) == 2 * 3 * 2  # layers, modules, A and B
    for name, gradient in plain.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(quantized[name], gradient, rtol=1e-3, atol=1e-6)
    quantized, plain = scores
    assert plain.log_p_yes.std() > 0.1
    for name in ("log_p_yes", "log_p_no", "loss"):
        assert getattr(quantized, name) == pytest.approx(getattr(plain, name), abs=1e-4)


@pytest.mark.parametrize("width", [48, 80])
def test_widths_that_cannot_be_packed_load(tmp_path, tiny_workspace, width):
    model = load(make_llama(tmp_path, width=width))
    shapes = {tuple(layer.weight.quant_state.shape) for layer in layers_in_4bit(model)}
    assert (width // 2, width) in shapes  # v_proj: neither inputs by 64 nor outputs by 32
    ids = torch.arange(3, 20)[None]
    expected = dequantized(load(tmp_path))(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
