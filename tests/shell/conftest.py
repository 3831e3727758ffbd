"""A workspace of empty files, and launchers with a stub for Python that notes what it is asked."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import REPOSITORY

# Stands for Python: notes its arguments and makes the adapter, or the teacher's address, that was asked for.
STUB = """
printf '%s\\0' "GPU=${CUDA_VISIBLE_DEVICES-unset}" "$@" "--END--" >> "$LAUNCH_LOG"
[ -z "${FAIL_AT-}" ] || case "$*" in *"$FAIL_AT"*) echo "error: as asked" >&2; exit 2 ;; esac
[ "$2" != tlrec.demo.teacher ] || { echo http://nowhere > "$4"; exec sleep 20; }
while [ $# -gt 0 ]; do
  [ "$1" != --output_dir ] || { mkdir -p "$2" && echo '{}' | tee "$2/run.json" > "$2/adapter_config.json"; }
  shift
done
"""
FILES = ["base_model/llama-7b/config.json", *(f"cot_data/{name}.json" for name in ("stage1", "stage12", "stage123"))]
FILES += [
    f"instruction_data/{name}/{split}.json" for name in ("netflix", "amazon-book") for split in ("train", "valid")
]
FILES += [f"rec_data/{name}/{split}.json" for name in ("movie", "book") for split in ("train", "valid", "test")]


def program(path, text):
    """An executable file of bash; returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return str(path)


def make_adapter(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path):
    """ROOT_PATH of a workspace with empty data files, below a path with a space."""
    folder = tmp_path / "a root"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


@pytest.fixture
def launch(root, tmp_path):
    """launch("zero_shot.sh", *arguments, **environment) -> CompletedProcess with `commands`: for each call of Python a
    namespace of `script` (its name), `flags` (what the script makes of them, which must know them all), `words` and `gpu`;
    and `steps`, each command in short. Called from a folder of its own, where nothing may be left; ends with `status`."""
    elsewhere, log = tmp_path / "some where", tmp_path / "log"
    elsewhere.mkdir()
    known = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    known |= {"ROOT_PATH": str(root), "PYTHON": program(tmp_path / "my python", STUB), "LAUNCH_LOG": str(log)}

    def run(script, *arguments, status=0, **environment):
        log.write_text("")
        command = ["bash", str(REPOSITORY / "shell" / script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=known | environment)
        assert (done.returncode, list(elsewhere.iterdir())) == (status, []), done.stderr
        calls = (call.split("\0") for call in log.read_text().split("\0--END--\0")[:-1])
        done.commands = [called(gpu.removeprefix("GPU="), *words) for gpu, *words in calls]
        done.steps = [step(command, f"{root}/") for command in done.commands]
        return done

    return run


@pytest.fixture
def refused(launch, root):
    """refused(message, "zero_shot.sh", ...): the launcher ends in this one line, before any work."""

    def check(message, *words, **environment):
        done = launch(*words, status=2, **environment)
        assert (done.stdout, done.commands, done.stderr.count("\n")) == ("", [], 1), done.stderr
        assert done.stderr.startswith(f"error: {message.format(root=root)}"), done.stderr

    return check


def called(gpu, path, *words):
    call = SimpleNamespace(script=words[0], flags=None, words=list(words), gpu=gpu)
    if path.endswith(".py"):
        spec = importlib.util.spec_from_file_location("script", REPOSITORY / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [path, *words])
            call.script, call.flags = Path(path).name, module.parse_arguments()
    return call


def step(command, root):
    """ "stage: start -> adapter", "few-shot: start -> folder", "zero-shot: adapter -> folder" or the name of the script."""
    flags = command.flags
    if command.script in ("ins_tuning.py", "rec_tuning.py"):
        what, start = flags.stage, flags.resume_from_checkpoint
    elif command.script == "evaluate.py":
        what, start = "zero-shot", " ".join(flags.lora_weights)
    else:
        return command.script
    return f"{what}: {start or '-'} -> {flags.output_dir or '-'}".replace(root, "").replace("_model/", "/")
