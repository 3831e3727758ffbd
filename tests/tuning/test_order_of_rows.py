"""The rows of each epoch come in an order of their own, as in a loop written by hand on plain PEFT.

1. Three epochs of several batches, shuffled or grouped by length: the adapter is the loop's, and not that of a loop that
   repeats its first epoch.
2. A run that was stopped inside an epoch, or at its end, gives the bytes of one that was not.
3. With --shuffle_history the lists of each record have another order in each epoch; records without lists are refused.
"""

import json

import pytest
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model_state_dict
from transformers import LlamaForCausalLM, get_linear_schedule_with_warmup
from transformers.trainer_pt_utils import get_length_grouped_indices

from tests.support.tuned import digest, furthest, signal_in_batch, weights
from tlrec.data.preferences import in_another_order

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


def loop(base, start, rows_of, grouped, epochs):
    """The tensors of the adapter `start` after one pass over the rows of each of `epochs`, whose number names its order.
    rows_of: function from an epoch to the token ids of all rows."""
    model = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), start, is_trainable=True
    )
    model.eval()  # without dropout
    lora = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(lora, lr=RATE, weight_decay=0)
    steps = -(-ROWS // BATCH) * len(epochs)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    for epoch in epochs:
        rows = rows_of(epoch)
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


@pytest.mark.parametrize("flag", ["--no-group_by_length", "--group_by_length", "--shuffle_history"])
def test_each_epoch_has_its_own_order(tune, workspace, tiny_llama, tiny_adapter, pieces, tmp_path, flag):
    status, _, err = tune(tmp_path / "a", flag)
    assert status == 0, err
    records = json.loads((workspace / "rec_data" / "movie" / "first.json").read_text())
    records = list(Dataset.from_list(records).shuffle(seed=SEED))

    def rows_of(epoch):
        shuffled = flag == "--shuffle_history"
        texts = [in_another_order(row, SEED, epoch, n) if shuffled else row for n, row in enumerate(records)]
        return [token_ids(pieces, record) for record in texts]

    grouped = flag == "--group_by_length"
    live = loop(tiny_llama, tiny_adapter, rows_of, grouped, range(EPOCHS))
    frozen = loop(tiny_llama, tiny_adapter, rows_of, grouped, [0] * EPOCHS)
    assert furthest(weights(tmp_path / "a"), frozen) > 5e-4
    assert furthest(weights(tmp_path / "a"), live) < 5e-5  # Adam makes a step of the rounding of a gradient of nearly 0


@pytest.mark.parametrize("flags, stops", [([], (3, 9, 16, 17)), (["--shuffle_history"], (9, 17))], ids=str)
def test_a_stopped_run_takes_up_the_order_where_it_was(tune, tmp_path, monkeypatch, flags, stops):
    """Inside the first, second and third epoch, and at the third's beginning."""
    assert tune(tmp_path / "whole", *flags)[0] == 0
    for micro_batch in stops:
        folder = tmp_path / f"stopped in {micro_batch}"
        with monkeypatch.context() as patch:
            signal_in_batch(patch, micro_batch)
            assert tune(folder, *flags)[0] == 143
        status, out, err = tune(folder, "--resume", *flags)
        assert status == 0 and "resuming:" in out, err
        assert digest(folder) == digest(tmp_path / "whole")


def test_records_without_lists_have_no_other_order(instruct, tmp_path):
    (tmp_path / "cot.json").write_text(json.dumps([{"instruction": "Rank.", "input": "Night", "output": "short"}] * 9))
    status, _, err = instruct(tmp_path / "a", "--shuffle_history", "--train_data_path", tmp_path / "cot.json")
    line = "error: --shuffle_history: record 1 of those to learn from is not the input of a preference record"
    assert (status, err.splitlines()[-1]) == (2, line)
