"""shell/real_results.sh: every source with every target, by the launchers alone.

1. The commands, in order: zero-shot from none and from a source, shots on each, all rows in one pass, the report.
2. One source stage for all targets.
3. What is missing is one line before any work.
"""

import os
import subprocess

import pytest

from tests.conftest import REPOSITORY

# Stands for Python: notes its arguments and makes the adapter that was asked for.
STUB = """#!/usr/bin/env bash
echo "$*" >> "$LAUNCH_LOG"
while [ $# -gt 0 ]; do
  [ "$1" != --output_dir ] || { mkdir -p "$2" && echo '{}' > "$2/adapter_config.json"; }
  shift
done
"""


@pytest.fixture
def real_results(tmp_path):
    """real_results(*arguments, **environment): (the process, the commands that it started) with a stub for Python."""
    root, python, log = tmp_path / "work space", tmp_path / "python", tmp_path / "log"
    python.write_text(STUB)
    python.chmod(0o755)
    for path in ("instruction_data/netflix", "rec_data/movie", "rec_data/games"):
        (root / path).mkdir(parents=True)
        for split in ("train", "valid", "test"):
            (root / path / f"{split}.json").write_text("[]")
    (tmp_path / "model").mkdir()

    def run(*arguments, **environment):
        given = {"PYTHON": str(python), "ROOT_PATH": str(root), "BASE_MODEL": str(tmp_path / "model")}
        own = {key: value for key, value in os.environ.items() if key not in ("STAGES", "RECIPE", "SEEDS", "SHOTS")}
        log.write_text("")
        done = subprocess.run(
            ["bash", REPOSITORY / "shell" / "real_results.sh", *arguments],
            env=own | given | {"TARGETS": "movie", "SOURCES": "none netflix", "LAUNCH_LOG": str(log)} | environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done, log.read_text().replace(f"{REPOSITORY}/", "").replace(str(root), "ROOT").splitlines()

    return run


def test_the_commands(real_results):
    done, commands = real_results("cpu", SEEDS="0 1")
    assert done.returncode == 0, done.stderr
    untuned, shots_alone, all_alone, source, zero_shot, shots, all_rows, report = commands
    assert untuned.startswith("evaluate.py") and "--output_dir ROOT/output_model/movie/small_from_none " in untuned
    assert "--lora_weights" not in untuned and "--resume_from_checkpoint" not in shots_alone
    small = "--lora_target_modules all-linear --lora_dropout 0 --batch_size 16"
    for command, name in ((shots_alone, "none"), (shots, "netflix")):
        assert f"--output_dir ROOT/output_model/movie/small_from_{name} --sample 16 64 256 --seed 0 1 " in command
        assert small in command and command.endswith("--max_val_samples 200")
    for command, name in ((all_alone, "none"), (all_rows, "netflix")):
        assert f"--output_dir ROOT/output_model/movie/small_from_{name} --sample -1 --seed 0 1 " in command
        assert command.endswith("--max_val_samples 200 --num_epochs 1 --eval_steps 50")
    adapter = "ROOT/instruction_model/movie/small_from_netflix"
    assert (
        "--train_data_path ROOT/instruction_data/netflix/train.json" in source and f"--output_dir {adapter} " in source
    )
    assert small in source and source.endswith("--max_val_samples 200 --eval_steps 50")
    assert f"--lora_weights {adapter} " in zero_shot
    assert f"--resume_from_checkpoint {adapter} " in shots and f"--resume_from_checkpoint {adapter} " in all_rows
    assert report.startswith("-m tlrec.report")


def test_the_recipe_names_the_results(real_results):
    _, commands = real_results("cpu", RECIPE="published", SOURCES="netflix", ALL_ROWS="0")
    assert len(commands) == 4 and not [command for command in commands if "all-linear" in command]
    assert "--output_dir ROOT/instruction_model/movie/published_from_netflix " in commands[0]


def test_one_source_stage_for_all_targets(real_results):
    adapter = "ROOT/instruction_model/movie/small_from_netflix"
    _, commands = real_results("cpu", TARGETS="movie games", SOURCES="netflix", ALL_ROWS="0")
    source, _, _, zero_shot, shots, _ = commands
    assert source.startswith("ins_tuning.py")
    assert f"--lora_weights {adapter} --test_data_path ROOT/rec_data/games/test.json" in zero_shot
    assert "--output_dir ROOT/output_model/games/small_from_netflix " in zero_shot
    assert f"--resume_from_checkpoint {adapter} --output_dir ROOT/output_model/games/small_from_netflix" in shots

    _, commands = real_results("cpu", TARGETS="games", TUNED_FOR="movie", SOURCES="netflix", ALL_ROWS="0")
    assert commands == [zero_shot, shots, commands[-1]]  # the adapter is there already


@pytest.mark.parametrize(
    "arguments, environment, message",
    [
        ([], {}, "usage: bash shell/real_results.sh GPU"),
        (["cpu"], {"SOURCES": "none amazon-book"}, "no source data at"),
        (["cpu"], {"TARGETS": "movie book"}, "no train data at"),
    ],
)
def test_what_is_missing(real_results, arguments, environment, message):
    done, commands = real_results(*arguments, **environment)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1 and commands == []
