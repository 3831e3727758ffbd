"""Which run a folder holds: tlrec/same_run.py.

1. A finished run is known again by flags, contents of data, start adapter and base model, whatever its paths are called.
2. What differs is named with both values.
3. --overwrite acts once: what a run with --overwrite has made or begun is its own; what was there before is not.
4. An old run.json, which does not say what its base model was, goes by the base model's name.
5. A stopped run whose best checkpoint is gone cannot go on.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tlrec.errors import InputError
from tlrec.runs import describe_adapter, describe_data, write_run
from tlrec.same_run import check_output_dir, checkpoint_of, describe, differences, is_complete, write_start

BASE = {"config": "c", "tokenizer": "t", "weights": "w"}
ARGUMENTS = {"learning_rate": 3e-4, "seed": 0, "base_model": "base_model/llama-7b/", "overwrite": False}
ARGUMENTS |= {"output_dir": "elsewhere", "train_data_path": "x", "resume_from_checkpoint": "y"}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"input": "a"}, {"input": "b"}]))
    return {"train": describe_data(path)}


@pytest.fixture
def start(tmp_path):
    return finished(tmp_path / "start", {}, {})


def finished(folder, arguments, data, start=None, base=None):
    """An adapter folder with a run.json, but for tensors."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(folder.name.encode())
    write_run(folder, "ins_tuning.py", arguments, data, {}, start_adapter=describe_adapter(start), base=base)
    return folder


def test_a_finished_run_is_known_again(tmp_path, data, start):
    paths = {"output_dir": "/a", "train_data_path": "/b", "base_model": "/moved/to/there", "resume": True}
    folder = finished(tmp_path / "run", ARGUMENTS | paths, data, start, BASE)
    assert is_complete(folder, describe(ARGUMENTS, data, start, BASE))
    for other, words in (
        (describe({**ARGUMENTS, "learning_rate": 1e-4}, data, start, BASE), ["--learning_rate (0.0003, not 0.0001)"]),
        (describe({**ARGUMENTS, "seed": 1}, data, None, BASE), ["--seed (0, not 1)", "start adapter"]),
        (describe(ARGUMENTS, {"train": {**data["train"], "sha256": "0"}}, start, BASE), ["train data"]),
        (describe(ARGUMENTS, data, start, BASE | {"weights": "v"}), ["weights of the base model"]),
    ):
        assert not is_complete(folder, other)
        assert differences(json.loads((folder / "run.json").read_text()), other) == words
    (folder / "adapter_config.json").unlink()
    assert not is_complete(folder, describe(ARGUMENTS, data, start, BASE))
    assert not is_complete(tmp_path / "never", describe(ARGUMENTS, data, start, BASE))


@pytest.mark.parametrize("written", ["base_model/llama-7b", "/abs/base_model/llama-7b/", "llama-7b"])
def test_an_old_run_goes_by_the_name_of_its_base_model(tmp_path, data, written):
    folder = finished(tmp_path / "run", ARGUMENTS | {"base_model": written}, data)
    assert is_complete(folder, describe(ARGUMENTS, data, None, BASE))
    other = describe(ARGUMENTS | {"base_model": "base_model/llama-13b"}, data, None, BASE)
    found = json.loads((folder / "run.json").read_text())
    assert differences(found, other) == ["--base_model (llama-7b, not llama-13b)"]


def test_several_processes_look_at_a_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: check_output_dir(tmp_path / "run", False), range(400)))
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("on_inputs, weight", [(True, 1.0), (False, 0.0)])
def test_an_old_run_has_the_defaults_of_later_flags(tmp_path, data, on_inputs, weight):
    folder = finished(tmp_path / "run", ARGUMENTS | {"train_on_inputs": on_inputs}, data, None, BASE)
    now = ARGUMENTS | {"prompt_loss_weight": weight, "max_val_samples": -1}
    assert is_complete(folder, describe(now, data, None, BASE))
    assert not is_complete(folder, describe(now | {"prompt_loss_weight": 0.5}, data, None, BASE))
    assert not is_complete(folder, describe(now | {"max_val_samples": 100}, data, None, BASE))


def test_overwrite_acts_once_on_what_is_finished(tmp_path, data):
    wanted = describe(ARGUMENTS | {"overwrite": True}, data, None, BASE)
    before = finished(tmp_path / "before", ARGUMENTS, data, None, BASE)
    assert not is_complete(before, wanted)  # was there before: the same flags are to be tuned anew
    own = finished(tmp_path / "own", ARGUMENTS | {"overwrite": True}, data, None, BASE)
    assert is_complete(own, wanted)
    assert is_complete(own, describe(ARGUMENTS, data, None, BASE))


def checkpoint(folder, step, best):
    path = folder / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_global_step": best}))
    return str(path)


def test_overwrite_acts_once_on_what_was_stopped(tmp_path, data):
    plain = describe(ARGUMENTS, data, None, BASE)
    overwriting = describe(ARGUMENTS | {"overwrite": True}, data, None, BASE)
    last = checkpoint(tmp_path, 2, best=2)
    write_start(tmp_path, plain)
    assert checkpoint_of(tmp_path, plain) == last
    assert checkpoint_of(tmp_path, overwriting) is None
    write_start(tmp_path, overwriting)
    assert checkpoint_of(tmp_path, overwriting) == last
    other = ARGUMENTS | {"seed": 1}
    assert checkpoint_of(tmp_path, describe(other | {"overwrite": True}, data, None, BASE)) is None
    with pytest.raises(InputError, match=r"a run with different --seed \(0, not 1\) was stopped there"):
        checkpoint_of(tmp_path, describe(other, data, None, BASE))


def test_a_best_checkpoint_that_is_gone(tmp_path, data):
    wanted = describe(ARGUMENTS, data, None, BASE)
    write_start(tmp_path, wanted)
    checkpoint(tmp_path, 8, best=2)
    with pytest.raises(
        InputError, match="checkpoint-2, the checkpoint of the best validation, is gone, so the run that"
    ):
        checkpoint_of(tmp_path, wanted)
    checkpoint(tmp_path, 2, best=2)
    assert checkpoint_of(tmp_path, wanted).endswith("checkpoint-8")
