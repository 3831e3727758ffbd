"""A model that is spread over two processes (FSDP2 over gloo, on the CPU) against the same model in one piece.

1. Scores and validation loss are the same, also where a process has no row of its own in a batch.
2. The training loss and the gradients of the adapter are the same, and so is what is said of a layer without.
3. The adapter is saved whole, by the first process.
4. Ranking gives the same, spread, and where each of two processes has a whole model and takes its share of the items.
"""

import os
import socket

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from peft import LoraConfig, get_peft_model
from torch import multiprocessing
from torch.distributed.fsdp import fully_shard

from tlrec.data.preferences import parse_input
from tlrec.data.records import read_records
from tlrec.errors import InputError
from tlrec.model import adapters, base_models
from tlrec.model.processes import is_spread, whole
from tlrec.model.prompts import load_frame
from tlrec.scoring.candidates import score_candidates
from tlrec.scoring.records import Scorer
from tlrec.tuning.learning import check_gradients, fingerprint
from tlrec.tuning.loss import Collator, cross_entropy


def made(base_folder):
    torch.manual_seed(0)
    base = base_models.load_base_model(base_folder, torch.device("cpu"), torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def ranked(model, base_folder, records):
    """log P(Yes) of the targets of `records` for some of their users."""
    items = [parse_input(record["input"]).target for record in records]
    requests = [(records[0], items), (records[1], items[:1]), (records[2], items[:5])]
    tokenizer = base_models.load_tokenizer(base_folder)
    scores = score_candidates(model, tokenizer, requests, load_frame("alpaca"), token_budget=400)
    return torch.cat([torch.tensor(one.log_p_yes) for one in scores])


def observed(model, base_folder, records, folder):
    """Scores, losses and gradients of `model`, {name: tensor}; saves its adapter."""
    tokenizer = base_models.load_tokenizer(base_folder)
    scorer = Scorer(tokenizer, records, load_frame("alpaca"), 512, with_loss=True)
    scores = scorer.score(model, token_budget=700)
    ranking = ranked(model, base_folder, records)
    model.train()
    batch = Collator(prompt_loss_weight=1)([{"input_ids": row, "answer_start": 0} for row in scorer.rows[:4]])
    loss = cross_entropy(model, batch) / batch["weights"].sum()
    loss.backward()
    assert check_gradients(model)
    start = fingerprint(model)
    adapters.save_adapter(model, folder)
    gradients = {
        f"gradient of {name}": whole(weight.grad) for name, weight in model.named_parameters() if weight.requires_grad
    }
    assert refusal(model).startswith(
        "1 of 4 LoRA layers, such as model.layers.1.self_attn.v_proj, have no gradient and "
    )
    return {
        "log_p_yes": torch.tensor(scores.log_p_yes),
        "validation": torch.tensor(scores.loss),
        "loss": loss.detach(),
        "ranking": ranking,
        "adapter": torch.tensor(int(start[:12], 16)),
    } | gradients


def refusal(model):
    """What is said of an adapter with a layer that has got no gradient."""
    (weight,) = (each for name, each in model.named_parameters() if "layers.1.self_attn.v_proj.lora_B" in name)
    weight.grad = None
    with pytest.raises(InputError) as error:
        check_gradients(model)
    return str(error.value)


def join(rank, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # left by tests in the process that this was forked from
    assert PartialState(cpu=True).num_processes == 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def process(rank, port, base_folder, data, folder):
    join(rank, port)
    model = made(base_folder)
    for layer in model.get_base_model().model.layers:
        fully_shard(layer)
    fully_shard(model)
    assert is_spread(model)
    result = observed(model, base_folder, read_records(data), folder)
    if rank == 0:
        torch.save(result, folder / "result.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_fsdp_on_two_processes(tiny_llama, tiny_workspace, tmp_path):
    data = tiny_workspace / "rec_data" / "movie" / "test.json"
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    expected = observed(made(tiny_llama), tiny_llama, read_records(data), one)
    # Forked: libraries and fixtures are in memory already
    multiprocessing.start_processes(process, (free_port(), tiny_llama, data, two), nprocs=2, start_method="fork")
    found = torch.load(two / "result.pt")
    assert found.keys() == expected.keys() and len(found) == 5 + 8
    assert torch.equal(found.pop("adapter"), expected.pop("adapter"))  # its fingerprint, put together from the shares
    for name, value in expected.items():
        assert torch.allclose(found[name].to(value.dtype), value, atol=1e-5), name
    saved, wanted = adapters.read_adapter(two), adapters.read_adapter(one)
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[name], wanted[name]) for name in wanted)


def ranking_process(rank, port, base_folder, data, folder):
    join(rank, port)
    model = made(base_folder)
    torch.save(ranked(model, base_folder, read_records(data)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_ranking_by_two_processes(tiny_llama, tiny_workspace, tmp_path):
    data = tiny_workspace / "rec_data" / "movie" / "test.json"
    arguments = (free_port(), tiny_llama, data, tmp_path)
    multiprocessing.start_processes(ranking_process, arguments, nprocs=2, start_method="fork")
    alone = ranked(made(tiny_llama), tiny_llama, read_records(data))
    assert len(alone) > 20
    for rank in (0, 1):
        together = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_model_in_one_piece_is_not_spread(tiny_llama):
    model = made(tiny_llama)
    assert not is_spread(model)
    weight = next(model.parameters())
    assert whole(weight) is weight
