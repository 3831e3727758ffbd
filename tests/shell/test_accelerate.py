"""The configurations of shell/accelerate.

1. accelerate reads them, and takes them for what they are called.
2. ins_tuning.py through the Trainer with fsdp.yaml on two processes (gloo, CPU) is ins_tuning.py on one.
"""

import json
import os
import subprocess
import sys

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from tests.conftest import REPOSITORY


def launched_with(name):
    """What `accelerate launch` makes of the file for two GPUs of one machine."""
    config = str(REPOSITORY / "shell" / "accelerate" / name)
    words = ["--num_processes", "2", "--gpu_ids", "all", "--config_file", config, "script.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return arguments


@pytest.mark.parametrize("name, fsdp, deepspeed", [("fsdp.yaml", True, False), ("deepspeed_zero3.yaml", False, True)])
def test_they_are_read(name, fsdp, deepspeed):
    arguments = launched_with(name)
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (fsdp, deepspeed)
    assert (arguments.num_processes, arguments.gpu_ids, arguments.mixed_precision) == (2, "all", "no")
    assert (arguments.zero_stage, arguments.zero3_init_flag) == (3, False) if deepspeed else arguments.fsdp_version == 2


@pytest.mark.slow
def test_fsdp_through_the_trainer(tiny_llama, tiny_workspace, run_script, tmp_path):
    command = ["--base_model", tiny_llama, "--val_data_path", tiny_workspace / "rec_data/movie/valid.json"]
    command += ["--train_data_path", tiny_workspace / "instruction_data/netflix/train.json", "--device", "cpu"]
    command += ["--batch_size", "8", "--micro_batch_size", "2", "--num_epochs", "2", "--warmup_steps", "0"]
    command += ["--eval_steps", "1", "--learning_rate", "1e-2", "--lora_dropout", "0"]  # masks differ between processes
    status, _, err = run_script("ins_tuning.py", *command, "--output_dir", tmp_path / "one")
    assert status == 0, err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    torchrun += [REPOSITORY / "tests" / "support" / "fsdp_on_the_cpu.py", REPOSITORY / "ins_tuning.py"]
    environment = os.environ | prepare_multi_gpu_env(launched_with("fsdp.yaml")) | {"OMP_NUM_THREADS": "1"}
    words = list(map(str, [*torchrun, *command, "--output_dir", tmp_path / "two"]))
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        [*json.loads((tmp_path / name / "run.json").read_text())["results"]["history"]] for name in ("one", "two")
    )
    assert [entry["eval_auc"] for entry in one] == [entry["eval_auc"] for entry in two] and len(one) == 4
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and max((one[name] - two[name]).abs().max() for name in one) < 1e-5
