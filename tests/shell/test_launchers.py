"""The launchers, from a foreign folder, with spaces in every path.

1. Both end to end on a tiny workspace; a second call does nothing twice.
2. Every command they start: adapters' folder names and chain, extra flags, shots and seeds, the GPU; every flag exists
   in the script that gets it.
3. What is missing is one line - what, where, which command makes it - before any work.
4. setup.sh makes .venv once, installs again only when requirements or constraints change, and takes a failed install for
   none; test.sh and .ci/run add what the tests need.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tlrec.data.records import write_records
from tlrec.files import sha256
from tlrec.same_run import last_checkpoint

ZERO, FEW = ("zero_shot.sh", "cpu", "movie", "netflix"), ("few_shot.sh", "cpu", "0", "movie")

# Stands for Python: notes its arguments and makes the adapter that was asked for.
STUB = """#!/usr/bin/env bash
printf '%s\\0' "GPU=${CUDA_VISIBLE_DEVICES-none}" "$@" "--END--" >> "$LAUNCH_LOG"
while [ $# -gt 0 ]; do
  [ "$1" != --output_dir ] || { mkdir -p "$2" && echo '{}' > "$2/adapter_config.json"; }
  shift
done
"""


@pytest.fixture
def workspace(tiny_workspace, tiny_llama, tmp_path):
    """A root with data, CoT records and a base model, all below a path with spaces."""
    root = tmp_path / "a root"
    shutil.copytree(tiny_workspace, root)
    shutil.copytree(tiny_llama, root / "base_model" / "tiny llama")
    (root / "base_model" / "llama-7b").symlink_to("tiny llama")
    answer = '1. "Night" - "Harbor"\n2. "No"'
    cot = [{"instruction": "Rank.", "input": f"Night {n}", "output": answer} for n in range(6)]
    (root / "cot_data").mkdir()
    write_records(root / "cot_data" / "stage123.json", cot)
    return root


@pytest.fixture
def launch(workspace, tmp_path):
    """launch("zero_shot.sh", *arguments, **environment) -> CompletedProcess, called from a folder of its own."""
    elsewhere = tmp_path / "some where"
    elsewhere.mkdir()

    def run(script, *arguments, **environment):
        known = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        known |= {"ROOT_PATH": str(workspace), "PYTHON": sys.executable}
        command = ["bash", str(REPOSITORY / "shell" / script), *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=known | environment)
        assert list(elsewhere.iterdir()) == []
        return process

    return run


@pytest.fixture
def started(launch, tmp_path):
    """Launch with the stub for Python; returns [(script, arguments, GPU)] of the commands that were started."""
    stub, log = tmp_path / "my python", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(script, *arguments, **environment):
        log.unlink(missing_ok=True)
        process = launch(script, *arguments, PYTHON=str(stub), LAUNCH_LOG=str(log), **environment)
        assert process.returncode == 0, process.stderr
        commands = log.read_text().split("\0--END--\0")[:-1]
        return [(path, flags, gpu) for gpu, path, *flags in (command.split("\0") for command in commands)]

    return run


def parsed(path, flags):
    """What the script at `path` makes of `flags`; unknown flags and values end in SystemExit."""
    spec = importlib.util.spec_from_file_location("script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *flags])
        return module.parse_arguments()


def snapshot(root):
    return {str(path): path.is_file() and sha256(path) for path in sorted(root.rglob("*"))}


# --------------------------------------------------------------------------------------------------------- end to end


@pytest.mark.slow
def test_both_end_to_end_and_twice(launch, workspace, tmp_path):
    quick = ["--num_epochs", 1, "--batch_size", 8, "--micro_batch_size", 8, "--warmup_steps", 0]
    first = launch("zero_shot.sh", "cpu", "movie", "netflix", *quick)
    assert first.returncode == 0, first.stderr
    adapters = workspace / "instruction_model" / "movie"
    assert {path.name for path in adapters.iterdir()} == {"alpaca_stage123", "alpaca_stage123_instrument"}
    tuned = {"adapter_config.json", "adapter_model.safetensors", "run.json"}
    scored = tuned | {"metrics.json", "predictions.jsonl"}
    assert {path.name for path in (adapters / "alpaca_stage123").iterdir()} == tuned
    last = adapters / "alpaca_stage123_instrument"
    assert {path.name for path in last.iterdir()} == scored
    run = json.loads((last / "run.json").read_text())
    assert (run["stage"], run["source"], run["target"]) == ("source", "netflix", "movie")
    assert run["start_adapter"]["run"]["stage"] == "cot"
    assert run["start_adapter"]["run"]["start_adapter"] is None
    metrics = json.loads((last / "metrics.json").read_text())
    assert metrics["n"] == 24 and metrics["run"]["adapter"]["run"]["stage"] == "source"
    assert f"no general adapter at {adapters}/alpaca (optional): starting from a fresh LoRA\n" in first.stdout
    assert f"===== auc: {metrics['auc']} =====\n" in first.stdout

    before = snapshot(adapters)
    tuners_only = tmp_path / "python but for evaluate.py"  # tests/evaluation/test_evaluate.py evaluates twice
    tuners_only.write_text(
        f'#!/usr/bin/env bash\ncase "$1" in *evaluate.py) ;; *) exec "{sys.executable}" "$@" ;; esac\n'
    )
    tuners_only.chmod(0o755)
    second = launch("zero_shot.sh", "cpu", "movie", "netflix", *quick, PYTHON=str(tuners_only))
    assert (second.returncode, second.stderr) == (0, "")
    for name in ("alpaca_stage123", "alpaca_stage123_instrument"):
        assert f"complete already: {adapters / name}\n" in second.stdout
    assert snapshot(adapters) == before

    few = launch("few_shot.sh", "cpu", 0, "movie", *quick, SHOTS="4 8")
    assert few.returncode == 0, few.stderr
    output = workspace / "output_model" / "movie" / "alpaca_stage123_instrument"
    assert {path.name for path in output.iterdir()} == {"0_4", "0_8"}
    for shots in (4, 8):
        folder = output / f"0_{shots}"
        assert {path.name for path in folder.iterdir()} == scored
        run = json.loads((folder / "run.json").read_text())
        assert (run["shots"], run["seed"], run["start_adapter"]["sha256"]) == (
            shots,
            0,
            sha256(last / "adapter_model.safetensors"),
        )
        auc = json.loads((folder / "metrics.json").read_text())["auc"]
        assert f"===== auc: {auc} =====\n" in few.stdout
    before = snapshot(output)
    again = launch("few_shot.sh", "cpu", 0, "movie", *quick, SHOTS="4 8")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == "".join(f"complete already: {output}/0_{shots}\n" for shots in (4, 8))
    assert snapshot(output) == before


def test_a_mistake_inside_stops_the_launcher(launch, workspace):
    (workspace / "rec_data" / "movie" / "valid.json").write_text('[{"instruction": "i", "input": "i"}]')
    before = snapshot(workspace)
    process = launch("zero_shot.sh", "cpu", "movie", "netflix")
    assert process.returncode == 2
    assert process.stderr == f"error: {workspace}/rec_data/movie/valid.json: row 1: the field 'output' is missing\n"
    assert "zero-shot" not in process.stdout
    assert snapshot(workspace) == before


# ----------------------------------------------------------------------------------------------- the commands started


@pytest.mark.parametrize(
    "stages, names",
    [
        (None, ["alpaca_stage123", "alpaca_stage123_instrument"]),
        ("cot source", ["alpaca_stage123", "alpaca_stage123_instrument"]),
        ("source", ["alpaca_instrument"]),
        ("cot", ["alpaca_stage123"]),
        ("source cot", ["alpaca_instrument", "alpaca_instrument_stage123"]),
    ],
)
def test_stages(started, workspace, stages, names):
    environment = {"STAGES": stages} if stages else {}
    commands = started("zero_shot.sh", "1", "movie", "netflix", "--seed", "3", **environment)
    adapters = workspace / "instruction_model" / "movie"
    movie = workspace / "rec_data" / "movie"
    start = None
    for (path, flags, gpu), stage, name in zip(commands, (stages or "cot source").split(), names):
        arguments = parsed(path, flags)
        assert path == str(REPOSITORY / "ins_tuning.py")
        trained_on = "cot_data/stage123.json" if stage == "cot" else "instruction_data/netflix/train.json"
        assert arguments.train_data_path == str(workspace / trained_on)
        assert arguments.val_data_path == str(movie / "valid.json")
        assert arguments.base_model == f"{workspace}/base_model/llama-7b/"
        assert arguments.output_dir == str(adapters / name)
        assert arguments.resume_from_checkpoint == start
        assert (arguments.stage, arguments.source, arguments.target) == (stage, "netflix", "movie")
        assert (arguments.device, gpu, arguments.seed) == ("cuda", "GPU=1", 3)
        # the published recipe needs no flag
        assert (arguments.batch_size, arguments.micro_batch_size, arguments.num_epochs) == (128, 32, 3)
        assert (arguments.learning_rate, arguments.metric_for_best_model, arguments.eval_steps) == (3e-4, "auc", 10)
        start = str(adapters / name)
    path, flags, gpu = commands[-1]
    arguments = parsed(path, flags)
    assert len(commands) == len(names) + 1 and path == str(REPOSITORY / "evaluate.py")
    assert (arguments.lora_weights, arguments.test_data_path) == ([start], str(movie / "test.json"))
    assert (arguments.device, gpu, arguments.target) == ("cuda", "GPU=1", "movie")


@pytest.mark.parametrize(
    "gpu, environment, expected",
    [
        ("0,1,2,3", {}, {"num_processes": 4, "multi_gpu": True, "num_machines": 1, "mixed_precision": "no"}),
        ("2,5", {}, {"num_processes": 2, "multi_gpu": True}),
        ("0,1", {"ACCELERATE_ARGS": "--config_file fsdp.yaml"}, {"num_processes": 2, "multi_gpu": False}),
        (
            "0,1",
            {"ACCELERATE_ARGS": "--multi_gpu --num_machines 2 --num_processes 4 --machine_rank 1"},
            {"num_processes": 4, "num_machines": 2, "machine_rank": 1},
        ),
    ],
)
def test_several_gpus_start_accelerate(started, gpu, environment, expected):
    commands = started("zero_shot.sh", gpu, "movie", "netflix", STAGES="source", **environment)
    checks, launches = commands[::2], commands[1::2]
    assert len(checks) == len(launches) == 2
    for (script, checked, gpus), (module, flags, same_gpus) in zip(checks, launches):
        assert gpus == same_gpus == f"GPU={gpu}"
        assert checked[-1] == "--check_only" and parsed(script, checked).check_only
        assert [module, flags[0]] == ["-m", "accelerate.commands.launch"]
        assert flags[flags.index(script) + 1 :] == checked[:-1]
        arguments = vars(launch_command_parser().parse_args(flags[1:]))
        assert {name: arguments[name] for name in expected} == expected


@pytest.mark.parametrize("name, kind", [("fsdp", "FSDP"), ("deepspeed_zero3", "DEEPSPEED")])
def test_accelerate_configurations_are_read(name, kind):
    config = load_config_from_file(str(REPOSITORY / "shell" / "accelerate" / f"{name}.yaml"))
    assert config.distributed_type == kind


@pytest.mark.slow
def test_a_launcher_called_again_resumes_the_stage_that_was_stopped(launch, workspace, tmp_path):
    quick = ["--num_epochs", "20", "--batch_size", "8", "--micro_batch_size", "8", "--eval_steps", "1"]
    quick += ["--warmup_steps", "0"]
    command = ["bash", REPOSITORY / "shell" / "zero_shot.sh", "cpu", "movie", "netflix", *quick]
    environment = os.environ | {"ROOT_PATH": str(workspace), "PYTHON": sys.executable, "STAGES": "source"}
    adapter = workspace / "instruction_model" / "movie" / "alpaca_instrument"
    log = tmp_path / "log"
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
    second = launch("zero_shot.sh", "cpu", "movie", "netflix", *quick, STAGES="source")
    assert second.returncode == 0, second.stderr
    assert f"resuming: {adapter}/checkpoints/checkpoint-{stopped[1]}\n" in second.stdout, second.stdout
    assert "===== auc:" in second.stdout


def test_a_recipe_is_a_file_of_flags(started, workspace):
    """Its flags come before the user's, which have the last word; the published one adds none."""
    commands = started("zero_shot.sh", "cpu", "movie", "netflix", "--num_epochs", "2", STAGES="source", RECIPE="small")
    arguments = parsed(*commands[0][:2])
    assert (arguments.batch_size, arguments.learning_rate, arguments.num_epochs) == (16, 1e-3, 2)
    assert (arguments.lora_target_modules, arguments.lora_dropout) == (["all-linear"], 0)
    assert arguments.prompt_loss_weight == 0 and arguments.share_prefix and arguments.metric_for_best_model == "last"
    adapter = workspace / "instruction_model" / "movie" / "alpaca_instrument"
    adapter.mkdir(parents=True, exist_ok=True)
    (adapter / "adapter_config.json").write_text("{}")
    ((path, flags, _),) = started("few_shot.sh", "cpu", "0", "movie", STAGES="source", RECIPE="small")
    few = parsed(path, flags)
    assert (few.batch_size, few.learning_rate, few.num_epochs) == (16, 5e-4, 4)
    assert (few.lora_target_modules, few.lora_dropout) == (arguments.lora_target_modules, arguments.lora_dropout)
    assert few.share_prefix


def test_a_general_adapter_is_the_start(started, workspace):
    general = workspace / "instruction_model" / "movie" / "alpaca"
    general.mkdir(parents=True)
    (general / "adapter_config.json").write_text("{}")
    commands = started("zero_shot.sh", "cpu", "movie", "netflix", STAGES="source")
    arguments = parsed(*commands[0][:2])
    assert arguments.resume_from_checkpoint == str(general)
    assert (arguments.device, commands[0][2]) == ("cpu", "GPU=none")


def test_names_and_models_from_the_environment(started, workspace, tiny_llama):
    commands = started(
        "zero_shot.sh", "cpu", "book", "amazon-book", EXP_NAME="my run", BASE_MODEL=str(tiny_llama), VALID="source"
    )
    first, second, last = (parsed(*command[:2]) for command in commands)
    adapters = workspace / "instruction_model" / "book"
    assert [first.output_dir, second.output_dir] == [str(adapters / "alpaca_stage123"), str(adapters / "my run")]
    assert last.lora_weights == [str(adapters / "my run")] and last.base_model == str(tiny_llama)
    source_valid = workspace / "instruction_data" / "amazon-book" / "valid.json"
    assert first.val_data_path == second.val_data_path == str(source_valid)
    assert last.test_data_path == str(workspace / "rec_data" / "book" / "test.json")


def test_an_exported_name_means_one_experiment_everywhere(started, workspace, tiny_adapter):
    """The name is that of zero_shot.sh's adapter, of the one few_shot.sh starts from, and of its results."""
    zero = started("zero_shot.sh", "cpu", "movie", "netflix", EXP_NAME="mine", STAGES="source ")
    instruction = str(workspace / "instruction_model" / "movie" / "mine")
    assert [parsed(*command[:2]).output_dir for command in zero[:-1]] == [instruction]
    assert parsed(*zero[-1][:2]).lora_weights == [instruction]
    output = str(workspace / "output_model" / "movie" / "mine")
    for extra, start in (({}, instruction), ({"INSTRUCTION_ADAPTER": str(tiny_adapter)}, str(tiny_adapter))):
        ((path, flags, _),) = started("few_shot.sh", "cpu", "0", "movie", EXP_NAME="mine", **extra)
        arguments = parsed(path, flags)
        assert (arguments.resume_from_checkpoint, arguments.output_dir) == (start, output)


def test_arguments_of_the_evaluation(started):
    """EVALUATE_ARGS go to evaluate.py alone; that code of the model may run is passed on, since no file says so."""
    zero = started(
        "zero_shot.sh",
        "cpu",
        "movie",
        "netflix",
        "--trust_remote_code",
        EVALUATE_ARGS="--token_budget 512",
        STAGES="cot",
    )
    tuner, evaluation = (parsed(*command[:2]) for command in zero)
    assert (evaluation.token_budget, evaluation.trust_remote_code) == (512, True)
    assert tuner.trust_remote_code
    assert not parsed(*started("zero_shot.sh", "cpu", "movie", "netflix", STAGES="cot")[-1][:2]).trust_remote_code


def test_few_shot_adapters_are_evaluated_where_asked_for(started, workspace, tiny_adapter):
    more = {
        "INSTRUCTION_ADAPTER": str(tiny_adapter),
        "SHOTS": "16 64",
        "EVALUATE_ARGS": "--rank full --max_rank_rows 9",
    }
    tuner, evaluation = started("few_shot.sh", "cpu", "3", "movie", "--trust_remote_code", **more)
    arguments, folder = parsed(*evaluation[:2]), parsed(*tuner[:2]).output_dir
    assert arguments.lora_weights == [f"{folder}/3_16", f"{folder}/3_64"]
    assert (arguments.rank, arguments.max_rank_rows, arguments.trust_remote_code) == ("full", 9, True)
    movie = workspace / "rec_data" / "movie"
    assert arguments.test_data_path == f"{movie}/test.json" and arguments.train_data_path == f"{movie}/train.json"


@pytest.mark.parametrize(
    "command, flag, instead",
    [
        (ZERO, "--output_dir", "ROOT_PATH and EXP_NAME"),
        (ZERO, "--stage", "STAGES"),
        (ZERO, "--base_model", "BASE_MODEL"),
        (FEW, "--seed", "SEED or SEEDS"),
        (FEW, "--sample", "SHOTS"),
        (FEW, "--resume_from_checkpoint", "INSTRUCTION_ADAPTER"),
    ],
    ids=str,
)
@pytest.mark.parametrize("equals", [False, True])
def test_flags_of_the_launcher_are_refused(launch, workspace, command, flag, instead, equals):
    before = snapshot(workspace)
    process = launch(*command, "--num_epochs", "1", *([f"{flag}=1"] if equals else [flag, "1"]))
    message = f"error: {flag}: this launcher sets it; give {instead} instead\n"
    assert (process.returncode, process.stdout, process.stderr) == (2, "", message)
    assert snapshot(workspace) == before


@pytest.mark.parametrize(
    "environment, adapter, output, shots, seeds",
    [
        ({}, "alpaca_stage123_instrument", "alpaca_stage123_instrument", [16, 64, 256], [5]),
        ({"STAGES": "source"}, "alpaca_instrument", "alpaca_instrument", [16, 64, 256], [5]),
        ({"SHOTS": "16"}, "alpaca_stage123_instrument", "alpaca_stage123_instrument/5_16", [16], [5]),
        ({"SHOTS": "-1"}, "alpaca_stage123_instrument", "alpaca_stage123_instrument/5_-1", [-1], [5]),
        ({"SEEDS": "0 1 2", "SHOTS": "8"}, "alpaca_stage123_instrument", "alpaca_stage123_instrument", [8], [0, 1, 2]),
        ({"EXP_NAME": "my run", "SEEDS": "7"}, "my run", "my run", [16, 64, 256], [7]),
        # folders depend on what runs, not on how it was written
        ({"SHOTS": "16 "}, "alpaca_stage123_instrument", "alpaca_stage123_instrument/5_16", [16], [5]),
        (
            {"SHOTS": " 16  16", "SEEDS": " 5"},
            "alpaca_stage123_instrument",
            "alpaca_stage123_instrument/5_16",
            [16],
            [5],
        ),
        ({"STAGES": " source "}, "alpaca_instrument", "alpaca_instrument", [16, 64, 256], [5]),
    ],
    ids=str,
)
def test_few_shot(started, workspace, environment, adapter, output, shots, seeds):
    folder = workspace / "instruction_model" / "movie" / adapter
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    ((path, flags, gpu),) = started("few_shot.sh", "0", "5", "movie", "--num_epochs", "7", **environment)
    arguments = parsed(path, flags)
    movie = workspace / "rec_data" / "movie"
    assert path == str(REPOSITORY / "rec_tuning.py")
    assert arguments.resume_from_checkpoint == str(folder)
    assert arguments.output_dir == str(workspace / "output_model" / "movie" / output)
    assert (arguments.sample, arguments.seed) == (shots, seeds)
    assert arguments.base_model == f"{workspace}/base_model/llama-7b/"
    for split in ("train", "val", "test"):
        name = "valid" if split == "val" else split
        assert getattr(arguments, f"{split}_data_path") == str(movie / f"{name}.json")
    assert (arguments.device, gpu, arguments.target, arguments.num_epochs) == ("cuda", "GPU=0", "movie", 7)
    assert (arguments.learning_rate, arguments.metric_for_best_model) == (1e-4, "loss")


def test_few_shot_from_another_adapter(started, tiny_adapter, workspace):
    ((path, flags, _),) = started("few_shot.sh", "cpu", "0", "movie", INSTRUCTION_ADAPTER=str(tiny_adapter))
    arguments = parsed(path, flags)
    assert arguments.resume_from_checkpoint == str(tiny_adapter)
    assert arguments.output_dir == str(workspace / "output_model" / "movie" / tiny_adapter.name)


def test_the_default_python_is_the_projects_own(launch, workspace, tmp_path):
    """Without PYTHON: the repository's .venv, else the python3 on the PATH."""
    shutil.rmtree(workspace / "base_model")
    process = launch("zero_shot.sh", "cpu", "movie", "netflix", PYTHON="")
    assert process.stderr.startswith("error: no base model at ")


# ---------------------------------------------------------------------------------------------------- what is missing

PLACE, MAKE = "base_model/README.md tells how to place one", "rec_data/README.md tells how to make it"


@pytest.mark.parametrize(
    "command, environment, missing, message",
    [
        (ZERO, {}, "base_model", f"no base model at {{root}}/base_model/llama-7b/; {PLACE}"),
        (ZERO, {"BASE_MODEL": "/no/model"}, None, f"no base model at /no/model; {PLACE}"),
        (
            ZERO,
            {},
            "cot_data/stage123.json",
            "no chain-of-thought data at {root}/cot_data/stage123.json; "
            "bash shell/generate_cot_data.sh makes it (or leave the stage out: STAGES=source)",
        ),
        (
            ZERO,
            {},
            "instruction_data/netflix/train.json",
            "no source data at "
            "{root}/instruction_data/netflix/train.json; instruction_data/README.md tells how to make it",
        ),
        (ZERO, {}, "rec_data/movie/valid.json", f"no validation data at {{root}}/rec_data/movie/valid.json; {MAKE}"),
        (
            ZERO,
            {"VALID": "source"},
            "instruction_data/netflix/valid.json",
            "no validation data at {root}/instruction_data/netflix/valid.json; ",
        ),
        (ZERO, {}, "rec_data/movie/test.json", f"no test data at {{root}}/rec_data/movie/test.json; {MAKE}"),
        (FEW, {}, "base_model", f"no base model at {{root}}/base_model/llama-7b/; {PLACE}"),
        (FEW, {}, "rec_data/movie/train.json", f"no train data at {{root}}/rec_data/movie/train.json; {MAKE}"),
        (FEW, {}, "rec_data/movie/valid.json", f"no valid data at {{root}}/rec_data/movie/valid.json; {MAKE}"),
        (FEW, {}, "rec_data/movie/test.json", f"no test data at {{root}}/rec_data/movie/test.json; {MAKE}"),
        (
            FEW,
            {},
            None,
            "no instruction adapter at {root}/instruction_model/movie/alpaca_stage123_instrument/"
            "adapter_config.json; STAGES='cot source' bash shell/zero_shot.sh cpu movie SOURCE makes it",
        ),
        (
            FEW,
            {"STAGES": "source"},
            None,
            "no instruction adapter at {root}/instruction_model/movie/alpaca_instrument/"
            "adapter_config.json; STAGES='source' bash shell/zero_shot.sh cpu movie SOURCE makes it",
        ),
        (ZERO, {"ROOT_PATH": "/no/root"}, None, "no base model at /no/root/base_model/llama-7b/; "),
        (ZERO, {"RECIPE": "big"}, None, "RECIPE 'big': give one of published small"),
        (FEW, {"RECIPE": "../setup"}, None, "RECIPE '../setup': give one of published small"),
        (ZERO, {"STAGES": " "}, None, "STAGES is empty: give at least one of cot and source"),
        (FEW, {"STAGES": " "}, None, "STAGES is empty: give at least one of cot and source"),
        (FEW, {"SHOTS": " "}, None, "SHOTS ' ': give at least one number"),
        (FEW, {"SHOTS": "16,64"}, None, "SHOTS '16,64': give whole numbers of -1 or more, such as '16 64'"),
        (FEW, {"SEEDS": "0 -1"}, None, "SEED '0 -1': give whole numbers of 0 or more"),
        (
            FEW,
            {"EXP_NAME": "mine"},
            None,
            "no instruction adapter at {root}/instruction_model/movie/mine/adapter_config.json; EXP_NAME='mine' "
            "STAGES='cot source' bash shell/zero_shot.sh cpu movie SOURCE makes it (or name another: INSTRUCTION_ADAPTER)",
        ),
        (ZERO, {"STAGES": "cot sauce"}, None, "STAGES 'cot sauce': stages are cot and source"),
        (ZERO, {"VALID": "both"}, None, "VALID 'both': give target or source"),
        (ZERO, {"PYTHON": "/no/python"}, None, "PYTHON=/no/python: no such program; bash shell/setup.sh makes one"),
        (ZERO[:3], {}, None, "usage: bash shell/zero_shot.sh GPU TARGET SOURCE"),
        (FEW[:3], {}, None, "usage: bash shell/few_shot.sh GPU SEED TARGET"),
        *(
            ((ZERO[0], gpu, *ZERO[2:]), {}, None, f"GPU '{gpu}': give cpu, the")
            for gpu in ("gpu", "-1", "0,", ",1", "")
        ),
        ((FEW[0], "cuda", *FEW[2:]), {}, None, "GPU 'cuda': give cpu, the"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, (tuple, dict)) else None,
)
def test_what_is_missing_is_one_line(launch, workspace, command, environment, missing, message):
    if missing == "base_model":
        shutil.rmtree(workspace / missing)
    elif missing:
        (workspace / missing).unlink()
    before = snapshot(workspace)
    process = launch(*command, **environment)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: " + message.format(root=workspace))
    assert process.stderr.count("\n") == 1
    assert snapshot(workspace) == before


# ---------------------------------------------------------------------------------------------------------- setup.sh

# Stands for every Python: notes what it is asked; `-m venv` makes a folder with a copy of itself.
PYTHON_STUB = """#!/usr/bin/env bash
[ "$1" != -c ] || exit "${VERSION_STATUS:-0}"
[ "$1" != --version ] || { echo Python 3.11.9; exit; }
echo "$*" >> "$LOG"
[ "$2" != venv ] || { mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; }
[ "$2" != pip ] || exit "${PIP_STATUS:-0}"
[ "$*" != "-m ruff ${RUFF_FAILS:-}" ] || exit 1
"""


@pytest.fixture
def setup(tmp_path):
    """A repository of requirements, setup.sh, test.sh and .ci/run; setup(command, **environment) -> (process, what Python
    was asked). The command is a line of bash, by default one that sources setup.sh."""
    root, programs, log = tmp_path / "the repository", tmp_path / "bin", tmp_path / "log"
    for path in ("shell/setup.sh", "shell/test.sh", ".ci/run"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, root / path)
    (root / "tests").mkdir()
    (root / "requirements.txt").write_text("torch==2.13.0\n")
    (root / "tests" / "requirements.txt").write_text("pytest==9.2.0\n")
    (root / "shell" / "constraints.txt").write_text("sympy==1.14.0\n")
    programs.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (programs / name).write_text(PYTHON_STUB)
        (programs / name).chmod(0o755)

    def run(command='source "$1"/shell/setup.sh; echo "PYTHON is $PYTHON"', **environment):
        log.write_text("")
        known = {"PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(log)}
        process = subprocess.run(
            ["bash", "-c", command, "bash", str(root)], capture_output=True, text=True, env=known | environment
        )
        return process, log.read_text().splitlines()

    return root, run


def pip_install(root, requirements):
    return (
        f"-m pip install --progress-bar on --requirement {root}/{requirements} "
        f"--constraint {root}/shell/constraints.txt"
    )


def test_setup_makes_an_environment_once(setup):
    root, run = setup
    install = pip_install(root, "requirements.txt")
    process, asked = run(PIP_STATUS="1")  # no network
    assert process.returncode == 1 and "PYTHON is" not in process.stdout
    assert asked == [f"-m venv {root}/.venv", install]
    process, asked = run()
    assert (process.returncode, asked) == (0, [install])
    assert process.stdout == (
        "== installing requirements.txt into .venv, at the versions of shell/constraints.txt\n"
        f"PYTHON is {root}/.venv/bin/python\n"
    )
    process, asked = run()
    assert (process.stdout, asked) == (f"PYTHON is {root}/.venv/bin/python\n", [])
    for name in ("requirements.txt", "shell/constraints.txt"):
        (root / name).write_text((root / name).read_text() + "numpy==2.4.6\n")
        assert run()[1] == [install]
        assert run()[1] == []


@pytest.mark.parametrize("script", ["shell/test.sh", ".ci/run"])
def test_what_the_tests_need_is_installed_for_them_alone(setup, script):
    root, run = setup
    assert run()[1] == [f"-m venv {root}/.venv", pip_install(root, "requirements.txt")]
    lint = ["-m ruff check .", "-m ruff format --check ."] if script == ".ci/run" else []
    pytest_run = "-m pytest -n 2 --dist loadfile"
    _, asked = run(f'bash "$1"/{script}')
    assert asked == [pip_install(root, "tests/requirements.txt"), *lint, pytest_run]
    _, asked = run(f'bash "$1"/{script}')
    assert asked == [*lint, pytest_run]
    (root / "tests" / "requirements.txt").write_text("pytest==9.2.1\n")
    _, asked = run('bash "$1"/shell/test.sh -x')
    assert asked == [pip_install(root, "tests/requirements.txt"), pytest_run + " -x"]


@pytest.mark.parametrize("wrong", ["check .", "format --check ."])
def test_lint_and_format_stop_continuous_integration(setup, wrong):
    root, run = setup
    process, asked = run('bash "$1"/.ci/run', RUFF_FAILS=wrong)
    assert process.returncode == 1
    assert asked[-1] == f"-m ruff {wrong}"


def read_versions(*names):
    """{name of a package: its versions} in files of requirements and constraints."""
    versions = {}
    for name in names:
        for line in (REPOSITORY / name).read_text().splitlines():
            if found := re.match(r"([\w.-]+)==(\S+)", line):
                versions.setdefault(re.sub(r"[-_.]+", "-", found[1].lower()), []).append(found[2])
    return versions


def test_every_package_is_pinned():
    """All that the requirements bring along here, however far down, has its version in one of the three files."""
    required = read_versions("requirements.txt", "tests/requirements.txt")
    constrained = read_versions("shell/constraints.txt")
    assert {name: versions for name, versions in required.items() if len(versions) > 1} == {}
    brings = {
        canonicalize_name(package.metadata["Name"]): [Requirement(line) for line in package.requires or []]
        for package in importlib.metadata.distributions()
    }
    left, seen = [Requirement(name) for name in required], set()
    while left:
        package = left.pop()
        name, extras = canonicalize_name(package.name), package.extras or {""}
        if (name, *extras) in seen:
            continue
        seen.add((name, *extras))
        left += [
            needed
            for needed in brings.get(name, [])
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    assert {name for name, *_ in seen} - required.keys() - constrained.keys() == set()


def test_setup_leaves_an_environment_of_ones_own_alone(setup):
    root, run = setup
    process, asked = run(PYTHON="/my/python")
    assert (process.stdout, asked) == ("PYTHON is /my/python\n", [])
    assert not (root / ".venv").exists()


def test_setup_without_a_fitting_python(setup):
    root, run = setup
    process, asked = run(VERSION_STATUS="1")
    assert (process.returncode, process.stderr) == (2, "error: TLRec needs Python 3.11 to 3.13 on the PATH\n")
    assert asked == [] and not (root / ".venv").exists()
