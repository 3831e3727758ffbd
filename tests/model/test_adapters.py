"""An adapter is more than A and B: whatever its configuration says, it is the function that plain PEFT makes of it on a
freshly loaded base, in every way of use, or it is refused in one line that names the field.

1. Scored alone, scored after another adapter, and ranked with: log-probabilities within rounding.
2. Started from: validation during tuning sees that function, each run of a sweep begins with it, and what is saved is
   that function again under plain PEFT.
3. Exported: the folder is that function.
4. A field that PEFT here does not know, and one that TLRec does not carry out, is refused by its name.
5. Flags that contradict the start adapter are refused; without flags its own configuration goes on.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.support.models import make_family
from tests.support.plain import log_p
from tests.support.tuned import history, predictions
from tlrec.data.preferences import parse_input
from tlrec.errors import InputError
from tlrec.model import adapters, base_models, folders
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.scoring.candidates import score_candidates
from tlrec.scoring.loaded import LoadedModel
from tlrec.scoring.records import score_records

FLOAT32 = {"abs": 1e-5, "rel": 2e-6}  # of log-probabilities, which are sums of float32; those of P are far smaller
QV = ["q_proj", "v_proj"]
# name: (base, fields of LoraConfig). qwen2 ties its output head to the embedding and has biases on q, k and v.
CARRIED_OUT = {
    "plain": ("llama", {}),
    "rsLoRA": ("llama", {"use_rslora": True}),
    "DoRA": ("llama", {"use_dora": True}),
    "PiSSA": ("llama", {"init_lora_weights": "pissa"}),
    "OLoRA": ("llama", {"init_lora_weights": "olora"}),
    "gaussian": ("llama", {"init_lora_weights": "gaussian"}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal"}),
    "EVA": ("llama", {"init_lora_weights": "eva"}),
    "random": ("llama", {"init_lora_weights": False}),
    "biases of LoRA's layers": ("qwen2", {"bias": "lora_only"}),
    "all biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}),
    "bias of B": ("qwen2", {"lora_bias": True}),
    "bias of B, none below": ("llama", {"lora_bias": True}),
    "norm": ("qwen2", {"modules_to_save": ["norm"]}),
    "embedding kept": ("qwen2", {"modules_to_save": ["embed_tokens"]}),
    "head kept": ("llama", {"modules_to_save": ["lm_head"]}),
    "tied head kept": ("qwen2", {"modules_to_save": ["lm_head"]}),
    "alphas": ("llama", {"alpha_pattern": {"q_proj": 3}}),
    "ranks": ("llama", {"rank_pattern": {"v_proj": 2}}),
    "one layer": ("llama", {"layers_to_transform": [1], "layers_pattern": "layers"}),
    "a pattern": ("llama", {"target_modules": r".*layers\.1.*(q|v)_proj"}),
    "all but one": ("llama", {"exclude_modules": ["layers.0.self_attn.q_proj"]}),
    "a parameter": ("llama", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "tokens": ("llama", {"trainable_token_indices": [20, 300, 400]}),
    "tied tokens": ("qwen2", {"trainable_token_indices": [20, 300, 400]}),
    "embedding": ("llama", {"target_modules": [*QV, "embed_tokens"]}),
    "tied embedding": ("qwen2", {"target_modules": [*QV, "embed_tokens"]}),
    "tied embedding, DoRA": ("qwen2", {"target_modules": [*QV, "embed_tokens"], "use_dora": True}),
    "tied head": ("qwen2", {"target_modules": [*QV, "lm_head"]}),
    "tied together": ("qwen2", {"target_modules": [*QV, "embed_tokens", "lm_head"], "ensure_weight_tying": True}),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "Conv1D, not said": ("gpt2", {"target_modules": ["c_attn"]}),
    "Conv1D, PiSSA": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "init_lora_weights": "pissa"}),
    "Conv1D, tied embedding": ("gpt2", {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}),
}
REFUSED = {
    "init_lora_weights": ("mica", "pissa_niter_4"),
    "alora_invocation_tokens": ([5],),
    "loftq_config": ({"loftq_bits": 4},),
    "task_type": ("SEQ_CLS",),
    "peft_type": ("IA3",),
    "use_something_new": (True, "yes", [1]),
    "enable_lora": ([True, False],),  # of 2023
}
QUICK = ("DoRA", "PiSSA", "all biases", "norm", "tied head kept", "a parameter", "tied tokens", "tied embedding")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CARRIED_OUT]
NOT_TUNED = ("head kept", "tied head kept", "tied tokens", "tied head", "tied together")
SWEPT = ("PiSSA", "all biases", "norm", "tied embedding", "tokens", "a parameter")
EXPORTED = ("DoRA", "biases of LoRA's layers", "bias of B", "tied head kept", "tied tokens", "Conv1D, PiSSA")
NOT_MERGED = {
    "target_modules": ("tied head", "Conv1D, tied embedding"),
    "lora_bias": ("bias of B, none below",),
}


@pytest.fixture(scope="module")
def bases(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {"llama": tiny_llama} | {name: make_family(folder / name, name) for name in ("qwen2", "gpt2")}


@pytest.fixture(scope="module")
def made(bases, tmp_path_factory):
    """made(name): (folder of the base, folder of an adapter of that configuration, with everything in it changed)."""
    root, found = tmp_path_factory.mktemp("adapters"), {}

    def make(name):
        base, fields = CARRIED_OUT[name]
        if name not in found:
            torch.manual_seed(1)
            options = {"r": 4, "lora_alpha": 8, "target_modules": QV, "task_type": "CAUSAL_LM"} | fields
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(bases[base]), LoraConfig(**options))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.2 * torch.randn_like(parameter)
            model.save_pretrained(root / name)
            found[name] = root / name
        return bases[base], found[name]

    return make


@pytest.fixture(scope="module")
def records(tiny_workspace):
    return {
        name: json.loads((tiny_workspace / "rec_data" / "movie" / f"{name}.json").read_text())[:6]
        for name in ("valid", "test")
    }


@pytest.fixture(scope="module")
def setups(bases):
    """One for each base: the adapters of the table are scored one after another."""
    return {str(base): LoadedModel(str(base), "cpu", "float32", "none", "auto", False) for base in bases.values()}


def by_plain_peft(base, adapter, records):
    """((n, 2) log-probabilities of Yes and No, mean loss over prompt, answer and EOS) of the adapter, or of the folder
    of a whole model (adapter None), row by row, unmerged, on a freshly loaded base."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    encoder = RecordTokenizer(base_models.load_tokenizer(base), load_frame("alpaca"), 512)
    rows, found, loss, tokens = encoder.prompts(records, with_answers=True), [], 0.0, 0
    for ids, place in zip(rows.input_ids, rows.answer_positions):
        with torch.no_grad():
            every = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found.append(every[place, list(encoder.answer_ids)].numpy())
        loss -= every[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
        tokens += len(ids) - 1
    return np.array(found), loss / tokens


@pytest.mark.parametrize("name", EACH)
def test_scored_after_another(name, made, setups, records):
    base, folder = made(name)
    setup = setups[str(base)]
    folders.check_adapter(folder, "--lora_weights")
    setup.check_adapter(folder)
    model = setup.attach(folder)
    expected, _ = by_plain_peft(base, folder, records["test"])
    frame = load_frame("alpaca")
    for options in ({}, {"merge": False}, {"share_prefix": False}):
        found = log_p(score_records(model, setup.tokenizer, records["test"], frame, **options))
        assert found == pytest.approx(expected, **FLOAT32), options
    requests = [(record, [parse_input(record["input"]).target]) for record in records["test"]]
    ranked = [log_p(found)[0] for found in score_candidates(model, setup.tokenizer, requests, frame)]
    assert np.array(ranked) == pytest.approx(expected, **FLOAT32)


def test_the_base_alone_after_all_of_them(made, setups, records, bases):
    for name in ("PiSSA", "norm", "all biases"):
        base, folder = made(name)
        setup = setups[str(base)]
        setup.attach(folder)
        alone = log_p(score_records(setup.attach(None), setup.tokenizer, records["test"], load_frame("alpaca")))
        assert alone == pytest.approx(by_plain_peft(base, None, records["test"])[0], abs=1e-5)
        assert not any(parameter.requires_grad for parameter in setup.base.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEPT)
def test_a_sweep_starts_from_it(name, made, records, few_shot, tmp_path):
    base, folder = made(name)
    for split in records:
        (tmp_path / f"{split}.json").write_text(json.dumps(records[split]))
    data = ["--val_data_path", tmp_path / "valid.json", "--test_data_path", tmp_path / "test.json"]
    flags = ["--sample", 4, "--seed", 0, 1, "--num_epochs", 1, "--learning_rate", 1e-7, "--dtype", "float32", *data]
    status, _, err = few_shot(tmp_path / "sweep", "--resume_from_checkpoint", folder, *flags, base=base)
    assert status == 0, err
    _, loss = by_plain_peft(base, folder, records["valid"])
    expected, _ = by_plain_peft(base, folder, records["test"])
    for seed in (0, 1):
        run = tmp_path / "sweep" / f"{seed}_4"
        assert history(run)[0]["eval_loss"] == pytest.approx(loss, abs=1e-5)
        found = np.log([[line["p_yes"], line["p_no"]] for line in predictions(run)])
        assert found == pytest.approx(expected, abs=1e-4)  # one step was made
        saved, _ = by_plain_peft(base, run, records["test"])
        assert found == pytest.approx(saved, abs=1e-5)


@pytest.mark.parametrize("name", NOT_TUNED)
def test_a_head_is_not_tuned(name, made):
    base, folder = made(name)
    says = CARRIED_OUT[name][1]
    field = next(field for field in ("modules_to_save", "trainable_token_indices", "target_modules") if field in says)
    with pytest.raises(InputError, match=f"changes the output head, which TLRec does not tune .*{field}: "):
        adapters.check_adapter_on(base, folder, tuned=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXPORTED, *(name for names in NOT_MERGED.values() for name in names)])
def test_exported(name, made, records, run_script, tmp_path):
    base, folder = made(name)
    command = ["export_model.py", "--base_model", base, "--lora_weights", folder, "--output_dir", tmp_path / "whole"]
    status, _, err = run_script(f"base_model/{command[0]}", *command[1:], "--device", "cpu", "--dtype", "float32")
    field = next((field for field, names in NOT_MERGED.items() if name in names), None)
    if field:
        assert status == 2 and f"{folder}: {field}" in err and not (tmp_path / "whole").exists()
    else:
        assert status == 0, err
        expected, _ = by_plain_peft(base, folder, records["test"])
        assert by_plain_peft(tmp_path / "whole", None, records["test"])[0] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("field, value", [(field, value) for field, values in REFUSED.items() for value in values])
def test_what_is_not_carried_out_is_named(field, value, tiny_adapter, tmp_path):
    folder = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(InputError) as error:
        folders.check_adapter(folder, "--lora_weights")
    assert str(error.value).startswith(f"--lora_weights {folder}: ") and "\n" not in str(error.value)
    assert (
        repr(value) in str(error.value) if field == "peft_type" else f"{field} {json.dumps(value)}" in str(error.value)
    )


def test_unknown_fields_that_are_off(tiny_adapter, tmp_path, recwarn):
    folder = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    off = {"enable_lora": None, "merge_weights": False, "use_something_new": False, "new_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(config | off))
    folders.check_adapter(folder, "--lora_weights")
    assert adapters.read_config(folder).r == 8 and not recwarn.list


def test_every_field_of_this_version_of_peft_was_looked_at():
    """A field that a later version brings, and turns on by default, is to be decided on here."""
    defaults = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM").to_dict()
    known = folders.CARRIED_OUT | folders.SAYS_NOTHING | set(folders.MAY_BE)
    assert [
        field for field, value in defaults.items() if field not in known and value not in (None, False, [], {})
    ] == []
    assert set(defaults) >= known - {"runtime_config"}


def test_a_folder_of_a_base_with_an_adapter_in_it(tiny_llama, tiny_adapter, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    shutil.copy(tiny_adapter / "adapter_config.json", folder)
    with pytest.raises(InputError, match="there is an adapter in this folder too"):
        folders.check_base_model(folder)
