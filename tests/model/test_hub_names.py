"""An adapter by its name on the Hugging Face hub, from a cache that is filled beforehand: there is no network in tests.

1. Every way of use takes the name; a tuner starts from exactly these tensors.
2. Results never go into the cache: they are printed, or written where --output_dir says.
3. A name that cannot be fetched is one line. A folder of that name here is a folder.
"""

import json
import shutil

import pytest

from tlrec.model.folders import adapter_folder

NAME = "some.one/lora_1"


@pytest.fixture
def cached(tiny_adapter, tmp_path, monkeypatch):
    """The folder of `some.one/lora_1` in a cache of huggingface_hub of its own, where nothing can be fetched."""
    repository = tmp_path / "cache" / "models--some.one--lora_1"
    folder = repository / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_adapter, folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def test_evaluation(cached, run_script, tiny_llama, tiny_workspace, tmp_path):
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    command = ["evaluate.py", "--base_model", tiny_llama, "--device", "cpu", "--test_data_path", test]
    command += ["--lora_weights", NAME]
    status, out, err = run_script(*command)
    assert status == 0, err
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    status, again, err = run_script(*command, "--output_dir", tmp_path / "scores")
    assert status == 0, err
    auc = json.loads((tmp_path / "scores" / "metrics.json").read_text())["auc"]
    assert f"===== auc: {auc} =====\n" in out and f"===== auc: {auc} =====\n" in again


def test_a_start_adapter(cached, run_script, tiny_llama, tiny_workspace, tmp_path):
    data = tiny_workspace / "rec_data" / "movie"
    status, out, err = run_script(
        *("rec_tuning.py", "--base_model", tiny_llama, "--device", "cpu", "--resume_from_checkpoint", NAME),
        *("--train_data_path", data / "train.json", "--val_data_path", data / "valid.json", "--sample", 4),
        *("--output_dir", tmp_path / "tuned", "--num_epochs", 1, "--warmup_steps", 0),
    )
    assert status == 0, err
    assert f"start adapter: {cached}, 8 tensors loaded and compared\n" in out


def test_what_cannot_be_fetched_is_one_line(cached, run_script, tiny_llama, tiny_workspace, tmp_path):
    test = tiny_workspace / "rec_data" / "movie" / "test.json"
    command = ["evaluate.py", "--base_model", tiny_llama, "--test_data_path", test, "--lora_weights", "no/such"]
    status, out, err = run_script(*command)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: --lora_weights no/such: no such folder here, and it cannot be fetched from the hub: ")
    (tmp_path / "no").mkdir()
    assert adapter_folder("no/such", "--lora_weights") == "no/such"
    status, out, err = run_script(*command)
    assert err == "error: --lora_weights no/such: no such adapter folder\n"
