"""Which device, number type and attention a machine gives, and what is said where a GPU cannot be used.

1. `auto` is the CPU only where there is no GPU; where torch cannot use the one that is there, it says why.
2. A build of torch without CUDA, a driver that is too old, a GPU that is too old, and no such GPU are four messages.
3. bfloat16 only where the GPU has it, FlashAttention only where it runs.
4. FSDP and ZeRO-3: quantised bases and scoring are refused.
"""

import pytest
import torch

from tests.support.fake_cuda import FakeCuda
from tlrec.errors import InputError
from tlrec.model import base_models
from tlrec.scoring.loaded import LoadedModel

CUDA = torch.device("cuda")
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver."


@pytest.fixture
def gpu_in_the_machine(tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    found = base_models.gpu_devices(tmp_path)
    assert [path.name for path in found] == ["nvidia0"]
    monkeypatch.setattr(base_models, "gpu_devices", lambda: found)


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(
    "built_for, error, message",
    [
        (None, "Torch not compiled with CUDA", r"this build of torch \(\S+\) has no CUDA; install another build"),
        ("13.0", TOO_OLD, "The NVIDIA driver .* is too old .* Or install a build of torch for an older CUDA"),
        ("13.0", "No CUDA GPUs are available", "there is no such GPU here; check CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_cannot_be_used(name, built_for, error, message, gpu_in_the_machine, monkeypatch):
    def init():
        raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(InputError, match=f"^--device {name}: {message}.*; or give --device cpu$"):
        base_models.resolve_device(name)
    assert base_models.resolve_device("cpu").type == "cpu"


def test_a_machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr(base_models, "gpu_devices", lambda: [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert base_models.resolve_device("auto").type == "cpu"
    with pytest.raises(InputError, match="^--device cuda: this build of torch"):
        base_models.resolve_device("cuda")


def test_a_gpu_that_is_too_old(monkeypatch):
    with FakeCuda(capability=(6, 1)):
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90a", "compute_90"])
        with pytest.raises(InputError, match="Fake GPU has compute capability 6.1, older than"):
            base_models.resolve_device("auto")


@pytest.mark.parametrize(
    "capability, dtype", [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16)]
)
def test_auto_takes_numbers_that_the_gpu_has(capability, dtype):
    with FakeCuda(capability=capability):
        assert base_models.resolve_device("auto") == CUDA
        assert base_models.resolve_dtype("auto", CUDA) == dtype


@pytest.mark.parametrize("capability, attention", [((7, 5), None), ((8, 6), "flash_attention_2")])
def test_auto_takes_flash_attention_where_it_runs(capability, attention, monkeypatch):
    monkeypatch.setattr(base_models, "is_flash_attn_2_available", lambda: True)
    with FakeCuda(capability=capability):
        assert base_models.resolve_attention("auto", CUDA, torch.float16) == attention
        if attention is None:
            with pytest.raises(InputError, match="a GPU of compute capability 8.0"):
                base_models.resolve_attention("flash_attention_2", CUDA, torch.float16)


@pytest.mark.parametrize("spread", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_models_that_are_spread(spread, tiny_llama, tiny_adapter, monkeypatch):
    monkeypatch.setenv(spread, "true")
    with pytest.raises(InputError, match="^--quantization 4bit: FSDP and ZeRO-3 cannot spread such weights"):
        LoadedModel(str(tiny_llama), "cpu", "float32", "4bit", "auto", False)
    setup = LoadedModel(str(tiny_llama), "cpu", "float32", "none", "auto", False)
    for adapter in (None, tiny_adapter):
        with pytest.raises(InputError, match="only tuning is spread over the GPUs; score without them"):
            setup.attach(adapter)
