"""Which run a folder holds, and who may write there: tlrec/runs/same.py, folder.py and locks.py.

1. A finished run is known again by flags, contents of data, start adapter and base model, whatever its paths are called
   and whatever machine computes it; "complete already" names the revision that made it when it is not today's.
2. What differs is named with both values, digests shortened.
3. --overwrite acts once: what a run with --overwrite has made or begun is its own; what was there before is not.
4. A result of someone else, a folder that cannot be written to, and one where another process works or has just worked,
   are refused. A lock ends with its process, however it dies; looking changes nothing.
"""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tlrec.errors import InputError
from tlrec.runs import RunFolder, base_parts, base_said, differences, flags_of, write_run
from tlrec.runs.locks import LOCK, check_unlocked, locked

IDENTITY = {"--seed": 0, "--learning_rate": 3e-4, "train data": "a" * 64, "start adapter": None}
OTHER = IDENTITY | {"--seed": 1}


def finished(folder, identity=IDENTITY, overwrite=False, **facts):
    """An adapter folder with a run.json, but for tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    write_run(folder, "ins_tuning.py", {"overwrite": overwrite}, {}, {}, identity=identity, **facts)
    return folder


def refused(message):
    return pytest.raises(InputError, match=message)


def test_flags_that_change_a_result_and_those_that_do_not():
    recipe = {"seed": 1, "learning_rate": 1e-3, "dtype": "auto", "quantization": "8bit", "share_prefix": True}
    machine = {"device": "cuda", "micro_batch_size": 8, "gradient_checkpointing": True, "torch_compile": True}
    machine |= {"attention": "eager", "report_to": ["wandb"], "trust_remote_code": True, "token_budget": 9}
    places = {"output_dir": "/a", "train_data_path": "/b", "base_model": "c", "resume_from_checkpoint": "d"}
    rest = {"resume": True, "check_only": False, "overwrite": True, "prompt_frame": "alpaca", "lora_weights": ["e"]}
    assert flags_of(recipe | machine | places | rest) == {f"--{name}": value for name, value in recipe.items()}


def test_differences_name_both_values():
    assert differences(IDENTITY, dict(reversed(IDENTITY.items()))) == []
    other = OTHER | {"train data": "b" * 64, "start adapter": "c" * 64, "--new": 2}
    said = ["--seed 0, not 1", "train data aaaaaaaaaaaa, not bbbbbbbbbbbb", "start adapter None, not cccccccccccc"]
    assert differences(IDENTITY, other) == [*said, "--new None, not 2"]
    assert differences({"text": "a\nb" * 99}, {}) == [f"text {('a b' * 99)[:77]}..., not None"]
    one, other = ({"config": "c", "tokenizer": "t", "weights": weights} for weights in "vw")
    assert differences(base_parts(one), base_parts(other)) == ["weights of the base model v, not w"]


def test_a_finished_run_is_known_again(tmp_path, monkeypatch):
    base = {"config": "c", "tokenizer": "t", "weights": "w"}
    folder = finished(tmp_path / "run", base=base, base_model="org/name")
    run = RunFolder(folder, IDENTITY)
    assert run.is_complete() and run.complete_already() == f"complete already: {folder}"
    assert not RunFolder(folder, OTHER).is_complete() and not RunFolder(tmp_path / "never", IDENTITY).is_complete()
    with refused(f"^--output_dir {folder}: holds another run's result: --seed 0, not 1; give --overwrite or ano"):
        RunFolder(folder, OTHER).check_free()
    # a base model by a hub name that is not downloaded here any more
    assert base_said(folder, "org/name") == base and base_said(folder, "org/other") is base_said(tmp_path, "x") is None

    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"git": {"revision": "0123456789abcdef", "dirty": True}}))
    monkeypatch.setattr("tlrec.runs.folder.git_revision", lambda: {"revision": "f" * 40, "dirty": False})
    by = "made by revision 0123456789ab with changes, this is ffffffffffff"
    assert RunFolder(folder, IDENTITY).complete_already() == f"complete already: {folder} ({by})"

    (folder / "metrics.json").write_text(json.dumps({"auc": 0.5, "run": content}))  # an evaluation is a run, too
    (folder / "predictions.jsonl").write_text("")
    files = "metrics.json", "predictions.jsonl"
    assert RunFolder(folder, IDENTITY, False, *files).is_complete()
    with refused("--seed 0, not 1"):
        RunFolder(folder, OTHER, False, *files).check_free()
    (folder / "adapter_config.json").unlink()
    assert not run.is_complete()


def test_overwrite_acts_once(tmp_path):
    before = finished(tmp_path / "before")
    assert not RunFolder(before, IDENTITY, overwrite=True).is_complete()  # the same flags are to be tuned anew
    RunFolder(before, IDENTITY, overwrite=True).check_free()
    own = finished(tmp_path / "own", overwrite=True)
    assert RunFolder(own, IDENTITY, overwrite=True).is_complete() and RunFolder(own, IDENTITY).is_complete()

    plain, overwriting = RunFolder(tmp_path, IDENTITY), RunFolder(tmp_path, IDENTITY, overwrite=True)
    assert not plain.was_stopped()
    plain.begin()
    assert plain.was_stopped() and not overwriting.was_stopped()
    (tmp_path / "checkpoints" / "left").write_text("by the run before")
    overwriting.begin()
    assert overwriting.was_stopped() and not (tmp_path / "checkpoints" / "left").exists()
    assert not RunFolder(tmp_path, OTHER, overwrite=True).was_stopped()
    with refused("another run was stopped there: --seed 0, not 1; give the same, or --over"):
        RunFolder(tmp_path, OTHER).was_stopped()


def test_what_stands_in_the_way(tmp_path):
    adapter = tmp_path / "theirs"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with refused("holds another run's result; give --overwrite or another folder"):
        RunFolder(adapter, IDENTITY).check_free()
    RunFolder(adapter, IDENTITY, overwrite=True).check_free()
    (adapter / "checkpoints").mkdir()  # a run of ours, stopped between its adapter and its run.json
    RunFolder(adapter, IDENTITY).check_free()
    finished(adapter, OTHER)  # a complete one, whose replacement was stopped
    with refused("--seed 1, not 0"):
        RunFolder(adapter, IDENTITY).check_free()
    (tmp_path / "file").write_text("")
    with refused("cannot be written to: Not a directory|cannot be written to: File exists"):
        RunFolder(tmp_path / "file", IDENTITY).check_free()


def test_several_processes_look_at_a_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: RunFolder(tmp_path / "run", IDENTITY).check_free(), range(400)))
    assert list((tmp_path / "run").iterdir()) == []


def test_another_process_has_worked_there_in_between(tmp_path):
    run = RunFolder(tmp_path / "run", IDENTITY)
    finished(tmp_path / "run")
    with refused("another process has just worked there; run the same command again"):
        run.locked().__enter__()
    with run.locked(first=False):
        pass
    with RunFolder(tmp_path / "run", IDENTITY).locked():
        assert (tmp_path / "run" / LOCK).read_text().startswith(f"{os.getpid()} on ")
    assert not (tmp_path / "run" / LOCK).exists()


def test_another_process_works_there_and_dies(holder, tmp_path, monkeypatch):
    monkeypatch.setattr("tlrec.runs.locks.PATIENCE", 0.2)
    run = tmp_path / "run"
    said = re.escape(f"{run}: process {holder.pid} on ") + r"\S+ is writing there; wait for its end, or give another"
    for look in (check_unlocked, lambda folder: locked(folder).__enter__()):
        with refused(said):
            look(run)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (run / LOCK).exists()
    check_unlocked(run)
    with locked(run):
        pass
    assert list(run.iterdir()) == []
    check_unlocked(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
