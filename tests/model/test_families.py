"""All families of causal language models go through the same scripts: tokenizers, chat templates, LoRA, scores.

1. Tuned by ins_tuning.py and scored by evaluate.py, each of `tests.support.models.FAMILIES`: LoRA sits on the query and value
   projections, its tensors have changed and the base has not; the validation AUC is evaluate.py's on the same rows.
2. P(Yes) and P(No) equal the model's own logits row by row, without cache, padding or merging, within 1e-4. The
   prefix that all rows share is computed once wherever the cache holds nothing but keys and values.
3. A prompt holds what the model's own chat template or tokenizer would give: BOS once or never, no other special token.
4. Answer ids: words, merged newlines, prompts that are cut otherwise when an answer follows; what cannot be told apart,
   by one token, is an error.
5. What does not fit (no chat template, one that loses the input, unknown layers, unknown logits, code of its own) is an
   InputError that says what to give.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.support.models import (
    CHATML,
    DATED,
    EACH_FAMILY,
    FAMILIES,
    GROUPED,
    NO,
    YES,
    byte_level_tokenizer,
    like_llama3,
    make_family,
    merging,
    write_tokenizer,
)
from tests.support.plain import plain_log_p
from tests.support.tuned import predictions, read, weights
from tlrec.data.records import read_records
from tlrec.errors import InputError
from tlrec.model import adapters, base_models, lora_targets, parts
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring.records import Scorer

CPU = torch.device("cpu")
ALPACA = load_frame("alpaca")
TARGETS = {"phi3": ["qkv_proj"], "gpt2": ["c_attn"], "gpt_neox": ["query_key_value"], "falcon": ["query_key_value"]}
TARGETS |= {"bloom": ["query_key_value"]}
LAYER = "model.language_model.layers.{}.self_attn.{}"  # of Gemma 3, whose encoder of images has a q_proj too
TARGETS |= {"gemma3": [LAYER.format(layer, name) for layer in (0, 1) for name in ("q_proj", "v_proj")]}
WITH_ALPACA = {"qwen2", "gemma3"}  # the others with a chat template take that


@dataclass
class Tuned:
    """A family's base model and adapter after one curriculum stage."""

    name: str
    base: Path
    adapter: Path
    out: str
    frame: str
    base_unchanged: bool

    @cached_property
    def encoder(self):
        tokenizer = base_models.load_tokenizer(self.base)
        return RecordTokenizer(tokenizer, load_frame(self.frame, tokenizer), 512)


@pytest.fixture(scope="module", params=EACH_FAMILY)
def tuned(request, instruct, tmp_path_factory):
    """Two steps of ins_tuning.py on a model of the family, from a fresh LoRA."""
    folder = tmp_path_factory.mktemp(request.param)
    base, adapter = make_family(folder / "base", request.param), folder / "adapter"
    frame = "chat" if FAMILIES[request.param][3] and request.param not in WITH_ALPACA else "alpaca"
    held = {}

    def load_and_hold(*arguments, original=base_models.load_base_model, **options):
        model = original(*arguments, **options)
        held.update({name: (tensor, tensor.detach().clone()) for name, tensor in model.named_parameters()})
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_models, "load_base_model", load_and_hold)
        status, out, err = instruct(adapter, "--prompt_frame", frame, "--num_epochs", 1, base=base)
    assert status == 0, err
    unchanged = len(held) > 10 and all(torch.equal(tensor, before) for tensor, before in held.values())
    return Tuned(request.param, base, adapter, out, frame, unchanged)


# -------------------------------------------------------------------------------------- each family through the scripts


def test_lora_on_query_and_value_changes_and_the_base_does_not(tuned):
    targets = TARGETS.get(tuned.name, ["q_proj", "v_proj"])
    assert f"LoRA targets: {' '.join(targets)}\n" in tuned.out
    config = read(tuned.adapter, "adapter_config.json")
    assert sorted(config["target_modules"]) == targets
    assert config["fan_in_fan_out"] == (tuned.name == "gpt2")  # whose layers hold their weights transposed
    assert [config[key] for key in ("r", "lora_alpha", "lora_dropout", "bias")] == [8, 16, 0.05, "none"]  # as published
    assert "start adapter: none, a fresh LoRA\n" in tuned.out
    assert read(tuned.adapter)["start_adapter"] is None
    tensors = weights(tuned.adapter)
    layers = 1 if tuned.name == "qwen3_5" else 2  # of two, one is linear attention
    names = {target.split(".")[-1] for target in targets}
    assert len(tensors) == 2 * layers * len(names)  # A and B
    assert {re.fullmatch(r".*\.(\w+)\.lora_[AB]\.weight", name)[1] for name in tensors} == names
    assert tuned.base_unchanged
    assert all(tensor.abs().max() > 1e-3 for tensor in tensors.values())  # B began at zero


def test_scores_are_the_models_own(tuned, evaluate, tiny_workspace):
    valid = tiny_workspace / "rec_data" / "movie" / "valid.json"
    status, out, err = evaluate(tuned.adapter, "--test_data_path", valid, base=tuned.base)
    assert status == 0, err
    run = read(tuned.adapter)
    assert run["frame"] == tuned.frame and f"frame: {tuned.frame}\n" in out
    best = next(entry for entry in run["results"]["history"] if entry["step"] == run["results"]["best_step"])
    auc = read(tuned.adapter, "metrics.json")["auc"]
    assert auc == pytest.approx(best["eval_auc"], abs=1e-6)
    assert f"===== auc: {auc} =====\n" in out

    model = adapters.attach_adapter(AutoModelForCausalLM.from_pretrained(tuned.base).eval(), tuned.adapter)
    reference = plain_log_p(model, tuned.encoder, read_records(valid))
    assert reference[:, 0].std() > 0.02  # the rows do differ
    rows = predictions(tuned.adapter)
    np.testing.assert_allclose(np.log([[row["p_yes"], row["p_no"]] for row in rows]), reference, atol=1e-4)


def test_the_shared_prefix(tuned, tiny_workspace):
    records = read_records(tiny_workspace / "rec_data" / "movie" / "valid.json")
    model = adapters.attach_adapter(base_models.load_base_model(tuned.base, CPU, torch.float32), tuned.adapter)
    scorer = Scorer(tuned.encoder.tokenizer, records, tuned.encoder.frame, 512, with_loss=True)
    assert scorer.prefix_len > 20  # and longer than the sliding window, where there is one
    shared, whole = scorer.score(model), scorer.score(model, share_prefix=False, merge=False, token_budget=1)
    np.testing.assert_allclose(shared.log_p_yes, whole.log_p_yes, atol=1e-4)
    assert shared.loss == pytest.approx(whole.loss, abs=1e-5)
    assert (shared.tokens < whole.tokens) == (tuned.name != "qwen3_5")  # whose cache holds recurrent states


def test_token_ids_of_a_row(tuned, tiny_workspace):
    row = read_records(tiny_workspace / "rec_data" / "movie" / "valid.json")[0]
    encoder, tokenizer = tuned.encoder, tuned.encoder.tokenizer
    (prompt,), (example,) = encoder.prompts([row]).input_ids, encoder.examples([row]).rows
    if tuned.frame == "chat":
        conversation = [
            {"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"},
            {"role": "assistant", "content": row["output"]},
        ]
        template = tokenizer.get_chat_template().replace("strftime_now is defined", "false")  # its own fixed date
        options = {"chat_template": template, "enable_thinking": False}
        expected = tokenizer.apply_chat_template(conversation, return_dict=False, **options)
        asked = tokenizer.apply_chat_template(
            conversation[:1], return_dict=False, add_generation_prompt=True, **options
        )
        assert prompt[: len(asked)] == asked
        assert example["input_ids"][:-1] == expected[: len(example["input_ids"]) - 1]
        ends = {"gemma2": "<end_of_turn>", "phi3": "<|end|>"}
        assert tokenizer.convert_ids_to_tokens(example["input_ids"][-1]) == ends.get(tuned.name, tokenizer.eos_token)
        assert example["input_ids"][-1] in expected[len(example["input_ids"]) - 2 :]
        has_bos = tuned.name in ("llama3", "mistral", "gemma2")
    else:
        text = ALPACA.prompt(row) + row["output"]
        bos = [] if tokenizer.bos_token is None else [tokenizer.bos_token_id]
        assert example["input_ids"] == bos + tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]
        has_bos = tuned.name not in ("qwen2", "falcon")
    assert (prompt[0] == tokenizer.bos_token_id) == has_bos
    assert prompt.count(tokenizer.bos_token_id) == has_bos
    assert example["input_ids"][: len(prompt) + 1] == [*prompt, encoder.answer_ids[row["output"] == "No."]]
    assert tokenizer.decode(encoder.answer_ids).split() in (["YesNo"], ["Yes", "No"])


# -------------------------------------------------------------------------------------------------- the frame "chat"


def with_template(template):
    tokenizer = like_llama3()
    tokenizer.chat_template = template
    return tokenizer


TURN = "<|start_header_id|>{}<|end_header_id|>\n\n"


def test_the_frame_of_a_chat_template():
    frame = load_frame("chat", with_template(DATED))
    system = "<|begin_of_text|>" + TURN.format("system") + "Today Date: 26 Jul 2024<|eot_id|>" + TURN.format("user")
    assert frame.with_input == system + "{instruction}\n\n{input}<|eot_id|>" + TURN.format("assistant")
    assert frame.without_input == system + "{instruction}<|eot_id|>" + TURN.format("assistant")
    assert (frame.name, frame.answer_end) == ("chat", "<|eot_id|>")
    without_marks = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    assert load_frame("chat", with_template(without_marks)).answer_end == "<|eot_id|>"  # EOS
    row = {"instruction": "Say {input}.", "input": "Night {instruction}", "output": "Yes."}
    assert frame.head(row) == system + "Say {input}.\n\n"
    assert frame.prompt(row) == frame.head(row) + "Night {instruction}<|eot_id|>" + TURN.format("assistant")


def test_truncated_prompts_keep_the_turns(tiny_workspace):
    tokenizer = with_template(CHATML)
    rows = read_records(tiny_workspace / "rec_data" / "movie" / "valid.json")
    rows.append({"instruction": "Rank: " + "harbor " * 300, "input": "", "output": "short"})
    cut = RecordTokenizer(tokenizer, load_frame("chat", tokenizer), 150)
    prompts, examples = cut.prompts(rows[:-1]), cut.examples(rows)
    assert prompts.truncated == len(rows) - 1 and examples.truncated == len(rows) and not examples.dropped
    before = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n"
    for row, ids, example in zip(rows, prompts.input_ids, examples.rows):
        assert len(example["input_ids"]) <= 150
        text = tokenizer.decode(ids)
        assert text.startswith(before + row["instruction"])
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert example["input_ids"][: len(ids)] == ids
    text = tokenizer.decode(examples.rows[-1]["input_ids"])
    assert text.startswith(before)
    assert text.endswith("harbor <|im_end|>\n<|im_start|>assistant\nshort<|eot_id|>")


SLOTS = "does not give instruction, input and answer once each, in this order"


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{{ raise_exception('system message\nneeded') }}", "this model's chat template fails: system message"),
        ("{{ messages[0].content | upper + messages[1].content }}", SLOTS),
        ("{{ messages[0].content + messages[0].content + messages[1].content }}", SLOTS),
    ],
)
def test_templates_that_cannot_be_a_frame(template, reason):
    with pytest.raises(InputError, match=f"^--prompt_frame chat: .*{reason}.*; give --prompt_frame alpaca$"):
        load_frame("chat", with_template(template))


def test_a_frame_that_is_asked_for_in_vain(evaluate, tiny_adapter):
    message = "--prompt_frame chat: this model's tokenizer has no chat template; give --prompt_frame alpaca"
    assert evaluate(tiny_adapter, "--prompt_frame", "chat") == (2, "", f"error: {message}\n")


# ---------------------------------------------------------------------------------------------------------- answer ids


@pytest.mark.parametrize(
    "merges, answers, last",
    [
        ((), ("Y", "N"), "Ċ"),
        (("Y e", "Ye s", "N o", ": Ċ"), ("Yes", "No"), ":Ċ"),
        ((*YES, *NO), ("ĊYes", "ĊNo"), ":"),  # merged newline
        ((*YES, *NO, ": Ċ"), ("ĊYes", "ĊNo"), ":"),  # and without an answer the newline goes with the colon
        ((": Ċ", "N o"), ("Y", "No"), ":Ċ"),
    ],
)
@pytest.mark.parametrize("cutoff_len", [600, 10_000])
def test_first_tokens_of_the_answers(tiny_workspace, merges, answers, last, cutoff_len):
    tokenizer = merging(*merges)
    encoder = RecordTokenizer(tokenizer, ALPACA, cutoff_len)
    assert tuple(tokenizer.convert_ids_to_tokens(encoder.answer_ids)) == answers
    rows = read_records(tiny_workspace / "rec_data" / "movie" / "valid.json")
    assert {row["output"] for row in rows} == {"Yes.", "No."}
    prompts, examples = encoder.prompts(rows), encoder.examples(rows)
    assert prompts.truncated == examples.truncated == (len(rows) if cutoff_len == 600 else 0)
    for row, ids, example in zip(rows, prompts.input_ids, examples.rows):
        assert tokenizer.convert_ids_to_tokens(ids[-1]) == last
        answer = encoder.answer_ids[row["output"] == "No."]
        assert example["input_ids"][: len(ids) + 1] == [*ids, answer]
        assert len(example["input_ids"]) <= cutoff_len  # no BOS and no EOS: there are none
        if cutoff_len == 10_000:
            assert tokenizer.decode(example["input_ids"]) == ALPACA.prompt(row) + row["output"]


@pytest.mark.parametrize("merges", [YES, (*YES, ": Ċ"), (*NO, ": Ċ")])
def test_only_one_answer_grows_together_with_the_frame(merges):
    message = "'Yes.' and 'No.' begin with the same token after the frame 'alpaca', or only one of them merges with it"
    with pytest.raises(InputError, match=f"{message}.*; use another --prompt_frame or model"):
        RecordTokenizer(merging(*merges), ALPACA, 512)


def test_a_bare_tokenizer_model_of_mistral(tmp_path, pieces):
    """AutoTokenizer drops the space that SentencePiece puts before the first word."""
    transformers.MistralConfig().save_pretrained(tmp_path)
    write_tokenizer(tmp_path, "absent")
    tokenizer = base_models.load_tokenizer(tmp_path)
    assert tokenizer.encode(ALPACA.with_input, add_special_tokens=False) == pieces.encode(ALPACA.with_input)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


# ------------------------------------------------------------------------------------- architectures, by their shape


@pytest.mark.parametrize(
    "config, targets",
    [
        ("PhiConfig", "q_proj v_proj"),  # PEFT's own default has the feed-forward layers in it
        ("MptConfig", "Wqkv"),
        ("DeepseekV3Config", "kv_b_proj q_b_proj"),
        ("MiniMaxConfig", "q_proj qkv_proj v_proj"),  # full and linear attention
    ],
)
def test_query_and_value_modules(tmp_path, config, targets):
    config = getattr(transformers, config)()
    config.num_hidden_layers = 2
    config.layer_types = getattr(config, "layer_types", None) and config.layer_types[:2]
    config.save_pretrained(tmp_path)
    assert lora_targets.query_and_value_modules(tmp_path) == targets.split()


def test_no_query_and_value_modules(tmp_path):
    transformers.MambaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no layer of MambaForCausalLM .*; name .* with --lora_target_modules"):
        lora_targets.query_and_value_modules(tmp_path)


@pytest.mark.parametrize(
    "config, scales",
    [
        ("GraniteConfig", {"logits_scaling": 8.0}),
        ("CohereConfig", {"logit_scale": 2.0}),
        ("Gemma2Config", {"final_logit_softcapping": 2.0}),
        ("PhiConfig", {}),  # whose head has a bias
    ],
)
@pytest.mark.parametrize("spread", [False, True])
def test_logits_are_the_models_own(config, scales, spread, monkeypatch):
    monkeypatch.setattr(parts, "is_spread", lambda model: spread)  # another way to the same numbers
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**GROUPED, **scales, initializer_range=0.3))
    model.eval()
    if config == "PhiConfig":
        torch.nn.init.normal_(model.lm_head.bias)
    parts.check_parts(model, "base")
    hidden_states, head = parts.language_model_parts(model)
    ids = torch.tensor([[3, 14, 15, 92]])
    with torch.no_grad():
        torch.testing.assert_close(head(hidden_states(input_ids=ids)), model(input_ids=ids).logits)


def test_logits_that_are_unknown(tmp_path):
    config = transformers.HyperCLOVAXConfig(**GROUPED, logits_scaling=8.0)  # multiplies where Granite divides
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match="HyperCLOVAXForCausalLM computes logits from hidden states in a way that TLRec"
    ):
        base_models.load_base_model(tmp_path, CPU, torch.float32)


def test_code_that_comes_with_a_model_runs_only_when_asked(run_script, tiny_workspace, tmp_path):
    (tmp_path / "configuration_mine.py").write_text("raise SystemExit('this code has run')")
    auto_map = {"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "configuration_mine.Mine"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto_map}))
    byte_level_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    valid = tiny_workspace / "rec_data" / "movie" / "valid.json"
    flags = ["--base_model", tmp_path, "--test_data_path", valid, "--device", "cpu"]
    status, out, err = run_script("evaluate.py", *flags)
    assert (status, out) == (2, "")
    assert err == f"error: --base_model {tmp_path}: comes with its own code; give --trust_remote_code to run it\n"
    status, _, _ = run_script("evaluate.py", *flags, "--trust_remote_code")
    assert status == "this code has run"
