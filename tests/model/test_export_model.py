"""base_model/export_model.py: base and adapter as one model folder.

1. Read by AutoTokenizer and AutoModelForCausalLM alone, the folder has the token ids of tlrec and the log-probabilities of
   base and adapter within 1e-4, also where the base has a bare tokenizer.model or empty special tokens; its weights are
   those of the base plus scaled B A, in float32 or bfloat16; prompt_frame.json holds all that a client builds prompts of.
2. It appears whole or not at all; only an earlier export is replaced, and stays until the new one is complete. Scores that
   changed are an error and leave nothing.
3. Quantised bases, adapters tuned on them, and other mistakes: one line, without torch.
4. The report takes it for no tuner's run.
"""

import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from peft import LoraModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.support.mistakes import assert_mistakes
from tests.support.models import write_tokenizer
from tests.support.plain import plain_log_p
from tests.support.tuned import read, snapshot
from tlrec.data.records import read_records
from tlrec.files import write_json
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame
from tlrec.model.tokenization import RecordTokenizer
from tlrec.report.collect import collect
from tlrec.runs import write_run

SCRIPT = "base_model/export_model.py"


@pytest.fixture(scope="module")
def test_data(tiny_workspace):
    return tiny_workspace / "rec_data" / "movie" / "test.json"


@pytest.fixture(scope="module")
def export(run_script, tiny_llama, tiny_adapter):
    """export_model.py on the tiny model; returns (exit status, standard output, standard error)."""

    def run(output_dir, *flags, base=tiny_llama, adapter=tiny_adapter):
        words = ["--base_model", base, "--lora_weights", adapter, "--output_dir", output_dir, "--device", "cpu", *flags]
        return run_script(SCRIPT, *words)

    return run


@pytest.fixture(scope="module")
def exported(export, test_data, tmp_path_factory):
    """(folder, standard output) of a float32 export checked on the test file. Read only."""
    folder = tmp_path_factory.mktemp("exports") / "deep" / "tiny movie"
    status, out, err = export(folder, "--check_data_path", test_data)
    assert status == 0, err
    return folder, out


@pytest.fixture(scope="module")
def tuned(tiny_llama, tiny_adapter, test_data):
    """(token ids of the test records' prompts, their log-probabilities by base and adapter)."""
    base = base_models.load_base_model(tiny_llama, torch.device("cpu"), torch.float32)
    encoder, records = encoder_of(base_models.load_tokenizer(tiny_llama)), read_records(test_data)
    untuned = plain_log_p(base, encoder, records)
    log_p = plain_log_p(adapters.attach_adapter(base, tiny_adapter), encoder, records)
    assert abs(log_p - untuned).max() > 0.1  # the adapter matters
    return encoder.prompts(records).input_ids, log_p


def encoder_of(tokenizer):
    return RecordTokenizer(tokenizer, load_frame("alpaca"), 512)


@pytest.mark.parametrize("special_tokens", ["good", "empty", "absent"])
def test_the_folder_alone_gives_the_same_scores(
    export, exported, tuned, tiny_llama, test_data, pieces, tmp_path, special_tokens
):
    folder = exported[0]
    if special_tokens != "good":
        base = shutil.copytree(tiny_llama, tmp_path / "base")
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            (base / name).unlink()
        write_tokenizer(base, special_tokens)
        folder = tmp_path / "exported"
        assert export(folder, base=base)[0] == 0
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    records, encoder = read_records(test_data), encoder_of(tokenizer)
    prompts = [encoder.frame.prompt(record) for record in records]
    ids, log_p = tuned
    assert encoder.prompts(records).input_ids == ids == [[1, *pieces.encode(prompt)] for prompt in prompts]
    assert tokenizer(prompts)["input_ids"] == ids  # text alone is understood too
    np.testing.assert_allclose(plain_log_p(model, encoder, records), log_p, atol=1e-4)


def test_the_weights_are_base_plus_adapter(exported, tiny_llama, tiny_adapter):
    merged, base = (load_file(folder / "model.safetensors") for folder in (exported[0], tiny_llama))
    adapter = load_file(tiny_adapter / "adapter_model.safetensors")
    assert set(merged) == set(base)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed == {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (0, 1) for p in "qv"}
    for name in changed:
        a, b = (adapter[f"base_model.model.{name.removesuffix('weight')}lora_{letter}.weight"] for letter in "AB")
        torch.testing.assert_close(merged[name], base[name] + 16 / 8 * b @ a)


def test_files_and_what_is_said(exported, tiny_llama, tiny_adapter, pieces):
    folder, out = exported
    names = "config generation_config model prompt_frame run tokenizer tokenizer_config".split()
    assert sorted(path.stem for path in folder.iterdir()) == names
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    answers = {"answers": ["Yes.", "No."], "answer_ids": [pieces.piece_to_id("Yes"), pieces.piece_to_id("No")]}
    frame = asdict(load_frame("alpaca")) | {"cutoff_len": 512, "bos_ids": [1]} | answers
    assert read(folder, "prompt_frame.json") == frame
    generation = {"bos_token_id": 1, "eos_token_id": [2], "do_sample": False}
    assert read(folder, "generation_config.json").items() >= generation.items()
    assert collect(folder.parent).tunings == collect(folder.parent).problems == []
    run = read(folder)
    made_from = {"base_model": str(tiny_llama), "script": "export_model.py", "frame": "alpaca", "dtype": "float32"}
    assert run.items() >= made_from.items() and run["adapter"]["path"] == str(tiny_adapter)
    difference, rows = run["results"]["largest_difference"], run["results"]["rows"]
    assert difference <= run["results"]["tolerance"] == 1e-4 and run["data"]["check"]["rows"] == rows == 24
    assert f"\nlargest difference of a log-probability on 24 rows: {difference:.2g} (allowed: 0.0001)\n" in out


def test_bfloat16_and_the_frame_of_the_adapter(export, tiny_adapter, tmp_path):
    adapter, half = shutil.copytree(tiny_adapter, tmp_path / "adapter"), tmp_path / "half"
    write_run(adapter, "rec_tuning.py", {"quantization": "none"}, {}, {}, scoring={"frame": "tallrec"})
    status, out, err = export(half, "--dtype", "bfloat16", adapter=adapter)
    assert status == 0, err
    assert {tensor.dtype for tensor in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    assert (read(half, "config.json")["dtype"], read(half, "prompt_frame.json")["name"]) == ("bfloat16", "tallrec")
    assert 1e-4 < read(half)["results"]["largest_difference"] < 0.5
    assert "on 32 made-up rows: " in out and out.endswith("(allowed: 0.5)\n")


def test_whole_or_not_at_all(export, exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "movie")
    before = snapshot(tmp_path)
    held = f"error: --output_dir {folder}: holds an exported model; give --overwrite or another folder\n"
    assert export(folder) == (2, "", held)

    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", full)
        status, _, err = export(folder, "--overwrite")
        line = f"error: {folder}: the disk is full; free some space and run the same command again"
        assert (status, err.splitlines()[-1], snapshot(tmp_path)) == (2, line, before)
    assert export(folder, "--overwrite", "--dtype", "bfloat16")[0] == 0
    assert read(folder)["dtype"] == "bfloat16" and [path.name for path in tmp_path.iterdir()] == ["movie"]


@pytest.mark.parametrize("dtype, noise, hint", [("float32", 0.002, ""), ("bfloat16", 1.0, "; give --dtype float32")])
def test_changed_scores_are_an_error(export, tmp_path, monkeypatch, dtype, noise, hint):
    def wrong(model, original=LoraModel.merge_and_unload):
        merged = original(model)
        with torch.no_grad():
            merged.model.layers[0].self_attn.q_proj.weight += noise
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    status, _, err = export(tmp_path / "movie", "--dtype", dtype)
    message = err.splitlines()[-1]
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert message.startswith(f"error: --dtype {dtype}: the merged model's log-probabilities differ by up to ")
    assert message.endswith(f"nothing was written{hint}")


def test_mistakes_are_one_line_without_torch(tiny_llama, tiny_adapter, tmp_path):
    quantized, on_4bit = shutil.copytree(tiny_llama, tmp_path / "q"), shutil.copytree(tiny_adapter, tmp_path / "4bit")
    config = read(quantized, "config.json") | {"quantization_config": {"quant_method": "gptq"}}
    write_json(quantized / "config.json", config)
    write_run(on_4bit, "rec_tuning.py", {"quantization": "4bit"}, {}, {})
    thesis = tmp_path / "foreign" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    held = "holds files that this script did not write; give another folder"
    before = snapshot(tmp_path)
    known = [
        "--base_model",
        tiny_llama,
        "--lora_weights",
        tiny_adapter,
        "--output_dir",
        tmp_path / "out",
        "--overwrite",
    ]
    cases = [
        ("--base_model", quantized, "is quantised, and what an adapter adds to such weights"),
        ("--lora_weights", on_4bit, "was tuned on a base in 4bit; merged into whole"),
        ("--output_dir", thesis.parent, held),
        ("--output_dir", thesis, held),
        ("--output_dir", thesis / "x", "cannot be written to: "),
    ]
    assert_mistakes(SCRIPT, [([flag, path], f"{flag} {path}: {message}") for flag, path, message in cases], *known)
    assert snapshot(tmp_path) == before
