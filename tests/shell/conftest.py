"""A workspace of empty files, and launchers with a stub for Python that notes what it is asked."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import REPOSITORY

# Stands for Python: notes its arguments and makes the adapter, or the teacher's address, that was asked for.
STUB = """#!/usr/bin/env bash
printf '%s\\0' "GPU=${CUDA_VISIBLE_DEVICES-unset}" "$@" "--END--" >> "$LAUNCH_LOG"
[ -z "${FAIL_AT-}" ] || case "$*" in *"$FAIL_AT"*) echo "error: as asked" >&2; exit 2 ;; esac
[ "$2" != tlrec.demo.teacher ] || { echo http://nowhere > "$4"; exec sleep 20; }
while [ $# -gt 0 ]; do
  [ "$1" != --output_dir ] || { mkdir -p "$2" && echo '{}' | tee "$2/run.json" > "$2/adapter_config.json"; }
  shift
done
"""
FILES = (
    "base_model/llama-7b/config.json",
    *(f"cot_data/{name}.json" for name in ("stage1", "stage12", "stage123")),
    *(
        f"instruction_data/{source}/{split}.json"
        for source in ("netflix", "amazon-book")
        for split in ("train", "valid")
    ),
    *(f"rec_data/{target}/{split}.json" for target in ("movie", "book") for split in ("train", "valid", "test")),
)


@pytest.fixture
def root(tmp_path):
    """ROOT_PATH of a workspace with empty data files, below a path with a space."""
    folder = tmp_path / "a root"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def make_adapter(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def launch(root, tmp_path):
    """launch("zero_shot.sh", *arguments, **environment) -> CompletedProcess with `commands`: for each call of Python a
    namespace of `script` (its name), `flags` (what the script makes of them, which must know them all), `words` and `gpu`.
    Called from a folder of its own, where nothing may be left."""
    elsewhere, stub, log = tmp_path / "some where", tmp_path / "my python", tmp_path / "log"
    elsewhere.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(script, *arguments, **environment):
        log.write_text("")
        known = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        known |= {"ROOT_PATH": str(root), "PYTHON": str(stub), "LAUNCH_LOG": str(log)}
        command = ["bash", str(REPOSITORY / "shell" / script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=known | environment)
        assert list(elsewhere.iterdir()) == []
        commands = (command.split("\0") for command in log.read_text().split("\0--END--\0")[:-1])
        done.commands = [called(gpu.removeprefix("GPU="), *words) for gpu, *words in commands]
        return done

    return run


@pytest.fixture
def started(launch):
    """Like `launch`, but returns the commands of a launcher that ends well."""

    def run(*arguments, **environment):
        done = launch(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.commands

    return run


def called(gpu, path, *words):
    is_script = path.endswith(".py")
    return SimpleNamespace(
        script=Path(path).name if is_script else words[0],
        flags=parsed(path, words) if is_script else None,
        words=list(words),
        gpu=gpu,
    )


def parsed(path, words):
    """What the script at `path` makes of its arguments; unknown flags and values end in SystemExit."""
    spec = importlib.util.spec_from_file_location("script", REPOSITORY / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [path, *words])
        return module.parse_arguments()


def refused(done, message):
    """Whether the launcher ended in this one line, before any work."""
    assert (done.returncode, done.stdout, done.commands) == (2, "", [])
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1, done.stderr
