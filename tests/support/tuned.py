"""What the tests of the tuners look at and do: files of a run's folder, and a signal or an end at a chosen moment."""

import json
import os
import signal

from safetensors.torch import load_file

from tlrec.files import sha256
from tlrec.tuning.loss import Collator
from tlrec.tuning.trainer import TuningTrainer


def read(folder, name="run.json"):
    return json.loads((folder / name).read_text())


def history(folder):
    return read(folder)["results"]["history"]


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def digest(folder):
    """Of the adapter's weights."""
    return sha256(folder / "adapter_model.safetensors")


def predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def snapshot(folder):
    """{path: digest} of everything in a folder."""
    return {str(path.relative_to(folder)): path.is_file() and sha256(path) for path in sorted(folder.rglob("*"))}


def furthest(one, other):
    """The largest difference of two adapters' tensors."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def signal_in_batch(monkeypatch, count, number=signal.SIGTERM):
    """Send this process a signal while the Trainer fetches its `count`-th micro-batch."""
    fetched = []

    def fetch(collator, rows, original=Collator.__call__):
        fetched.append(1)
        if len(fetched) == count:
            os.kill(os.getpid(), number)
        return original(collator, rows)

    monkeypatch.setattr(Collator, "__call__", fetch)


def die_behind_checkpoint(monkeypatch, step):
    """End this process's run as Ctrl-C does, right behind the checkpoint of a step."""

    def die(trainer, *arguments, original=TuningTrainer._save_checkpoint):
        original(trainer, *arguments)
        if trainer.state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(TuningTrainer, "_save_checkpoint", die)
