"""One forward pass scores what the plainest code scores.

1. Log-probabilities equal a forward pass row by row, without cache, sorting, merging or padding, within 1e-4, and
   those of a left-padded batch; AUC within 1e-6.
2. Token budget, row order, the other rows, the shared prefix and merging change nothing.
3. The loss is the model's own mean loss over prompt, answer and EOS, or over answer and EOS, in chunks of any size.
4. The base weights come out bit for bit as they went in, also when scoring breaks off.
5. Out of memory halves the budget and goes on; a single row that does not fit is an error.
"""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.plain import Passes, log_p, plain_log_p
from tlrec.data.preferences import Item, Preference, build_record
from tlrec.data.records import labels_of, read_records
from tlrec.errors import InputError
from tlrec.evaluation.metrics import auc, two_probabilities_to_score
from tlrec.model.adapters import attach_adapter
from tlrec.model.base_models import load_base_model, load_tokenizer
from tlrec.model.merging import merged
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring import engine
from tlrec.scoring.records import Scorer, score_records

FRAME = load_frame("alpaca")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama, tiny_adapter):
    return attach_adapter(load_base_model(tiny_llama, CPU, torch.float32), tiny_adapter)


@pytest.fixture(scope="module")
def records(tiny_workspace):
    """Movie rows, and as many of different lengths."""
    rows = read_records(tiny_workspace / "rec_data" / "movie" / "test.json")
    likes, dislikes, target = Item("Night"), Item("No (2102)"), Item("Harbor")
    short = [
        build_record(Preference((likes,) * (n % 3), (dislikes,) * (n % 4), target, "movie"), liked=n % 2)
        for n in range(8)
    ]
    return rows[:16] + short


@pytest.fixture(scope="module")
def reference(model, tokenizer, records):
    """Log-probabilities of Yes and No, (n, 2), by the model alone, one row at a time."""
    return plain_log_p(model, RecordTokenizer(tokenizer, FRAME, 512), records)


def test_equals_one_forward_pass_a_row(model, tokenizer, records, reference):
    scores = score_records(model, tokenizer, records, FRAME)
    assert reference[:, 0].std() > 0.1  # the rows do differ
    np.testing.assert_allclose(log_p(scores), reference, atol=1e-4)
    labels = labels_of(records)
    published = [auc(labels, two_probabilities_to_score(*np.exp(each.T))) for each in (log_p(scores), reference)]
    assert published[0] == pytest.approx(published[1], abs=1e-6)
    assert scores.loss is None and scores.truncated == 0 and scores.seconds > 0


def test_equals_a_left_padded_batch(model, tokenizer, records, reference):
    prompts = RecordTokenizer(tokenizer, FRAME, 512).prompts(records).input_ids
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]
    yes_no = [tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No")]
    scores = score_records(model, tokenizer, records, FRAME)
    np.testing.assert_allclose(log_p(scores), logits.double().log_softmax(-1)[:, yes_no].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"token_budget": 1},
        {"token_budget": 700},
        {"token_budget": 10**6},
        {"share_prefix": False},
        {"merge": False},
        {"share_prefix": False, "merge": False, "token_budget": 1000},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_loss", [False, True])
def test_how_it_is_computed_changes_nothing(model, tokenizer, records, reference, options, with_loss):
    scorer = Scorer(tokenizer, records, FRAME, 512, with_loss=with_loss)
    scores = scorer.score(model, **options)
    np.testing.assert_allclose(log_p(scores), reference, atol=1e-4)
    if with_loss:
        assert scores.loss == pytest.approx(scorer.score(model).loss, abs=1e-5)


def test_row_order_and_other_rows_change_nothing(model, tokenizer, records, reference):
    order = np.random.default_rng(0).permutation(len(records))
    shuffled = score_records(model, tokenizer, [records[i] for i in order], FRAME)
    np.testing.assert_allclose(log_p(shuffled), reference[order], atol=1e-4)
    alone = score_records(model, tokenizer, records[5:6], FRAME)
    np.testing.assert_allclose(log_p(alone), reference[5:6], atol=1e-4)
    twins = score_records(model, tokenizer, records[3:4] * 3, FRAME)  # all rows are one prefix, but for the last token
    np.testing.assert_allclose(log_p(twins), reference[[3, 3, 3]], atol=1e-4)


def test_labels_are_not_looked_at(model, tokenizer, records):
    turned = [{**row, "output": "No." if row["output"] == "Yes." else "Yes."} for row in records]
    for with_loss in (False, True):
        one, other = (log_p(Scorer(tokenizer, rows, FRAME, 512, with_loss).score(model)) for rows in (records, turned))
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_truncated_rows(model, tokenizer, records):
    scorer = Scorer(tokenizer, records, FRAME, 200, with_loss=True)
    assert scorer.truncated == scorer.score(model).truncated == 16
    plain = plain_log_p(model, RecordTokenizer(tokenizer, FRAME, 200), records)
    np.testing.assert_allclose(log_p(scorer.score(model)), plain, atol=1e-4)


@pytest.mark.parametrize("at_once", [1 << 25, 640 * 7])
@pytest.mark.parametrize("weight", [1, 0, 0.05])
def test_loss_is_the_models_own(model, tokenizer, records, monkeypatch, at_once, weight):
    monkeypatch.setattr(engine, "LOGITS_AT_ONCE", at_once)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in RecordTokenizer(tokenizer, FRAME, 512).examples(records).rows:
            ids = torch.tensor(row["input_ids"])
            losses = torch.nn.functional.cross_entropy(
                model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none"
            )
            weights = torch.where(torch.arange(1, len(ids)) >= row["answer_start"], 1.0, weight)
            total += (losses * weights).sum().item()
            count += weights.sum().item()
    scorer = Scorer(tokenizer, records, FRAME, 512, with_loss=True, prompt_loss_weight=weight)
    assert scorer.score(model).loss == pytest.approx(total / count, abs=1e-5)
    assert scorer.score(model, share_prefix=False, token_budget=600).loss == pytest.approx(total / count, abs=1e-5)


def test_base_weights_stay_bit_identical(tiny_llama, tiny_adapter, tokenizer, records):
    model = attach_adapter(load_base_model(tiny_llama, CPU, torch.float32), tiny_adapter)
    before = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    score_records(model, tokenizer, records, FRAME)
    assert all(module.training for module in model.modules())
    with pytest.raises(ZeroDivisionError), merged(model):
        name = next(name for name in before if name.endswith("q_proj.base_layer.weight"))
        assert not torch.equal(model.state_dict()[name], before[name])
        1 / 0  # noqa: B018
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama).state_dict()
    unloaded = model.unload().state_dict()
    assert list(unloaded) == list(plain) and all(torch.equal(unloaded[name], plain[name]) for name in plain)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_out_of_memory_halves_the_budget(model, tokenizer, records, reference, capsys, share_prefix):
    scorer = Scorer(tokenizer, records, FRAME, 512, with_loss=True)
    with Passes(model, limit=800) as passes:
        scores = scorer.score(model, token_budget=10**6, share_prefix=share_prefix)
    np.testing.assert_allclose(log_p(scores), reference, atol=1e-4)
    assert scores.loss == pytest.approx(scorer.score(model).loss, abs=1e-5)
    failed = [size for size in passes.sizes if size > 800]
    assert 2 <= len(failed) <= 5  # 24 rows: halved a few times, then for good
    assert all(later <= earlier // 2 + 1 for earlier, later in zip(failed, failed[1:]))
    assert capsys.readouterr().out.count("out of memory: continuing with") == len(failed)


def test_a_row_that_does_not_fit_alone_is_an_error(model, tokenizer, records):
    message = "out of memory while scoring 1 rows of [0-9]+ tokens at once; give evaluate.py"
    with Passes(model, limit=60), pytest.raises(InputError, match=message):
        score_records(model, tokenizer, records, FRAME, share_prefix=False)
    assert not any(getattr(module, "merged", False) for module in model.modules())
