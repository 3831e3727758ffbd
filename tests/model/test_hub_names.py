"""An adapter by its name on the Hugging Face hub, from a cache that is filled beforehand: there is no network in tests.

1. Evaluation and tuning take the name; a tuner starts from exactly these tensors.
2. Results never go into the cache: they are printed, or written where --output_dir says.
3. A name that cannot be fetched is one line. A folder of that name here is a folder.
"""

import shutil

import pytest

from tests.support.tuned import read, snapshot
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


def test_evaluation(cached, evaluate, tmp_path):
    before = snapshot(tmp_path)
    status, out, err = evaluate(NAME)
    assert status == 0, err
    assert snapshot(tmp_path) == before
    status, again, err = evaluate(NAME, "--output_dir", tmp_path / "scores")
    assert status == 0, err
    auc = read(tmp_path / "scores", "metrics.json")["auc"]
    assert f"===== auc: {auc} =====\n" in out and f"===== auc: {auc} =====\n" in again


def test_a_start_adapter(cached, few_shot, tmp_path):
    status, out, err = few_shot(tmp_path / "tuned", "--resume_from_checkpoint", NAME, "--sample", 4)
    assert status == 0, err
    assert f"start adapter: {cached}, 8 tensors loaded and compared\n" in out


def test_what_cannot_be_fetched_is_one_line(cached, evaluate, tmp_path):
    status, out, err = evaluate("no/such")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: --lora_weights no/such: no such folder here, and it cannot be fetched from the hub: ")
    (tmp_path / "no").mkdir()
    assert adapter_folder("no/such", "--lora_weights") == "no/such"
    status, out, err = evaluate("no/such")
    assert err == "error: --lora_weights no/such: no such adapter folder\n"
