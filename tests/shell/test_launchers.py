"""zero_shot.sh and few_shot.sh, from a foreign folder, with spaces in every path.

1. Both end to end on a tiny workspace; a second call does nothing twice; a stopped stage is resumed.
2. Every command they start: data, the chain of adapters, extra flags, shots and seeds, what is evaluated; every flag exists
   in the script that gets it.
3. GPUs: numbers, UUIDs, several; a run on the CPU sees none.
4. What is missing is one line - what, where, which command makes it - before any work.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from accelerate.commands.launch import launch_command_parser

from tests.conftest import REPOSITORY
from tests.shell.conftest import make_adapter, refused
from tests.support.tuned import snapshot
from tlrec.data.records import write_records
from tlrec.files import sha256
from tlrec.tuning.folder import last_checkpoint

ZERO, FEW = ("zero_shot.sh", "cpu", "movie", "netflix"), ("few_shot.sh", "cpu", "0", "movie")


@pytest.fixture
def workspace(tiny_workspace, tiny_llama, root):
    """The root with real records and a real base model."""
    shutil.rmtree(root)
    shutil.copytree(tiny_workspace, root)
    shutil.copytree(tiny_llama, root / "base_model" / "llama-7b")
    answer = '1. "Night" - "Harbor"\n2. "No"'
    cot = [{"instruction": "Rank.", "input": f"Night {n}", "output": answer} for n in range(6)]
    (root / "cot_data").mkdir()
    write_records(root / "cot_data" / "stage123.json", cot)
    return root


# --------------------------------------------------------------------------------------------------------- end to end

QUICK = ["--num_epochs", 1, "--batch_size", 8, "--micro_batch_size", 8, "--warmup_steps", 0]


@pytest.mark.slow
def test_both_end_to_end_and_twice(launch, workspace):
    real = {"PYTHON": sys.executable}
    first = launch(*ZERO, *QUICK, **real)
    assert first.returncode == 0, first.stderr
    adapters = workspace / "instruction_model" / "movie"
    tuned = {"adapter_config.json", "adapter_model.safetensors", "prompt_frame.json", "run.json"}
    scored = tuned | {"metrics.json", "predictions.jsonl"}
    files = {folder.name: {path.name for path in folder.iterdir()} for folder in adapters.iterdir()}
    assert files == {"alpaca_stage123": tuned, "alpaca_stage123_instrument": scored}
    last = adapters / "alpaca_stage123_instrument"
    lora = json.loads((last / "adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"], lora["bias"]) == (8, 16, 0.05, "none")  # as published
    assert sorted(lora["target_modules"]) == ["q_proj", "v_proj"]
    run = json.loads((last / "run.json").read_text())
    assert (run["stage"], run["source"], run["target"]) == ("source", "netflix", "movie")
    before = run["start_adapter"]["run"]
    assert (before["stage"], before["source"], before["start_adapter"]) == ("cot", None, None)
    metrics = json.loads((last / "metrics.json").read_text())
    assert metrics["n"] == 24
    assert f"no general adapter at {adapters}/alpaca (optional): starting from a fresh LoRA\n" in first.stdout
    assert f"===== auc: {metrics['auc']} =====\n" in first.stdout

    few = launch(*FEW, *QUICK, SHOTS="4 8", **real)
    assert few.returncode == 0, few.stderr
    output = workspace / "output_model" / "movie" / "alpaca_stage123_instrument"
    files = {folder.name: {path.name for path in folder.iterdir()} for folder in output.iterdir()}
    assert files == {"0_4": scored, "0_8": scored}
    for shots in (4, 8):
        run = json.loads((output / f"0_{shots}" / "run.json").read_text())
        start = sha256(last / "adapter_model.safetensors")
        assert (run["shots"], run["seed"], run["start_adapter"]["sha256"]) == (shots, 0, start)
        auc = json.loads((output / f"0_{shots}" / "metrics.json").read_text())["auc"]
        assert f"===== auc: {auc} =====\n" in few.stdout

    before = snapshot(workspace)
    again = launch(*ZERO, *QUICK, **real)
    assert (again.returncode, again.stderr) == (0, "")
    for name in ("alpaca_stage123", "alpaca_stage123_instrument"):
        assert f"complete already: {adapters / name}\n" in again.stdout
    again = launch(*FEW, *QUICK, SHOTS="4 8", **real)
    assert again.stdout == "".join(f"complete already: {output}/0_{shots}\n" for shots in (4, 8))
    assert snapshot(workspace) == before


def test_a_check_of_all_stages_makes_nothing(launch, workspace):
    before = {path for path, digest in snapshot(workspace).items() if digest}
    done = launch(*ZERO, "--check_only", PYTHON=sys.executable)
    names = ("alpaca_stage123", "alpaca_stage123_instrument")
    assert (done.returncode, done.stderr) == (0, "")
    said = [line for line in done.stdout.splitlines() if line.startswith("checked: ")]
    assert said == [f"checked: {workspace}/instruction_model/movie/{name}" for name in names]
    assert {path for path, digest in snapshot(workspace).items() if digest} == before
    wrong = launch(*ZERO, "--check_only", "--warmup_steps", "-1", PYTHON=sys.executable)
    assert (wrong.returncode, wrong.stderr) == (2, "error: --warmup_steps -1: give 0 or more\n")


@pytest.mark.slow
def test_a_launcher_called_again_resumes_the_stage_that_was_stopped(launch, workspace, tmp_path):
    quick = [*map(str, QUICK), "--num_epochs", "8", "--eval_steps", "1"]
    command = ["bash", REPOSITORY / "shell" / "zero_shot.sh", "cpu", "movie", "netflix", *quick]
    environment = os.environ | {"ROOT_PATH": str(workspace), "PYTHON": sys.executable, "STAGES": "source"}
    adapter = workspace / "instruction_model" / "movie" / "alpaca_instrument"
    log = tmp_path / "log of the first"
    with open(log, "w") as output:
        first = subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=output)
        while not last_checkpoint(adapter / "checkpoints"):
            assert first.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGTERM)  # as a cluster does before it kills
        assert first.wait() != 0
        until = time.monotonic() + 120
        while not (stopped := re.search(r"SIGTERM: stopped after step (\d+), a checkpoint is saved", log.read_text())):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)  # the script ends after the launcher
    assert not (adapter / "adapter_config.json").exists()
    second = launch(*ZERO, *quick, STAGES="source", PYTHON=sys.executable)
    assert second.returncode == 0, second.stderr
    assert f"resuming: {adapter}/checkpoints/checkpoint-{stopped[1]}\n" in second.stdout, second.stdout
    assert "===== auc:" in second.stdout


# ----------------------------------------------------------------------------------------------- the commands started


def test_a_curriculum(started, root):
    """Each stage learns from its own records, from the adapter before; the last one is scored."""
    own, netflix = root.parent / "own.jsonl", root.parent / "netflix" / "stage123.json"  # without spaces, as words are
    netflix.parent.mkdir()
    for file in (own, netflix):
        file.write_text("")
    commands = started("zero_shot.sh", "0", "movie", "netflix", "--seed", "3", STAGES=f"cot {own} {netflix} source ")
    adapters, movie = root / "instruction_model" / "movie", root / "rec_data" / "movie"
    names = ["alpaca_stage123", "alpaca_stage123_own", "alpaca_stage123_own_netflix-stage123"]
    names.append("alpaca_stage123_own_netflix-stage123_instrument")
    data = [root / "cot_data/stage123.json", own, netflix, root / "instruction_data/netflix/train.json"]
    *stages, evaluation = commands
    for command, name, records, before in zip(stages, names, data, [None, *names[:-1]], strict=True):
        flags = command.flags
        assert (command.script, flags.train_data_path) == ("ins_tuning.py", str(records))
        assert (flags.val_data_path, flags.base_model) == (str(movie / "valid.json"), f"{root}/base_model/llama-7b/")
        assert flags.output_dir == str(adapters / name)
        assert flags.resume_from_checkpoint == (before and str(adapters / before))
        assert (flags.device, command.gpu, flags.seed, flags.target, flags.resume) == ("cuda", "0", 3, "movie", True)
    said = [("cot", None), ("own", None), ("netflix-stage123", None), ("source", "netflix")]
    assert [(stage.flags.stage, stage.flags.source) for stage in stages] == said
    assert (evaluation.script, evaluation.flags.lora_weights) == ("evaluate.py", [str(adapters / names[-1])])
    assert evaluation.flags.test_data_path == str(movie / "test.json")
    assert evaluation.flags.train_data_path == str(movie / "train.json")
    assert (evaluation.flags.device, evaluation.gpu, evaluation.flags.target) == ("cuda", "0", "movie")


def test_validation_rows_of_the_source(started, root):
    stage, _ = started("zero_shot.sh", "cpu", "book", "amazon-book", VALID="source", STAGES="source")
    assert stage.flags.val_data_path == str(root / "instruction_data" / "amazon-book" / "valid.json")


@pytest.mark.parametrize(
    "environment, output, shots, seeds",
    [
        ({}, "alpaca_stage123_instrument", [16, 64, 256], [5]),
        ({"SHOTS": "-1"}, "alpaca_stage123_instrument/5_-1", [-1], [5]),
        ({"SEEDS": "0 1 2", "SHOTS": "8"}, "alpaca_stage123_instrument", [8], [0, 1, 2]),
        # folders depend on what runs, not on how it was written
        ({"SHOTS": " 16  16", "SEEDS": " 5"}, "alpaca_stage123_instrument/5_16", [16], [5]),
    ],
    ids=str,
)
def test_few_shot(started, root, environment, output, shots, seeds):
    adapter = make_adapter(root / "instruction_model" / "movie" / "alpaca_stage123_instrument")
    (command,) = started("few_shot.sh", "0", "5", "movie", "--num_epochs", "7", **environment)
    flags, movie = command.flags, root / "rec_data" / "movie"
    assert (command.script, flags.resume_from_checkpoint) == ("rec_tuning.py", str(adapter))
    assert flags.output_dir == str(root / "output_model" / "movie" / output)
    assert (flags.sample, flags.seed, flags.num_epochs, flags.resume) == (shots, seeds, 7, True)
    assert flags.base_model == f"{root}/base_model/llama-7b/"
    assert (flags.train_data_path, flags.val_data_path) == (f"{movie}/train.json", f"{movie}/valid.json")
    assert flags.test_data_path == f"{movie}/test.json"
    assert (flags.device, command.gpu, flags.target) == ("cuda", "0", "movie")


def test_arguments_of_the_evaluation(started, root):
    """EVALUATE_ARGS go to evaluate.py alone; that code of the model may run is passed on, since no file says so."""
    more = {"STAGES": "cot", "EVALUATE_ARGS": "--rank full --max_rank_rows 9"}
    tuner, evaluation = (command.flags for command in started(*ZERO, "--trust_remote_code", **more))
    assert (evaluation.rank, evaluation.max_rank_rows, evaluation.trust_remote_code) == ("full", 9, True)
    assert tuner.trust_remote_code
    assert not started(*ZERO, STAGES="cot")[-1].flags.trust_remote_code
    tuner, evaluation = (command.flags for command in started(*FEW, "--trust_remote_code", SHOTS="16 64", **more))
    assert evaluation.lora_weights == [f"{tuner.output_dir}/0_16", f"{tuner.output_dir}/0_64"]
    assert (evaluation.rank, evaluation.max_rank_rows, evaluation.trust_remote_code) == ("full", 9, True)
    movie = root / "rec_data" / "movie"
    assert (evaluation.test_data_path, evaluation.train_data_path) == (f"{movie}/test.json", f"{movie}/train.json")


@pytest.mark.parametrize(
    "command, flag, instead",
    [
        (ZERO, ["--output_dir", "1"], "ROOT_PATH and EXP_NAME"),
        (ZERO, ["--stage=1"], "STAGES"),
        (FEW, ["--seed=1"], "SEED or SEEDS"),
        (FEW, ["--resume_from_checkpoint", "1"], "INSTRUCTION_ADAPTER"),
    ],
    ids=str,
)
def test_flags_of_the_launcher_are_refused(launch, command, flag, instead):
    done = launch(*command, "--num_epochs", "1", *flag)
    refused(done, f"{flag[0].removesuffix('=1')}: this launcher sets it; give {instead} instead\n")


# ----------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.parametrize(
    "gpu, sees",
    [("2", ("2", "cuda")), ("MIG-GPU-8f4ae5ab-04ff/3/0", ("MIG-GPU-8f4ae5ab-04ff/3/0", "cuda")), ("cpu", ("", "cpu"))],
)
def test_a_gpu_by_number_or_uuid_or_none(started, gpu, sees):
    commands = started("zero_shot.sh", gpu, "movie", "netflix", STAGES="source", CUDA_VISIBLE_DEVICES="0")
    assert {(command.gpu, command.flags.device) for command in commands} == {sees}


@pytest.mark.parametrize(
    "gpu, environment, expected",
    [
        ("0,1,2,3", {}, {"num_processes": 4, "multi_gpu": True, "num_machines": 1, "mixed_precision": "no"}),
        ("GPU-1a,GPU-2b", {}, {"num_processes": 2, "multi_gpu": True}),
        ("0,1", {"ACCELERATE_ARGS": "--config_file fsdp.yaml"}, {"num_processes": 2, "multi_gpu": False}),
        ("0,1", {"ACCELERATE_ARGS": "--num_machines 2 --num_processes 4"}, {"num_processes": 4, "num_machines": 2}),
    ],
)
def test_several_gpus_start_accelerate(started, gpu, environment, expected):
    """After a check in one process; with all of these GPUs, whatever the user's own configuration says."""
    commands = started("zero_shot.sh", gpu, "movie", "netflix", STAGES="source", **environment)
    for check, launched in zip(commands[::2], commands[1::2], strict=True):
        assert check.gpu == launched.gpu == gpu and check.flags.check_only
        assert launched.words[0] == "accelerate.commands.launch"
        script = next(place for place, word in enumerate(launched.words) if word.endswith(check.script))
        assert launched.words[script + 1 :] == check.words[:-1]
        arguments = vars(launch_command_parser().parse_args(launched.words[1:]))
        expected = expected | {"gpu_ids": "all"}
        assert {name: arguments[name] for name in expected} == expected


def test_what_the_processes_find_in_their_environment(launch, tmp_path):
    """GPUs are counted as nvidia-smi does; memory is not cut into pieces; there is time for a checkpoint after SIGTERM."""
    names = ("CUDA_DEVICE_ORDER", "PYTORCH_ALLOC_CONF", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    python = tmp_path / "prints"
    python.write_text("#!/usr/bin/env bash\necho " + " ".join(f'"${{{name}-}}"' for name in names) + "\n")
    python.chmod(0o755)

    def seen(gpu, **environment):
        done = launch("zero_shot.sh", gpu, "movie", "netflix", STAGES="cot", PYTHON=str(python), **environment)
        return done.stdout.splitlines()[-1].split()

    assert seen("0") == ["PCI_BUS_ID", "expandable_segments:True", "600"]
    assert seen("0", PYTORCH_ALLOC_CONF="a:1", TORCH_ELASTIC_SHUTDOWN_TIMEOUT="9") == ["PCI_BUS_ID", "a:1", "9"]
    assert seen("0", PYTORCH_CUDA_ALLOC_CONF="a:1") == ["PCI_BUS_ID", "600"]
    assert seen("cpu:2") == ["PCI_BUS_ID", "600"]


# ---------------------------------------------------------------------------------------------------- what is missing

MISSING_FILES = [
    (
        ZERO,
        "base_model/llama-7b",
        "no base model at {root}/base_model/llama-7b/; base_model/README.md tells how to place",
    ),
    (ZERO, "cot_data/stage123.json", "no chain-of-thought data at {root}/cot_data/stage123.json; bash shell/get_pub"),
    (ZERO, "instruction_data/netflix/train.json", "no source data at {root}/instruction_data/netflix/train.json; ins"),
    (
        ZERO,
        "rec_data/movie/valid.json",
        "no validation data at {root}/rec_data/movie/valid.json; rec_data/README.md tells",
    ),
    (
        FEW,
        "rec_data/movie/train.json",
        "no train data at {root}/rec_data/movie/train.json; rec_data/README.md tells how",
    ),
]
MADE_BY = (
    "no instruction adapter at {root}/instruction_model/movie/mine/adapter_config.json; EXP_NAME='mine' STAGES='cot source' "
    "bash shell/zero_shot.sh cpu movie netflix makes it (or name another: INSTRUCTION_ADAPTER)"
)
MISTAKES = [
    (ZERO, {"BASE_MODEL": "/no/model"}, "no base model at /no/model; base_model/README.md tells how to place one"),
    (ZERO, {"GENERAL_ADAPTER": "/no/it"}, "no general adapter at /no/it/adapter_config.json; GENERAL_ADAPTER"),
    (FEW, {"RECIPE": "../setup"}, "RECIPE '../setup': give one of original published small"),
    (ZERO, {"STAGES": " "}, "STAGES is empty: give at least one of cot and source"),
    (ZERO, {"STAGES": "cot sauce"}, "STAGES 'cot sauce': stages are cot and source"),
    (ZERO, {"STAGES": "no/such.json"}, "no records at no/such.json; STAGES takes stages and files"),
    (ZERO, {"VALID": "both"}, "VALID 'both': give target or source"),
    (ZERO, {"PYTHON": "/no/python"}, "PYTHON=/no/python: no such program; bash shell/setup.sh makes one"),
    (FEW, {"SHOTS": " "}, "SHOTS ' ': give at least one number"),
    (FEW, {"SHOTS": "16,64"}, "SHOTS '16,64': give whole numbers of -1 or more, such as '16 64'"),
    (FEW, {"SEEDS": "0 -1"}, "SEED '0 -1': give whole numbers of 0 or more"),
    (
        FEW,
        {"INSTRUCTION_ADAPTER": "/no/it"},
        "no instruction adapter at /no/it/adapter_config.json; INSTRUCTION_ADAPTER",
    ),
    (FEW, {"EXP_NAME": "mine", "SOURCE": "netflix"}, MADE_BY),
    (ZERO[:3], {}, "usage: bash shell/zero_shot.sh GPU TARGET SOURCE"),
    (FEW[:3], {}, "usage: bash shell/few_shot.sh GPU SEED TARGET"),
    (("zero_shot.sh", "0,", "movie", "netflix"), {}, "GPU '0,': give cpu, the"),
    (("few_shot.sh", "cpu:0", "0", "movie"), {}, "GPU 'cpu:0': give cpu, the"),
]


@pytest.mark.parametrize("command, missing, message", MISSING_FILES)
def test_a_missing_file_is_one_line(launch, root, command, missing, message):
    shutil.rmtree(root / missing) if (root / missing).is_dir() else (root / missing).unlink()
    refused(launch(*command), message.format(root=root))


@pytest.mark.parametrize("command, environment, message", MISTAKES, ids=str)
def test_a_mistake_is_one_line(launch, root, command, environment, message):
    refused(launch(*command, **environment), message.format(root=root))
