"""The loss is that of the model's own logits; with --share_prefix it is the same, from fewer tokens in the model.

1. Every family: loss and gradients equal those of all logits, and with the prefix shared those without, within 1e-5, or the
   model cannot share and says so.
2. The same with the loss on answers alone, on weighted prompts, with checkpointing, and for rows that hold one another.
3. Through the script: the same tuning but for rounding; without the flag nothing changes.
"""

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.support.models import EACH_FAMILY, make_family
from tests.support.tuned import furthest, read, weights
from tlrec.data.records import read_records
from tlrec.model import base_models, lora_targets
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning import shared_prefix
from tlrec.tuning.loss import Collator, cross_entropy
from tlrec.tuning.shared_prefix import SharedPrefix

CPU = torch.device("cpu")
CANNOT = {  # families that go on without, and what they say
    "qwen3_5": "hidden states would not be those of each row alone",  # its linear attention has a state
    "mistral": "longer than the model's sliding window of",
    "gemma2": "it needs --attention sdpa, not eager",
    "gemma3": "longer than the model's sliding window of",
    "phi3": "longer than the model's sliding window of",
    "falcon": "does not take the mask",
    "bloom": "it needs --attention sdpa, not eager",
}
QUICKLY = ["--lora_dropout", 0, "--max_train_samples", 13]


def with_lora(base, targets):
    """A model with LoRA whose A and B both count, without any dropout."""
    model = base_models.load_base_model(base, CPU, torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # OPT
            module.dropout = 0.0
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def step(model, records, tokenizer, frame, loss, weight=1.0):
    """(loss, {name: gradient}, tokens that the model embedded) of one micro-batch."""
    rows = RecordTokenizer(tokenizer, frame, 512).examples(records).rows
    batch = Collator(weight)(rows)
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    model.zero_grad()
    with loss.during_step(model, batch) if isinstance(loss, SharedPrefix) else nullcontext():
        total = loss(model, batch) / 100
        total.backward()
    handle.remove()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return total.item(), gradients, seen[-1]


def from_logits(model, batch):
    """The loss, a sum over the batch, by PyTorch's cross-entropy of all logits."""
    ids, weights = batch["input_ids"], batch["weights"]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].transpose(1, 2)
    return (torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none") * weights[:, 1:]).sum()


def same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def records(tiny_workspace):
    return read_records(tiny_workspace / "rec_data" / "movie" / "valid.json")[:5]


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_gradients_of_every_family(name, records, tmp_path, capsys):
    base = make_family(tmp_path / "base", name)
    tokenizer = base_models.load_tokenizer(base)
    frame = load_frame("alpaca", tokenizer)
    model = with_lora(base, lora_targets.query_and_value_modules(base))
    losses = from_logits, cross_entropy, SharedPrefix(longest=512)
    expected, plain, sharing = (step(model, records, tokenizer, frame, loss) for loss in losses)
    same(plain, expected)
    same(sharing, plain)
    said = capsys.readouterr().out
    if name in CANNOT:
        assert "no shared prefix: " in said and CANNOT[name] in said
        assert sharing[2] == plain[2]
    else:
        length = int(said.split("shared prefix: ")[1].split(" tokens")[0])
        assert length > 70 and sharing[2] == plain[2] - (len(records) - 1) * length


@pytest.mark.parametrize("weight", [0, 0.05, 1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_loss(weight, checkpointing, tiny_llama, records, capsys):
    tokenizer = base_models.load_tokenizer(tiny_llama)
    model = base_models.prepare_for_tuning(with_lora(tiny_llama, ["q_proj", "down_proj"]), checkpointing)
    losses = from_logits, cross_entropy, SharedPrefix(longest=512)
    expected, plain, sharing = (step(model, records, tokenizer, load_frame("alpaca"), loss, weight) for loss in losses)
    assert "no shared" not in capsys.readouterr().out
    assert sharing[2] < plain[2]
    same(plain, expected)
    same(sharing, plain)


@pytest.mark.parametrize(
    "rows, length",
    [
        (["abcdefghij", "abcdefghij"], 9),  # the last token is each row's own
        (["abcdefghij", "abcdefghijklm"], 10),
        (["abcdefghijk", "abcdefghixy"], 9),
        (["abcdefg", "abcdefgh"], 0),  # not worth it
        (["abcdefghij"], 0),
        (["xbcdefghij", "abcdefghij"], 0),
    ],
)
def test_length(rows, length):
    longest = max(map(len, rows))
    ids = torch.tensor([[ord(letter) for letter in row.ljust(longest, "\0")] for row in rows])
    assert shared_prefix.shared_length(ids) == length


@pytest.mark.slow
def test_through_the_script(instruct, tmp_path):
    found = {}
    for name, flags in {"plain": [], "sharing": ["--share_prefix"]}.items():
        status, out, err = instruct(tmp_path / name, *QUICKLY, *flags)
        assert status == 0, err
        assert out.count("shared prefix: ") == bool(flags)
        assert read(tmp_path / name)["arguments"]["share_prefix"] is bool(flags)
        found[name] = weights(tmp_path / name)
    assert 0 < furthest(found["sharing"], found["plain"]) < 1e-4
    assert max(tensor.abs().max() for tensor in found["plain"].values()) > 0.01
