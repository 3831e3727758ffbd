"""base_model/export_model.py: base and adapter as one model folder.

1. Read by AutoTokenizer and AutoModelForCausalLM alone, the folder has the token ids of tlrec and the log-probabilities of
   base and adapter within 1e-4, also where the base has a bare tokenizer.model or empty special tokens.
2. The weights are those of the base plus scaled B A; nothing of LoRA is left; float32 or bfloat16.
3. prompt_frame.json holds the adapter's frame, answers and BOS, so that a client builds the same prompts.
4. It appears whole or not at all; only an earlier export is replaced, and stays until the new one is complete.
5. Scores that changed are an error and leave nothing.
6. Quantised bases, adapters tuned on them, and other mistakes: one line, without torch.
7. The report takes it for no tuner's run.
"""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.support.mistakes import assert_mistakes
from tests.support.models import write_tokenizer
from tests.support.plain import log_p
from tests.support.tuned import snapshot
from tlrec.data.records import read_records
from tlrec.files import write_json
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame
from tlrec.report.collect import collect
from tlrec.runs import read_run, write_run
from tlrec.scoring.records import Scorer

CPU = torch.device("cpu")
SCRIPT = "base_model/export_model.py"


@pytest.fixture(scope="module")
def test_data(tiny_workspace):
    return tiny_workspace / "rec_data" / "movie" / "test.json"


@pytest.fixture(scope="module")
def export(run_script, tiny_llama, tiny_adapter):
    """export_model.py on the tiny model; returns (exit status, standard output, standard error)."""

    def run(output_dir, *flags, base=tiny_llama, adapter=tiny_adapter):
        flags = ["--base_model", base, "--lora_weights", adapter, "--output_dir", output_dir, "--device", "cpu", *flags]
        return run_script(SCRIPT, *flags)

    return run


@pytest.fixture(scope="module")
def exported(export, test_data, tmp_path_factory):
    """(folder, standard output) of a float32 export checked on the test file. Read only."""
    folder = tmp_path_factory.mktemp("exports") / "deep" / "tiny movie"
    status, out, err = export(folder, "--check_data_path", test_data)
    assert status == 0, err
    return folder, out


@pytest.mark.parametrize("special_tokens", ["good", "empty", "absent"])
def test_the_folder_alone_gives_the_same_scores(
    export, exported, tiny_llama, tiny_adapter, test_data, pieces, tmp_path, special_tokens
):
    folder = exported[0]
    if special_tokens != "good":
        base = shutil.copytree(tiny_llama, tmp_path / "base")
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            (base / name).unlink()
        write_tokenizer(base, special_tokens)
        folder = tmp_path / "exported"
        assert export(folder, base=base)[0] == 0
    records, frame = read_records(test_data), load_frame("alpaca")
    base = base_models.load_base_model(tiny_llama, CPU, torch.float32)
    scorer = Scorer(base_models.load_tokenizer(tiny_llama), records, frame, 512)
    untuned = log_p(scorer.score(base))
    tuned = log_p(scorer.score(adapters.attach_adapter(base, tiny_adapter), merge=False))
    assert abs(tuned - untuned).max() > 0.1  # the adapter matters

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    again = Scorer(tokenizer, records, frame, 512)
    assert again.rows == scorer.rows and again.answer_ids == scorer.answer_ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    for record, ids, expected in zip(records, scorer.rows, tuned):
        prompt = frame.prompt(record)
        assert tokenizer(prompt)["input_ids"] == ids == [1, *pieces.encode(prompt)]  # text alone is understood too
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        np.testing.assert_allclose(logits.log_softmax(-1)[list(scorer.answer_ids)].numpy(), expected, atol=1e-4)


def test_the_weights_are_base_plus_adapter(exported, tiny_llama, tiny_adapter):
    merged, base = (load_file(folder / "model.safetensors") for folder in (exported[0], tiny_llama))
    adapter = load_file(tiny_adapter / "adapter_model.safetensors")
    assert set(merged) == set(base)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed == {f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (0, 1) for p in "qv"}
    for name in changed:
        a, b = (adapter[f"base_model.model.{name.removesuffix('weight')}lora_{letter}.weight"] for letter in "AB")
        torch.testing.assert_close(merged[name], base[name] + 16 / 8 * b @ a)


def test_files_and_what_is_said(exported, tiny_llama, tiny_adapter, test_data, pieces):
    folder, out = exported
    names = "config generation_config model prompt_frame run tokenizer tokenizer_config".split()
    assert sorted(path.stem for path in folder.iterdir()) == names
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert json.loads((folder / "prompt_frame.json").read_text()) == {
        **asdict(load_frame("alpaca")),
        "cutoff_len": 512,
        "bos_ids": [1],
        "answers": ["Yes.", "No."],
        "answer_ids": [pieces.piece_to_id("Yes"), pieces.piece_to_id("No")],
    }
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["do_sample"]) == (1, [2], False)
    workspace = collect(folder.parent)
    assert (workspace.tunings, workspace.problems) == ([], [])
    run = read_run(folder)
    assert run["script"] == "export_model.py" and run["adapter"]["path"] == str(tiny_adapter)
    assert (run["base_model"], run["frame"], run["dtype"]) == (str(tiny_llama), "alpaca", "float32")
    assert run["data"]["check"]["rows"] == run["results"]["rows"] == 24
    assert run["results"]["largest_difference"] <= run["results"]["tolerance"] == 1e-4
    shown = f"{run['results']['largest_difference']:.2g}"
    assert f"\nlargest difference of a log-probability on 24 rows: {shown} (allowed: 0.0001)\n" in out


def test_bfloat16_and_the_frame_of_the_adapter(export, tiny_adapter, tmp_path):
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    write_run(adapter, "rec_tuning.py", {"quantization": "none"}, {}, {}, scoring={"frame": "tallrec"})
    status, out, err = export(tmp_path / "half", "--dtype", "bfloat16", adapter=adapter)
    assert status == 0, err
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "half" / "prompt_frame.json").read_text())["name"] == "tallrec"
    assert 1e-4 < read_run(tmp_path / "half")["results"]["largest_difference"] < 0.5
    assert "on 32 made-up rows: " in out and out.endswith("(allowed: 0.5)\n")


def test_whole_or_not_at_all(export, exported, tiny_adapter, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "movie")
    before = snapshot(tmp_path)
    held = f"error: --output_dir {folder}: holds an exported model; give --overwrite or another folder\n"
    assert export(folder) == (2, "", held)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", full)
        for output_dir in (folder, tmp_path / "other"):
            status, _, err = export(output_dir, "--overwrite")
            line = "error: writing: No space left on device; finished work has been kept"
            assert status == 2 and err.splitlines()[-1] == line
            assert snapshot(tmp_path) == before
    assert export(folder, "--overwrite", "--dtype", "bfloat16")[0] == 0
    assert read_run(folder)["dtype"] == "bfloat16" and [path.name for path in tmp_path.iterdir()] == ["movie"]


@pytest.mark.parametrize("dtype, noise", [("float32", 0.002), ("bfloat16", 1.0)])
def test_changed_scores_are_an_error(export, tiny_llama, tmp_path, monkeypatch, dtype, noise):
    def load(path, *arguments, original=base_models.load_base_model):
        model = original(path, *arguments)
        if path != str(tiny_llama):
            with torch.no_grad():
                model.model.layers[0].self_attn.q_proj.weight += noise
        return model

    monkeypatch.setattr(base_models, "load_base_model", load)
    status, out, err = export(tmp_path / "movie", "--dtype", dtype)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    message = err.splitlines()[-1]
    assert message.startswith(f"error: --dtype {dtype}: the merged model's log-probabilities differ by up to ")
    assert message.endswith("nothing was written" + ("; give --dtype float32" if dtype == "bfloat16" else ""))


def test_mistakes_are_one_line_without_torch(tiny_llama, tiny_adapter, tmp_path):
    def case(message, *more, **changes):
        flags = {"base_model": tiny_llama, "lora_weights": tiny_adapter, "output_dir": tmp_path / "out"} | changes
        return [*(word for name, value in flags.items() for word in (f"--{name}", value)), *more], message

    quantized = shutil.copytree(tiny_llama, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    write_json(quantized / "config.json", config | {"quantization_config": {"quant_method": "gptq"}})
    on_4bit = shutil.copytree(tiny_adapter, tmp_path / "on 4bit")
    write_run(on_4bit, "rec_tuning.py", {"quantization": "4bit"}, {}, {})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    held = "holds files that this script did not write; give another folder"
    cases = [
        case(f"--base_model {quantized}: is quantised, and what an adapter adds to such weights", base_model=quantized),
        case(f"--lora_weights {on_4bit}: was tuned on a base in 4bit; merged into whole", lora_weights=on_4bit),
        case(f"--base_model {tmp_path / 'no'}: no such folder", base_model=tmp_path / "no"),
        case(f"--output_dir {foreign}: {held}", output_dir=foreign),
        case(f"--output_dir {tiny_llama}: {held}", "--overwrite", output_dir=tiny_llama),
        case(f"--output_dir {foreign}/thesis.txt: {held}", "--overwrite", output_dir=foreign / "thesis.txt"),
        case(f"--output_dir {foreign}/thesis.txt/x: cannot be written to: ", output_dir=foreign / "thesis.txt" / "x"),
    ]
    before = snapshot(tmp_path)
    assert_mistakes(SCRIPT, cases)
    assert snapshot(tmp_path) == before
