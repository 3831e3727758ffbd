"""shell/ablation.sh, and what it asks of zero_shot.sh and few_shot.sh.

1. The base model and every curriculum, each zero-shot and few-shot with all shots and seeds; the report comes last.
2. Each adapter starts from the one before; shared beginnings share their folders.
3. With a general adapter everything is done twice, without and with it, in folders of their own.
4. What is missing is one line before any work; an error stops everything.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Stands for Python: notes its arguments and makes the adapter that was asked for.
STUB = """#!/usr/bin/env bash
printf '%s\\0' "$@" "--END--" >> "$LAUNCH_LOG"
[ -z "${FAIL_AT-}" ] || case "$*" in *"$FAIL_AT"*) echo "error: as asked" >&2; exit 2 ;; esac
while [ $# -gt 0 ]; do
  [ "$1" != --output_dir ] || { mkdir -p "$2" && echo '{}' > "$2/adapter_config.json"; }
  shift
done
"""
FILES = (
    "base_model/llama-7b/config.json",
    "instruction_data/netflix/train.json",
    *(f"cot_data/{name}.json" for name in ("stage1", "stage12", "stage123")),
    *(f"rec_data/movie/{split}.json" for split in ("train", "valid", "test")),
)


@pytest.fixture
def workspace(tmp_path):
    """A root with empty data files, below a path with a space."""
    root = tmp_path / "a root"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


@pytest.fixture
def ablation(workspace, tmp_path):
    """ablation(*arguments, **environment) -> (process, [(script, parsed arguments or words)] of what it started)."""
    stub, log = tmp_path / "my python", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(*arguments, **environment):
        log.write_text("")
        known = {"PATH": os.environ["PATH"], "ROOT_PATH": str(workspace), "PYTHON": str(stub), "LAUNCH_LOG": str(log)}
        command = ["bash", str(REPOSITORY / "shell" / "ablation.sh"), *arguments]
        process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=known | environment)
        commands = [command.split("\0") for command in log.read_text().split("\0--END--\0")[:-1]]
        return process, [parsed(*command) for command in commands]

    return run


def parsed(path, *words):
    """("ins_tuning.py", what the script makes of its flags), or (path, words) of another program."""
    if not path.endswith(".py"):
        return path, list(words)
    spec = importlib.util.spec_from_file_location("script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *words])
        return Path(path).name, module.parse_arguments()


def steps(commands, root):
    """Each command in short: "stage: start -> adapter", "few-shot: start -> folder" or "zero-shot: adapter -> folder"."""

    def short(path):
        return str(Path(path).relative_to(root)).replace("_model/movie", "") if path else "-"

    for script, flags in commands:
        if script == "-m":
            yield " ".join(flags[:1])
        elif script == "evaluate.py":
            yield f"zero-shot: {short((flags.lora_weights or [None])[0])} -> {short(flags.output_dir)}"
        else:
            yield f"{flags.stage}: {short(flags.resume_from_checkpoint)} -> {short(flags.output_dir)}"


def expected(name, general="-"):
    """The steps of all curricula whose folders begin with `name`."""
    i, o = f"instruction/{name}", f"output/{name}"
    alone = "output/base" if general == "-" else "output/alpaca"
    return [
        f"zero-shot: {general} -> {alone}",
        f"few-shot: {general} -> {alone}",
        f"cot: {general} -> {i}_stage123",
        f"zero-shot: {i}_stage123 -> -",
        f"few-shot: {i}_stage123 -> {o}_stage123",
        f"source: {general} -> {i}_instrument",
        f"zero-shot: {i}_instrument -> -",
        f"few-shot: {i}_instrument -> {o}_instrument",
        f"cot: {general} -> {i}_stage123",
        f"source: {i}_stage123 -> {i}_stage123_instrument",
        f"zero-shot: {i}_stage123_instrument -> -",
        f"few-shot: {i}_stage123_instrument -> {o}_stage123_instrument",
        f"stage1: {general} -> {i}_stage1",
        f"stage12: {i}_stage1 -> {i}_stage1_stage12",
        f"cot: {i}_stage1_stage12 -> {i}_stage1_stage12_stage123",
        f"source: {i}_stage1_stage12_stage123 -> {i}_stage1_stage12_stage123_instrument",
        f"zero-shot: {i}_stage1_stage12_stage123_instrument -> -",
        f"few-shot: {i}_stage1_stage12_stage123_instrument -> {o}_stage1_stage12_stage123_instrument",
    ]


def test_all_curricula(ablation, workspace):
    process, commands = ablation("cpu", "movie", "netflix", "--batch_size", "64")
    assert (process.returncode, process.stderr) == (0, "")
    assert list(steps(commands, workspace)) == [*expected("alpaca"), "tlrec.report"]
    assert commands[-1][1][1:] == [str(workspace)]
    trained_on = {"cot": "cot_data/stage123.json", "source": "instruction_data/netflix/train.json"}
    trained_on |= {stage: f"cot_data/{stage}.json" for stage in ("stage1", "stage12")}
    for script, flags in commands[:-1]:
        assert (flags.device, flags.target, flags.base_model) == ("cpu", "movie", f"{workspace}/base_model/llama-7b/")
        if script == "ins_tuning.py":
            assert (flags.train_data_path, flags.source) == (str(workspace / trained_on[flags.stage]), "netflix")
            assert flags.val_data_path == str(workspace / "rec_data/movie/valid.json")
        else:
            assert flags.test_data_path == str(workspace / "rec_data/movie/test.json")
            assert flags.train_data_path == str(workspace / "rec_data/movie/train.json")
        if script == "rec_tuning.py":
            assert (flags.sample, flags.seed) == ([16, 64, 256], [0, 1, 2])
        if script != "evaluate.py":
            assert flags.batch_size == 64


def test_with_a_general_adapter(ablation, workspace):
    general = workspace / "instruction_model" / "movie" / "alpaca"
    general.mkdir(parents=True)
    (general / "adapter_config.json").write_text("{}")
    process, commands = ablation("1", "movie", "netflix", SHOTS="8", SEEDS="4 5", STAGES="source")
    assert (process.returncode, process.stderr) == (0, "")
    with_it = expected("alpaca", "instruction/alpaca")
    assert list(steps(commands, workspace)) == [*expected("fresh"), *with_it, "tlrec.report"]
    few = [flags for script, flags in commands if script == "rec_tuning.py"]
    assert len(few) == 10 and all((flags.sample, flags.seed) == ([8], [4, 5]) for flags in few)
    assert {flags.device for script, flags in commands if script != "-m"} == {"cuda"}


@pytest.mark.parametrize("general, names", [("none", ["fresh"]), ("my adapter", ["fresh", "my adapter"])])
def test_some_curricula_and_another_adapter(ablation, workspace, tmp_path, general, names):
    for folder in (workspace / "instruction_model" / "movie" / "alpaca", workspace / "my adapter"):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    adapter = general if general == "none" else str(workspace / general)
    process, commands = ablation("cpu", "movie", "netflix", CURRICULA=" source ,", GENERAL_ADAPTER=adapter)
    assert (process.returncode, process.stderr) == (0, "")
    wanted = []
    for name in names:
        i = f"instruction/{name}_instrument"
        start = "-" if name == "fresh" else name
        wanted += [f"source: {start} -> {i}", f"zero-shot: {i} -> -", f"few-shot: {i} -> output/{name}_instrument"]
    assert list(steps(commands, workspace)) == [*wanted, "tlrec.report"]


def test_a_mistake_inside_stops_everything(ablation, workspace):
    process, commands = ablation("cpu", "movie", "netflix", FAIL_AT="--stage source")
    assert (process.returncode, process.stderr) == (2, "error: as asked\n")
    assert list(steps(commands, workspace)) == expected("alpaca")[:6]


@pytest.mark.parametrize(
    "environment, missing, message",
    [
        (
            {},
            "cot_data/stage1.json",
            "no staged CoT data at {root}/cot_data/stage1.json; python "
            "cot_data/preprocess_data.py --curriculum makes it",
        ),
        ({}, "cot_data/stage123.json", "no chain-of-thought data at {root}/cot_data/stage123.json; "),
        ({}, "instruction_data/netflix/train.json", "no source data at {root}/instruction_data/netflix/train.json; "),
        ({}, "rec_data/movie/valid.json", "no valid data at {root}/rec_data/movie/valid.json; "),
        ({"BASE_MODEL": "/no/model"}, None, "no base model at /no/model; "),
        (
            {"GENERAL_ADAPTER": "/no/adapter"},
            None,
            "no general adapter at /no/adapter/adapter_config.json; GENERAL_ADAPTER=none goes without one",
        ),
        (
            {"EXP_NAME": "mine"},
            None,
            "EXP_NAME 'mine': it names one experiment, but an ablation runs many; unset EXP_NAME",
        ),
        ({"SHOTS": "few"}, None, "SHOTS 'few': give whole numbers of -1 or more"),
        ({"CURRICULA": "base, sauce"}, None, "STAGES 'sauce': stages are cot and source, and stage1 and stage12 of "),
    ],
    ids=str,
)
def test_what_is_missing_is_one_line(ablation, workspace, environment, missing, message):
    if missing:
        (workspace / missing).unlink()
    process, commands = ablation("cpu", "movie", "netflix", **environment)
    assert (process.returncode, process.stdout, commands) == (2, "", [])
    assert process.stderr.startswith("error: " + message.format(root=workspace))
    assert process.stderr.count("\n") == 1


def test_flags_of_the_launcher_are_refused_before_any_run(ablation):
    process, commands = ablation("cpu", "movie", "netflix", "--seed", "3")
    assert (process.returncode, commands) == (2, [])
    assert process.stderr == "error: --seed: this launcher sets it; give SEEDS instead\n"


def test_usage(ablation):
    process, _ = ablation("cpu", "movie")
    assert process.returncode == 2
    assert process.stderr.startswith("error: usage: bash shell/ablation.sh GPU TARGET SOURCE")
