"""run.json: tlrec/runs/record.py and tlrec/runs/scoring.py.

1. It holds the arguments as given, UTC times, revision, versions, digest and rows of the data, facts and results.
2. It appears whole, and the same run gives the same content.
3. An adapter is described with the runs behind it, so the last run.json tells the whole chain.
4. A missing, damaged or foreign file is one line.
5. What shaped an adapter's scores is read from it. A run.json of another format is one line.
6. It never reads the environment.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from tlrec.errors import InputError
from tlrec.files import plain_json
from tlrec.runs import describe_adapter, describe_run, frame_of, read_run, record, scoring_of, write_run


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"input": "a"}, {"input": "b"}]))
    return path


def adapter(folder, train, start=None, **facts):
    """An adapter folder with a run.json, but for tensors."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(folder.name.encode())
    arguments = {"learning_rate": 3e-4, "output_dir": folder, "train_data_path": train, "resume_from_checkpoint": start}
    write_run(folder, "ins_tuning.py", arguments, {"train": train}, {}, start_adapter=describe_adapter(start), **facts)
    return folder


def test_content(tmp_path, train, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-written")
    started = datetime.now(UTC) - timedelta(seconds=90)
    arguments = {"train_data_path": train, "learning_rate": np.float64(3e-4), "sample": (16, 64), "seed": None}
    found = {"auc": float("nan")}
    written = write_run(tmp_path, "rec_tuning.py", arguments, {"train": train}, found, started, shots=16)
    run = read_run(tmp_path)
    assert run == written
    assert run["script"] == "rec_tuning.py" and run["shots"] == 16
    assert run["arguments"] == {"train_data_path": str(train), "learning_rate": 3e-4, "sample": [16, 64], "seed": None}
    digest = hashlib.sha256(train.read_bytes()).hexdigest()
    assert run["data"] == {"train": {"path": str(train), "sha256": digest, "rows": 2}}
    assert run["results"] == {"auc": None}
    assert run["started"] == started.isoformat(timespec="seconds") and run["started"].endswith("+00:00")
    assert 90 <= run["seconds"] <= round((datetime.now(UTC) - started).total_seconds(), 1)
    assert run["versions"]["numpy"] == np.__version__ and run["versions"]["peft"] == metadata.version("peft")
    assert run["git"] is None or set(run["git"]) == {"revision", "dirty"}
    assert "sk-never-written" not in (tmp_path / "run.json").read_text()
    value = {1: (Path("a"), np.int64(3), np.array([1.5, np.inf])), "b": {"c": True}}
    assert plain_json(value) == {"1": ["a", 3, [1.5, None]], "b": {"c": True}}


def test_no_revision_outside_a_checkout(monkeypatch):
    monkeypatch.setattr(record, "__file__", "/nowhere/tlrec/runs/record.py")
    record.git_revision.cache_clear()
    assert describe_run("x.py", {}, {})["git"] is None
    record.git_revision.cache_clear()


def test_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dump", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_run(tmp_path, "x.py", {}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_chain(tmp_path, train):
    cot = adapter(tmp_path / "cot", train, stage="cot")
    source = adapter(tmp_path / "source", train, cot, stage="source", scoring={"frame": "tallrec"})
    described = describe_adapter(source)
    assert (described["path"], described["sha256"]) == (str(source), hashlib.sha256(b"source").hexdigest())
    start = described["run"]["start_adapter"]["run"]
    assert [described["run"]["stage"], start["stage"], start["start_adapter"]] == ["source", "cot", None]
    assert frame_of(source) == "tallrec"
    assert describe_adapter(None) is None and describe_adapter("") is None and frame_of(None) is None
    (tmp_path / "adapter_model.bin").write_bytes(b"of someone else")
    assert describe_adapter(tmp_path)["run"] is None and frame_of(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "run.json: no such file"),
        (b"[1]", "run.json: expected a JSON object, found a list"),
        (b'{"format": 1, "script": "x", "arguments": {}}', "run.json: the key 'started' is missing"),
        (b'{"script": "x", "arguments": {}, "data": {}}', "run.json: is in format None, not 1; make the folder again"),
        (b"\xff\xfe", "run.json: damaged"),
    ],
)
def test_bad_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path)


def test_what_shaped_the_scores(tmp_path):
    assert scoring_of(None, "", tmp_path / "nothing") == {}
    scoring = {"frame": "alpaca", "cutoff_len": 256, "dtype": "bfloat16", "quantization": "none", "attention": "sdpa"}
    write_run(tmp_path / "tuned", "ins_tuning.py", {"cutoff_len": 256, "dtype": "auto"}, {}, {}, scoring=scoring)
    write_run(tmp_path / "base", "import_gguf.py", {"dtype": "float32"}, {}, {})  # how the weights are stored
    assert scoring_of(tmp_path / "base") == {}
    assert scoring_of(None, tmp_path / "base", tmp_path / "tuned") == scoring
    write_run(tmp_path / "served", "export_model.py", {}, {}, {}, scoring={"dtype": "auto", "cutoff_len": 99})
    assert scoring_of(tmp_path / "served") == {"cutoff_len": 99}  # of "auto" nothing is known
