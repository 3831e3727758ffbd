"""The Trainer's checkpoints of a run that has not ended: which is the newest whole one, and which the best."""

import shutil
from pathlib import Path

from tlrec.errors import InputError
from tlrec.files import read_json


def last_checkpoint(folder):
    """The newest complete checkpoint in `folder`, as a string; None if there is none. Raises InputError if the
    checkpoint of the best validation before it is gone.

    The Trainer writes trainer_state.json last, so a checkpoint whose state can be read is complete.
    """
    for path in sorted(Path(folder).glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
        try:
            state = read_json(path / "trainer_state.json")
        except InputError:
            continue
        best = path.with_name(f"checkpoint-{state.get('best_global_step')}")
        if state.get("best_global_step") is not None and not best.exists():
            raise InputError(
                f"{folder}: {best.name}, the checkpoint of the best validation, is gone, so the run that was stopped "
                "there cannot continue; remove that folder to start again"
            )
        return str(path)
    return None


def remove_checkpoints(folder):
    """Remove the checkpoints of a run that is complete. TensorBoard's logs, which are among them in `runs`, are first
    copied beside them."""
    folder = Path(folder)
    if (folder / "runs").exists():
        shutil.copytree(folder / "runs", folder.parent / "runs", dirs_exist_ok=True)
    shutil.rmtree(folder)
