"""The rows of each epoch come in an order of their own, as in a loop written by hand on plain PEFT.

1. Three epochs of several batches, shuffled or grouped by length: the adapter is the loop's, and not that of a loop that
   repeats its first epoch.
2. A run that was stopped inside an epoch, or at its end, gives the bytes of one that was not.
3. Several processes group by length over the whole batch, as one does.
"""

import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict
from transformers import LlamaForCausalLM, get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import get_length_grouped_indices

from tests.conftest import REPOSITORY
from tests.support.tuned import digest, furthest, signal_in_batch, weights

pytestmark = pytest.mark.slow

ROWS, BATCH, EPOCHS, RATE, SEED = 14, 4, 3, 1e-3, 5  # four steps an epoch, the last of two rows
FRAME = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@pytest.fixture(scope="module")
def workspace(tiny_workspace):
    """The tiny workspace with the first ROWS records of Movie, whose lengths differ, in a file of their own."""
    data = tiny_workspace / "rec_data" / "movie"
    records = json.loads((data / "train.json").read_text())[:ROWS]
    (data / "first.json").write_text(json.dumps(records))
    return tiny_workspace


@pytest.fixture
def words(stage_words, tiny_adapter, workspace):
    def words(folder, *flags):
        data = ["--train_data_path", workspace / "rec_data" / "movie" / "first.json", "--resume_from_checkpoint"]
        recipe = ["--batch_size", BATCH, "--micro_batch_size", 2, "--num_epochs", EPOCHS, "--learning_rate", RATE]
        recipe += ["--lora_dropout", 0, "--seed", SEED, "--metric_for_best_model", "last", "--eval_steps", 5]
        return stage_words(folder, *data, tiny_adapter, *recipe, *flags)

    return words


@pytest.fixture
def tune(run_script, words):
    return lambda folder, *flags: run_script(*words(folder, *flags))


def token_ids(pieces, record):
    prompt = FRAME.format(instruction=record["instruction"], input=record["input"])
    return [1, *pieces.encode(prompt), pieces.piece_to_id(record["output"][:-1]), pieces.piece_to_id("."), 2]


def epoch_order(lengths, grouped, epoch):
    generator = torch.Generator().manual_seed(SEED + epoch)
    if grouped:
        return get_length_grouped_indices(lengths, BATCH, generator=generator)
    return torch.randperm(len(lengths), generator=generator).tolist()


def loop(base, start, rows, grouped, epochs):
    """The tensors of the adapter `start` after one pass over `rows` for each of `epochs`, whose number names its order."""
    model = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), start, is_trainable=True
    )
    model.eval()  # without dropout
    lora = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(lora, lr=RATE, weight_decay=0)
    steps = -(-len(rows) // BATCH) * len(epochs)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    for epoch in epochs:
        order = epoch_order([len(row) for row in rows], grouped, epoch)
        for first in range(0, len(order), BATCH):
            batch = [torch.tensor([rows[place]]) for place in order[first : first + BATCH]]
            tokens = sum(row.shape[1] - 1 for row in batch)
            for row in batch:
                (model(input_ids=row, labels=row).loss * (row.shape[1] - 1) / tokens).backward()
            torch.nn.utils.clip_grad_norm_(lora, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return get_peft_model_state_dict(model)


@pytest.mark.parametrize("grouped", [False, True])
def test_each_epoch_has_its_own_order(tune, workspace, tiny_llama, tiny_adapter, pieces, tmp_path, grouped):
    status, _, err = tune(tmp_path / "a", "--group_by_length" if grouped else "--no-group_by_length")
    assert status == 0, err
    records = json.loads((workspace / "rec_data" / "movie" / "first.json").read_text())
    rows = [token_ids(pieces, record) for record in Dataset.from_list(records).shuffle(seed=SEED)]
    ours = weights(tmp_path / "a")
    live = loop(tiny_llama, tiny_adapter, rows, grouped, range(EPOCHS))
    frozen = loop(tiny_llama, tiny_adapter, rows, grouped, [0] * EPOCHS)
    assert furthest(ours, frozen) > 5e-4
    assert furthest(ours, live) < 5e-5  # Adam makes a step of the rounding of a gradient that is nearly 0


@pytest.mark.parametrize(
    "micro_batch", [3, 9, 16, 17]
)  # inside the first, second, third epoch, at the third's beginning
def test_a_stopped_run_takes_up_the_order_where_it_was(tune, tmp_path, monkeypatch, micro_batch):
    assert tune(tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        signal_in_batch(patch, micro_batch)
        assert tune(tmp_path / "stopped")[0] == 143
    status, out, err = tune(tmp_path / "stopped", "--resume")
    assert status == 0 and "resuming:" in out, err
    assert digest(tmp_path / "whole") == digest(tmp_path / "stopped")


def test_processes_group_the_whole_batch(tune, words, tmp_path):
    assert tune(tmp_path / "one", "--group_by_length")[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = map(str, words(tmp_path / "two", "--group_by_length"))
    done = subprocess.run([*launch, *two], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert furthest(weights(tmp_path / "one"), weights(tmp_path / "two")) < 1e-5
