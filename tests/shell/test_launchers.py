"""zero_shot.sh and few_shot.sh, from a foreign folder, with spaces in every path.

1. Both end to end on a tiny workspace: a stopped stage is resumed, what is complete is not made again.
2. Every command they start: data, the chain of adapters, extra flags, shots and seeds, what is evaluated; every flag exists
   in the script that gets it.
3. GPUs: numbers, UUIDs, several; a run on the CPU sees none.
"""

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
from tests.shell.conftest import make_adapter, program
from tests.support.tuned import digest, read, snapshot
from tlrec.data.records import write_records
from tlrec.tuning.folder import last_checkpoint

ZERO, FEW = ("zero_shot.sh", "cpu", "movie", "netflix"), ("few_shot.sh", "cpu", "0", "movie")
REAL = {"PYTHON": sys.executable}


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

QUICK = ["--num_epochs", "1", "--batch_size", "8", "--micro_batch_size", "8", "--warmup_steps", "0"]


@pytest.mark.slow
def test_end_to_end_stopped_and_called_again(launch, workspace, tmp_path):
    adapters = workspace / "instruction_model" / "movie"
    words = [*ZERO, *QUICK, "--num_epochs", "16", "--eval_steps", "1"]
    stopped = stop_first_stage(
        words, adapters / "alpaca_stage123" / "checkpoints", workspace, tmp_path / "log of the first"
    )
    assert not (adapters / "alpaca_stage123" / "adapter_config.json").exists()
    zero = launch(*words, **REAL)
    assert f"resuming: {adapters}/alpaca_stage123/checkpoints/checkpoint-{stopped}\n" in zero.stdout
    assert f"no general adapter at {adapters}/alpaca (optional): starting from a fresh LoRA\n" in zero.stdout
    tuned = {"adapter_config.json", "adapter_model.safetensors", "prompt_frame.json", "run.json"}
    scored = tuned | {"metrics.json", "predictions.jsonl"}
    assert files_of(adapters) == {"alpaca_stage123": tuned, "alpaca_stage123_instrument": scored}
    last = adapters / "alpaca_stage123_instrument"
    lora = read(last, "adapter_config.json")
    assert (lora["r"], lora["lora_alpha"], lora["lora_dropout"], lora["bias"]) == (8, 16, 0.05, "none")  # as published
    assert sorted(lora["target_modules"]) == ["q_proj", "v_proj"]
    run, metrics = read(last), read(last, "metrics.json")
    assert (run["stage"], run["source"], run["target"]) == ("source", "netflix", "movie")
    before = run["start_adapter"]["run"]
    assert (before["stage"], before["source"], before["start_adapter"]) == ("cot", None, None)
    assert metrics["n"] == 24 and f"===== auc: {metrics['auc']} =====\n" in zero.stdout

    few = launch(*FEW, *QUICK, SHOTS="4 8", **REAL)
    output = workspace / "output_model" / "movie" / "alpaca_stage123_instrument"
    assert files_of(output) == {"0_4": scored, "0_8": scored}
    for shots in (4, 8):
        run, metrics = (read(output / f"0_{shots}", name) for name in ("run.json", "metrics.json"))
        assert (run["shots"], run["seed"], run["start_adapter"]["sha256"]) == (shots, 0, digest(last))
        assert f"===== auc: {metrics['auc']} =====\n" in few.stdout

    before = snapshot(workspace)
    again = launch(*words, **REAL)
    assert again.stderr == "" and again.stdout.count("complete already: ") == 3
    again = launch(*FEW, *QUICK, SHOTS="4 8", **REAL)
    assert again.stdout == "".join(f"complete already: {output}/0_{shots}\n" for shots in (4, 8))
    assert snapshot(workspace) == before


def files_of(folder):
    return {run.name: {path.name for path in run.iterdir()} for run in folder.iterdir()}


def stop_first_stage(words, checkpoints, root, log):
    """Start a launcher and stop it by SIGTERM, as a cluster does, behind the first checkpoint; the step that it saves."""
    command = ["bash", REPOSITORY / "shell" / words[0], *words[1:]]
    with open(log, "w") as output:
        environment = os.environ | REAL | {"ROOT_PATH": str(root)}
        first = subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=output)
        while not last_checkpoint(checkpoints):
            assert first.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGTERM)
        assert first.wait() != 0
    until = time.monotonic() + 120
    while not (said := re.search(r"SIGTERM: stopped after step (\d+), a checkpoint is saved", log.read_text())):
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)  # the script ends after the launcher
    return said[1]


def test_a_check_of_all_stages_makes_nothing(launch, workspace):
    before = {path for path, content in snapshot(workspace).items() if content}
    done = launch(*ZERO, "--check_only", **REAL)
    names = ("alpaca_stage123", "alpaca_stage123_instrument")
    said = [line for line in done.stdout.splitlines() if line.startswith("checked: ")]
    assert said == [f"checked: {workspace}/instruction_model/movie/{name}" for name in names] and done.stderr == ""
    assert {path for path, content in snapshot(workspace).items() if content} == before
    wrong = launch(*ZERO, "--check_only", "--warmup_steps", "-1", status=2, **REAL)
    assert wrong.stderr == "error: --warmup_steps -1: give 0 or more\n"


# ----------------------------------------------------------------------------------------------- the commands started


def test_a_curriculum(launch, root):
    """Each stage learns from its own records, from the adapter before; the last one is scored."""
    own, netflix = root.parent / "own.jsonl", root.parent / "netflix" / "stage123.json"  # without spaces, as words are
    netflix.parent.mkdir()
    for file in (own, netflix):
        file.write_text("")
    stages = f"cot {own} {netflix} source "
    done = launch("zero_shot.sh", "0", "movie", "netflix", "--seed", "3", STAGES=stages)
    folder, mine = "instruction/movie/alpaca_stage123", "_own_netflix-stage123"
    assert done.steps == [
        f"cot: - -> {folder}",
        f"own: {folder} -> {folder}_own",
        f"netflix-stage123: {folder}_own -> {folder}{mine}",
        f"source: {folder}{mine} -> {folder}{mine}_instrument",
        f"zero-shot: {folder}{mine}_instrument -> -",
    ]
    movie, base = root / "rec_data" / "movie", f"{root}/base_model/llama-7b/"
    data = [root / "cot_data/stage123.json", own, netflix, root / "instruction_data/netflix/train.json"]
    *stages, evaluation = (command.flags for command in done.commands)
    for flags, records in zip(stages, data, strict=True):
        assert (flags.train_data_path, flags.val_data_path) == (str(records), str(movie / "valid.json"))
        assert (flags.seed, flags.resume, flags.source) == (3, True, "netflix" if flags.stage == "source" else None)
    assert (evaluation.test_data_path, evaluation.train_data_path) == (f"{movie}/test.json", f"{movie}/train.json")
    for command in done.commands:
        flags = command.flags
        assert (flags.device, command.gpu, flags.target, flags.base_model) == ("cuda", "0", "movie", base)


@pytest.mark.parametrize(
    "environment, output, shots, seeds",
    [
        ({}, "alpaca_stage123_instrument", [16, 64, 256], [5]),
        ({"SEEDS": "0 1 2", "SHOTS": "8"}, "alpaca_stage123_instrument", [8], [0, 1, 2]),
        ({"SHOTS": " -1  -1", "SEEDS": " 5"}, "alpaca_stage123_instrument/5_-1", [-1], [5]),  # what runs names folders
    ],
    ids=str,
)
def test_few_shot(launch, root, environment, output, shots, seeds):
    adapter = make_adapter(root / "instruction_model" / "movie" / "alpaca_stage123_instrument")
    done = launch("few_shot.sh", "0", "5", "movie", "--num_epochs", "7", **environment)
    assert done.steps == [f"few-shot: instruction/movie/{adapter.name} -> output/movie/{output}"]
    (command,) = done.commands
    flags, data = command.flags, root / "rec_data" / "movie"
    assert (flags.sample, flags.seed, flags.num_epochs, flags.resume) == (shots, seeds, 7, True)
    assert (flags.train_data_path, flags.val_data_path) == (f"{data}/train.json", f"{data}/valid.json")
    assert (flags.test_data_path, flags.base_model) == (f"{data}/test.json", f"{root}/base_model/llama-7b/")
    assert (flags.device, command.gpu, flags.target) == ("cuda", "0", "movie")


def test_arguments_of_the_evaluation(launch, root):
    """EVALUATE_ARGS go to evaluate.py alone; that code of the model may run is passed on, since no file says so."""
    more = {"STAGES": "cot", "EVALUATE_ARGS": "--rank full --max_rank_rows 9"}
    for words, is_trusted in ((ZERO, True), (FEW, True), (ZERO, False)):
        tuner, evaluation = launch(*words, *["--trust_remote_code"] * is_trusted, SHOTS="16 64", **more).commands
        flags = evaluation.flags
        assert (flags.rank, flags.max_rank_rows, flags.trust_remote_code) == ("full", 9, is_trusted)
        assert tuner.flags.trust_remote_code == is_trusted
        assert flags.test_data_path == f"{root}/rec_data/movie/test.json"
        shots = ["/0_16", "/0_64"] if words == FEW else [""]
        assert flags.lora_weights == [f"{tuner.flags.output_dir}{name}" for name in shots]


# ----------------------------------------------------------------------------------------------------------------- GPU


@pytest.mark.parametrize(
    "gpu, sees",
    [("2", ("2", "cuda")), ("MIG-GPU-8f4ae5ab-04ff/3/0", ("MIG-GPU-8f4ae5ab-04ff/3/0", "cuda")), ("cpu", ("", "cpu"))],
)
def test_a_gpu_by_number_or_uuid_or_none(launch, gpu, sees):
    commands = launch("zero_shot.sh", gpu, *ZERO[2:], STAGES="source", CUDA_VISIBLE_DEVICES="0").commands
    assert {(command.gpu, command.flags.device) for command in commands} == {sees}


@pytest.mark.parametrize(
    "gpu, environment, expected",
    [
        ("0,1,2,3", {}, {"num_processes": 4, "multi_gpu": True, "num_machines": 1, "mixed_precision": "no"}),
        ("GPU-1a,GPU-2b", {"ACCELERATE_ARGS": "--config_file fsdp.yaml"}, {"num_processes": 2, "multi_gpu": False}),
        ("0,1", {"ACCELERATE_ARGS": "--num_machines 2 --num_processes 4"}, {"num_processes": 4, "num_machines": 2}),
    ],
)
def test_several_gpus_start_accelerate(launch, gpu, environment, expected):
    """After a check in one process; with all of these GPUs, whatever the user's own configuration says."""
    commands = launch("zero_shot.sh", gpu, *ZERO[2:], STAGES="source", **environment).commands
    for check, launched in zip(commands[::2], commands[1::2], strict=True):
        assert check.gpu == launched.gpu == gpu and check.flags.check_only
        assert launched.words[0] == "accelerate.commands.launch"
        script = next(place for place, word in enumerate(launched.words) if word.endswith(check.script))
        assert launched.words[script + 1 :] == check.words[:-1]
        arguments = vars(launch_command_parser().parse_args(launched.words[1:]))
        assert arguments.items() >= (expected | {"gpu_ids": "all"}).items()


def test_what_the_processes_find_in_their_environment(launch, tmp_path):
    """GPUs are counted as nvidia-smi does; memory is not cut into pieces; there is time for a checkpoint after SIGTERM."""
    names = ("CUDA_DEVICE_ORDER", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "PYTORCH_ALLOC_CONF")
    python = program(tmp_path / "prints", f"echo ${' $'.join(names)}")
    words = ["PCI_BUS_ID", "600", "expandable_segments:True"]
    own = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9", "PYTORCH_CUDA_ALLOC_CONF": "a:1"}
    for environment, expected in (({}, words), (own, ["PCI_BUS_ID", "9"])):
        done = launch(ZERO[0], "0", *ZERO[2:], PYTHON=python, **environment)
        assert done.stdout.splitlines()[-1].split() == expected
