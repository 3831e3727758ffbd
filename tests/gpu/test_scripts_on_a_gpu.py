"""The scripts, end to end, on a machine that seems to have GPUs (tests/support/fake_cuda.py).

1. The pretence holds: tensors of both kinds in one operation, .numpy() on the GPU and too little memory are errors.
2. Tuning, scoring and ranking keep every tensor on the GPU; one that is left on the CPU is found.
3. float32 gives what the CPU gives.
4. An adapter on a quantised base has one AUC: the tuner's.
5. Too little GPU memory: fewer rows at once and an adapter that is not merged, the same numbers.
"""

import pytest
import torch

from tests.support.fake_cuda import FakeCuda
from tests.support.models import make_llama
from tests.support.tuned import read
from tlrec.model import base_models
from tlrec.model.adapters import attach_adapter
from tlrec.model.prompts import load_frame
from tlrec.scoring import candidates
from tlrec.scoring import records as scoring
from tlrec.scoring.candidates import PACKED, ROWS
from tlrec.scoring.engine import Engine


@pytest.fixture
def tune(instruct, tmp_path):
    """ins_tuning.py on 16 rows, two steps; returns (its folder, the content of its run.json)."""

    def run(*flags, name="tuned", **base):
        once = ["--device", "auto", "--num_epochs", 1, "--eval_steps", 10]
        status, _, err = instruct(tmp_path / name, *once, *flags, **base)
        assert status == 0, err
        return tmp_path / name, read(tmp_path / name)

    return run


@pytest.fixture
def score(evaluate, tiny_workspace, tmp_path):
    """evaluate.py on the validation rows; returns its metrics."""

    def run(adapter, *flags, **base):
        data = ["--test_data_path", tiny_workspace / "rec_data" / "movie" / "valid.json"]
        to = ["--output_dir", tmp_path / "scored", "--overwrite", "--device", "auto"]
        status, _, err = evaluate(adapter, *data, *to, *flags, **base)
        assert status == 0, err
        return read(tmp_path / "scored", "metrics.json")

    return run


def test_the_pretence_holds():
    with FakeCuda():
        there, here = torch.randn(3, 4, device="cuda"), torch.randn(3, 4)
        assert (there.device, here.device) == (torch.device("cuda", 0), torch.device("cpu"))
        assert (there @ there.T).is_cuda and not (here @ here.T).is_cuda
        assert torch.equal(there.cpu() + here, there.to("cpu") + here)
        with pytest.raises(RuntimeError, match=r"same device: aten.add.Tensor of \(3, 4\) on cuda:0, \(3, 4\) on cpu"):
            there + here
        with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\) first"):
            there.numpy()
        layer = torch.nn.Linear(4, 4).to("cuda")
        layer(there).sum().backward()
        assert layer.weight.grad.is_cuda and torch.tensor([1], device=0).is_cuda and there.bfloat16().is_cuda
        assert there[torch.tensor([0, 2])].is_cuda  # indices may be on the CPU
    assert not torch.cuda.is_available() and there.device.type == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["", "--quantization 8bit --share_prefix"])
def test_every_tensor_is_on_the_gpu(flags, tune, score, evaluate):
    with FakeCuda():
        folder, run = tune(*flags.split())
        metrics = score(folder)
        status, _, err = evaluate(folder, "--rank", 3, "--device", "auto")
    assert status == 0, err
    assert run["hardware"] == metrics["run"]["hardware"] == "Fake GPU"
    assert (folder / "ranking.json").exists() and run["results"]["peak_memory_gb"] is not None


def test_a_tensor_that_is_left_on_the_cpu_is_found(score, tiny_adapter, monkeypatch):
    monkeypatch.setattr(scoring, "padded", lambda rows, device, usual=scoring.padded: usual(rows, None))
    with FakeCuda(), pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        score(tiny_adapter)


@pytest.mark.slow
def test_float32_gives_what_the_cpu_gives(tune, score):
    _, cpu = tune("--device", "cpu", "--dtype", "float32", name="cpu")
    with FakeCuda(count=8):  # of which one process uses one
        folder, gpu = tune("--dtype", "float32", name="gpu")
        scored = score(folder)
    for one, other in zip(cpu["results"]["history"], gpu["results"]["history"], strict=True):
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-5)
    assert scored["auc"] == max(entry["eval_auc"] for entry in gpu["results"]["history"])


@pytest.mark.slow
def test_only_the_rows_that_fit_go_through_a_gpu_at_once(tune, monkeypatch):
    flags = ["--dtype", "float32", "--lora_dropout", 0, "--batch_size", 16, "--micro_batch_size", 16]
    with FakeCuda():
        _, all_at_once = tune(*flags, name="all")
    with FakeCuda() as gpu:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (12_000_000, gpu.total))
        _, few = tune(*flags, name="few")
    assert (all_at_once["results"]["rows_at_once"], few["results"]["rows_at_once"]) == (16, 4)
    (one,), (other,) = all_at_once["results"]["history"], few["results"]["history"]
    assert one["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_an_adapter_on_a_quantised_base_has_one_auc(quantization, tune, score, tmp_path):
    base = make_llama(tmp_path / "base", width=64)
    flags = ["--quantization", quantization, "--device", "cpu", "--dtype", "bfloat16", "--eval_steps", 1]
    folder, run = tune(*flags, base=base)
    best = next(one for one in run["results"]["history"] if one["step"] == run["results"]["best_step"])
    metrics = score(folder, "--device", "cpu", base=base)
    assert metrics["auc"] == best["eval_auc"]


@pytest.fixture(scope="module")
def records(tiny_workspace):
    return read(tiny_workspace / "rec_data" / "movie", "test.json")


@pytest.fixture
def on_the_gpu(tiny_llama, tiny_adapter):
    """on_the_gpu(): (the base with the adapter on it, its tokenizer), to be called under a FakeCuda."""

    def load():
        base = base_models.load_base_model(tiny_llama, torch.device("cuda"), torch.float32)
        return attach_adapter(base, tiny_adapter), base_models.load_tokenizer(tiny_llama)

    return load


def test_an_error_of_cublas_counts_as_memory_that_ran_out(on_the_gpu, records, monkeypatch):
    frame, passes = load_frame("alpaca"), []

    def fail_once(self, hidden, rows, places, usual=Engine.answer_log_p):
        passes.append(len(rows))
        if len(passes) == 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return usual(self, hidden, rows, places)

    with FakeCuda():
        model, tokenizer = on_the_gpu()
        expected = scoring.score_records(model, tokenizer, records, frame)
        monkeypatch.setattr(Engine, "answer_log_p", fail_once)
        found = scoring.score_records(model, tokenizer, records, frame)
    assert passes[1] <= passes[0] // 2
    assert found.log_p_yes == pytest.approx(expected.log_p_yes, abs=1e-5)


def test_without_memory_for_its_copies_an_adapter_is_not_merged(on_the_gpu, records, monkeypatch, capsys):
    with FakeCuda() as gpu:
        model, tokenizer = on_the_gpu()
        merged = scoring.score_records(model, tokenizer, records, load_frame("alpaca"))
        before = {name: weight.cpu().clone() for name, weight in model.named_parameters()}
        copies = []

        def clone(tensor, usual=torch.Tensor.clone, **options):
            if tensor.shape == (32, 32):  # q_proj
                copies.append(tensor)
                if len(copies) == 2:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return usual(tensor, **options)

        monkeypatch.setattr(torch.Tensor, "clone", clone)
        unmerged = scoring.score_records(model, tokenizer, records, load_frame("alpaca"))
        assert len(copies) == 2 and "too little memory to merge" in capsys.readouterr().out
        assert all(torch.equal(weight.cpu(), before[name]) for name, weight in model.named_parameters())
        assert gpu.memory_allocated() > 0
    assert unmerged.log_p_yes == pytest.approx(merged.log_p_yes, abs=1e-5)


def test_ranking_does_not_pack_where_attention_takes_no_mask(on_the_gpu):
    with FakeCuda():
        model, _ = on_the_gpu()
        for attention, way in (("sdpa", PACKED), ("eager", PACKED), ("flash_attention_2", ROWS)):
            model.config._attn_implementation_internal = attention
            assert candidates._Ranker(model, (3, 4), None, set()).way == way
