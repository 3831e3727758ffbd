"""Many items for one user score what each scores alone.

1. Log-probabilities equal the model's own, prompt by prompt, without cache, mask or merging, within 1e-4: for every family,
   with its adapter merged or not, for cut prompts, several users, titles that hold Yes, No, quotes and one another's
   beginnings, and quantised weights.
2. Candidates are packed where the model's attention can have it, are rows behind the cached history where it cannot (ALiBi,
   windows shorter than the prompts, recurrent states), and whole prompts where the cache cannot be continued; a mask or
   position ids that are not heeded are found out; the log says which it is.
3. Budget, row width, order, number and company of the items change nothing.
4. The history goes through the model once, and no forward pass exceeds the budget, however many items and users.
5. Results come in order, one for each request, empty ones included; the model is left as it was.
6. Out of memory halves the budget and goes on.
"""

import numpy as np
import pytest
import torch
import transformers
from bitsandbytes.nn import Linear8bitLt
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.support.models import EACH_FAMILY, GROUPED, SIZES, make_family
from tests.support.plain import Passes, log_p, plain_log_p
from tlrec.data.preferences import Item, Preference, build_record, parse_input, with_targets
from tlrec.errors import InputError
from tlrec.model.adapters import attach_adapter
from tlrec.model.base_models import load_base_model, load_tokenizer
from tlrec.model.lora_targets import query_and_value_modules
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer, common_prefix
from tlrec.scoring import candidates, engine, histories
from tlrec.scoring.candidates import PACKED, ROWS, WHOLE, score_candidates

FRAME = load_frame("alpaca")
CPU = torch.device("cpu")
TITLES = [
    "No Safe Place",
    "No. 1 with a Bullet",
    "No",
    "Yes",
    "Yes.",
    'Say "Yes." or "No."',
    "Harbor",
    "Harbor of the Night",
    "Harbor (2101)",
    "H",
    "Night of the Harbor, and of the Night behind it",
    "Éa",
]
ITEMS = [Item(title) for title in TITLES]
SHORTER_THAN_PROMPTS = {"mistral", "gemma2", "gemma3", "phi3"}  # the sliding windows of these test models
ALIBI, RECURRENT = {"falcon", "bloom"}, {"qwen3_5"}


def record(likes, dislikes):
    return build_record(Preference(tuple(likes), tuple(dislikes), Item("Night"), "movie"), liked=True)


REQUESTS = [
    (record(ITEMS[:3], ITEMS[7:9]), ITEMS),
    (record([], ITEMS[1:2]), ITEMS[4:5]),
    (record(ITEMS[5:6], []), []),
    (record(ITEMS[8:], ITEMS[:6]), ITEMS[6:]),
]


def own_log_p(model, tokenizer, requests=REQUESTS, cutoff_len=512):
    """For each request (items, 2), by the model alone."""
    encoder = RecordTokenizer(tokenizer, FRAME, cutoff_len)
    return [plain_log_p(model, encoder, with_targets(row, items)) for row, items in requests]


def assert_scores(results, expected, atol=1e-4):
    assert len(results) == len(expected)
    for scores, reference in zip(results, expected):
        np.testing.assert_allclose(log_p(scores), reference, atol=atol)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama, tiny_adapter):
    return attach_adapter(load_base_model(tiny_llama, CPU, torch.float32), tiny_adapter)


@pytest.fixture(scope="module")
def expected(model, tokenizer):
    return own_log_p(model, tokenizer)


# ------------------------------------------------------------------------------------------------- families and ways


def with_lora(base, folder):
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=query_and_value_modules(folder), task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_equals_the_models_own_scores(name, tmp_path, capsys):
    folder = make_family(tmp_path / "base", name)
    tokenizer, base = load_tokenizer(folder), load_base_model(folder, CPU, torch.float32)
    model = with_lora(base, folder)
    for cutoff_len in (512, 150):
        expected = own_log_p(model, tokenizer, cutoff_len=cutoff_len)
        assert expected[0][:, 0].std() > 0.02  # the items do differ
        for merge in (True, False):
            results = list(score_candidates(model, tokenizer, REQUESTS, FRAME, cutoff_len, merge=merge))
            assert_scores(results, expected)
            way = ROWS if name in SHORTER_THAN_PROMPTS | ALIBI | RECURRENT else PACKED
            assert {scores.way for scores in results if len(scores.p_yes)} == {way}
            assert capsys.readouterr().out == candidates.LOG[way] + "\n"
            assert (sum(scores.truncated for scores in results) > 0) == (cutoff_len == 150)


WIDE = {"sliding_window": 400}


@pytest.mark.parametrize(
    "config, arguments, way",
    [
        ("MistralConfig", GROUPED | WIDE, PACKED),
        ("Gemma2Config", GROUPED | WIDE | {"attn_logit_softcapping": 4.0, "query_pre_attn_scalar": 8}, PACKED),
        ("Qwen3MoeConfig", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, PACKED),
        # windows that no cache tells of, longer than the prompts, but not than the histories with all that is packed
        ("GPTNeoConfig", SIZES | {"attention_types": [[["global", "local"], 1]], "window_size": 150}, ROWS),
        ("MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 656, "max_seq_len": 1024}, ROWS),
        ("Lfm2Config", GROUPED | {"layer_types": ["conv", "full_attention"]}, ROWS),
        ("MambaConfig", SIZES | {"state_size": 4}, WHOLE),
        ("OpenAIGPTConfig", SIZES, WHOLE),
        ("RwkvConfig", SIZES | {"attention_hidden_size": 32}, WHOLE),
    ],
)
def test_other_architectures(config, arguments, way, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**arguments)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    results = list(score_candidates(model, tokenizer, REQUESTS, FRAME))
    assert_scores(results, own_log_p(model, tokenizer))
    assert results[-1].way == way


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_of_both_attentions(tiny_llama, tokenizer, attention, dtype):
    base = load_base_model(tiny_llama, CPU, dtype, attention=attention)
    results = list(score_candidates(base, tokenizer, REQUESTS, FRAME))
    assert results[-1].way == PACKED
    assert_scores(results, own_log_p(base, tokenizer), atol=1e-4 if dtype == torch.float32 else 0.15)


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_what_a_model_does_not_heed_is_found_out(model, tokenizer, expected, monkeypatch, ignored, capsys):
    original = engine.language_model_parts

    def heedless(model):
        hidden_states, head = original(model)
        return lambda **inputs: hidden_states(**{key: inputs[key] for key in inputs if key != ignored}), head

    monkeypatch.setattr(engine, "language_model_parts", heedless)
    results = list(score_candidates(model, tokenizer, REQUESTS, FRAME))
    assert_scores(results, expected)
    assert results[-1].way == ROWS and capsys.readouterr().out == candidates.LOG[ROWS] + "\n"


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised(tiny_llama, tiny_adapter, tokenizer, quantization):
    model = attach_adapter(load_base_model(tiny_llama, CPU, torch.float32, quantization), tiny_adapter)
    for module in model.modules():
        if isinstance(module, Linear8bitLt):
            module.state.threshold = 0.0  # it looks for outliers in all rows together, so that no two batches agree
    results = list(score_candidates(model, tokenizer, REQUESTS, FRAME))
    assert_scores(results, own_log_p(model, tokenizer))
    assert results[-1].way == PACKED


# ---------------------------------------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize(
    "token_budget, row_width, items_at_once", [(1, 40, 50), (100, 10**4, 50), (400, 1, 1), (10**6, 40, 5)]
)
def test_packing_changes_nothing(model, tokenizer, expected, monkeypatch, token_budget, row_width, items_at_once):
    monkeypatch.setattr(candidates, "ROW_WIDTH", row_width)
    monkeypatch.setattr(histories, "ITEMS_AT_ONCE", items_at_once)
    assert_scores(list(score_candidates(model, tokenizer, REQUESTS, FRAME, token_budget=token_budget)), expected)


def test_order_number_and_company_change_nothing(model, tokenizer, expected):
    row, items = REQUESTS[0]
    order = np.random.default_rng(0).permutation(len(items))
    requests = [(row, [items[i] for i in order]), *[(row, [item]) for item in items], (row, items * 3)]
    shuffled, *alone, thrice = score_candidates(model, tokenizer, requests, FRAME)
    np.testing.assert_allclose(log_p(shuffled), expected[0][order], atol=1e-4)
    np.testing.assert_allclose(np.concatenate(list(map(log_p, alone))), expected[0], atol=1e-4)
    np.testing.assert_allclose(log_p(thrice), np.tile(expected[0], (3, 1)), atol=1e-4)


# ------------------------------------------------------------------------------------------------ what it costs, order


def test_the_history_is_computed_once(model, tokenizer):
    row, items = REQUESTS[0][0], [Item(f"{title} ({n})") for n in range(20) for title in TITLES]
    with Passes(model) as passes:
        list(score_candidates(model, tokenizer, [(row, items)], FRAME, token_budget=600))
    prompts = RecordTokenizer(tokenizer, FRAME, 512).prompts(with_targets(row, items)).input_ids
    history = common_prefix(prompts)
    own_tokens = sum(map(len, prompts)) - history * len(items)
    assert history > 100
    # the check on the first pass: a whole prompt, the history and one item, the history and a row of items
    check = 4 * max(map(len, prompts)) + candidates.ROW_WIDTH
    assert sum(passes.sizes) <= history + 1.1 * own_tokens + check
    assert max(passes.sizes) <= 600


def test_many_users_share_forward_passes(model, tokenizer):
    requests = [(record(ITEMS[: 1 + n % 3], ITEMS[n % 5 : 6]), ITEMS[:2]) for n in range(40)]
    with Passes(model) as passes:
        results = list(score_candidates(model, tokenizer, requests, FRAME, token_budget=2000))
    assert_scores(results, own_log_p(model, tokenizer, requests))
    assert len(passes.sizes) < 40 and max(passes.sizes) <= 2000


def test_results_come_as_they_are_ready(model, tokenizer, expected):
    model.train()
    drawn = []

    class Items(list):
        def __getitem__(self, where):
            drawn.append(len(drawn))
            return super().__getitem__(where)

    requests = [(row, Items(items)) for row, items in REQUESTS * 5]
    results = score_candidates(model, tokenizer, requests, FRAME, token_budget=300)
    first = next(results)
    assert len(drawn) < len(requests)
    assert not torch.is_inference_mode_enabled()  # the caller's own work is nobody else's business
    np.testing.assert_allclose(log_p(first), expected[0], atol=1e-4)
    results.close()
    assert model.training and not any(getattr(module, "merged", False) for module in model.modules())
    model.eval()


def test_nothing_to_score(model, tokenizer):
    assert list(score_candidates(model, tokenizer, [], FRAME)) == []
    (nothing,) = score_candidates(model, tokenizer, [(REQUESTS[0][0], [])], FRAME)
    assert nothing.p_yes.shape == (0,)


@pytest.mark.parametrize("limit", [700, 450])  # over the items; over the histories
def test_out_of_memory_halves_the_budget(model, tokenizer, expected, limit, capsys):
    requests = REQUESTS * 3
    with Passes(model, limit) as passes:
        results = list(score_candidates(model, tokenizer, requests, FRAME, token_budget=4000))
    assert_scores(results, expected * 3)
    assert any(size > limit for size in passes.sizes) and sum(size > limit for size in passes.sizes) < 8


def test_a_history_that_does_not_fit(model, tokenizer):
    with Passes(model, 100), pytest.raises(InputError, match="^out of memory"):
        list(score_candidates(model, tokenizer, REQUESTS, FRAME))


def test_records_with_other_targets():
    row = REQUESTS[0][0]
    for item, other in zip(ITEMS, with_targets(row, ITEMS)):
        assert parse_input(other["input"]).target == item
        assert other["instruction"] == row["instruction"] and other["output"] == row["output"]
        assert other["input"] == row["input"].replace('"Night"?', f"{item}?")
    odd = row | {
        "input": 'User Preference:\nUser Unpreference:\nWhether the user will like the target book"T"written by A?\n'
    }
    same, other = with_targets(odd, [Item("T", "A"), Item("U", "B")])
    assert same == odd
    assert other["input"].endswith('target book "U" written by B?\n')
