"""evaluate.py --orders N: the mean of P over orders of the two lists of a record.

1. Another order of a record has the same items in each list, the same target and wording, and is the same every time;
   so for published records, whatever their titles hold.
2. P is the mean of the probabilities of the records in each order, computed one order at a time; one order is the given
   one. It is kept with the scoring settings, and an evaluation in other orders is not taken for this one.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.support.synthetic import preference
from tlrec.data.preferences import Item, build_record, in_another_order, parse_input
from tlrec.data.records import read_records
from tlrec.evaluation.results import read_evaluation
from tlrec.model.adapters import attach_adapter
from tlrec.model.base_models import load_base_model, load_tokenizer
from tlrec.model.prompts import load_frame
from tlrec.scoring.records import score_records

# ------------------------------------------------------------------------------------------------- 1. another order


def items_of(record):
    preference = parse_input(record["input"])
    return Counter(preference.likes), Counter(preference.dislikes), preference.target, preference.kind


@pytest.mark.parametrize("quoted", [True, False])
def test_another_order_has_the_same_items(quoted):
    likes = ["No Safe Place", 'Say "Yes"', "a, b", "Éa"]
    record = build_record(preference(likes, "xy", Item("z", "A. B."), "book"), True, quoted)
    inputs = {in_another_order(record, 0, seed)["input"] for seed in range(200)}
    assert 24 < len(inputs) <= 48 and in_another_order(record, 0, 3) == in_another_order(record, 0, 3)
    for text in inputs:
        assert items_of({"input": text}) == items_of(record)
        assert text.splitlines()[2] == record["input"].splitlines()[2]


def test_another_order_of_published_records(shared_data):
    changed = 0
    for path in sorted(shared_data.glob("*/*/*.json")):
        for number, record in enumerate(read_records(path)[::5]):  # a fifth of them, to save time
            other = in_another_order(record, 1, number)
            assert items_of(other) == items_of(record), (path, number)
            assert {**other, "input": ""} == {**record, "input": ""}
            changed += other["input"] != record["input"]
    assert changed > 2_000


def test_lists_that_can_only_be_read_in_one_order_stay():
    text = 'User Preference: "A" written by B, "C" written by D, E\nUser Unpreference: \n'
    text += 'Whether the user will like the target book "H" written by I?'
    for seed in range(20):
        assert items_of(in_another_order({"input": text}, seed)) == items_of({"input": text})


# ------------------------------------------------------------------------------------------------- 2. the mean of P


def shuffled(record, order, row):
    """The record in another order, built anew from its items."""
    asked, rng = parse_input(record["input"]), np.random.default_rng((order, row))
    dislikes, likes = (
        [items[place] for place in rng.permutation(len(items))] for items in (asked.dislikes, asked.likes)
    )
    return build_record(preference(likes, dislikes, asked.target, asked.kind), record["output"] == "Yes.")


def test_the_mean_over_orders(run_script, tiny_llama, tiny_adapter, tiny_workspace, tmp_path):
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    flags = ["--base_model", tiny_llama, "--lora_weights", tiny_adapter, "--test_data_path", test, "--device", "cpu"]
    flags += ["--dtype", "float32", "--output_dir", tmp_path / "out", "--resume"]
    status, out, err = run_script("evaluate.py", *flags, "--orders", 3)
    assert status == 0, err
    assert "; mean of 3 orders\n" in out
    metrics, found = read_evaluation(tmp_path / "out")
    assert metrics["run"]["scoring"]["orders"] == 3
    records = read_records(test)
    model = attach_adapter(load_base_model(tiny_llama, torch.device("cpu"), torch.float32), tiny_adapter)
    each = [records] + [[shuffled(record, order, row) for row, record in enumerate(records)] for order in (1, 2)]
    scores = [score_records(model, load_tokenizer(tiny_llama), one, load_frame("alpaca")) for one in each]
    expected = np.mean([one.p_yes for one in scores], axis=0)
    np.testing.assert_allclose(found["p_yes"], expected, rtol=1e-4)
    assert abs(scores[0].p_yes / scores[1].p_yes - 1).max() > 0.001  # the orders are others

    assert "complete already" in run_script("evaluate.py", *flags, "--orders", 3)[1]
    assert "complete already" not in run_script("evaluate.py", *flags)[1]
    metrics, found = read_evaluation(tmp_path / "out")
    assert metrics["run"]["scoring"]["orders"] == 1
    np.testing.assert_allclose(found["p_yes"], scores[0].p_yes, rtol=1e-4)
