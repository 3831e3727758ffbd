"""The configurations of shell/accelerate.

1. accelerate reads them, and takes them for what they are called.
2. ins_tuning.py through the Trainer with fsdp.yaml on two processes (gloo, CPU) is ins_tuning.py on one.
"""

import os
import subprocess
import sys

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.conftest import REPOSITORY
from tests.support.tuned import furthest, history, weights


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
def test_fsdp_through_the_trainer(instruct, stage_words, tmp_path):
    one, two, flags = (
        tmp_path / "one",
        tmp_path / "two",
        ["--micro_batch_size", 2, "--lora_dropout", 0],
    )  # else masks differ
    status, _, err = instruct(one, *flags)
    assert status == 0, err
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    torchrun += [REPOSITORY / "tests" / "support" / "fsdp_on_the_cpu.py", REPOSITORY / "ins_tuning.py"]
    environment = os.environ | prepare_multi_gpu_env(launched_with("fsdp.yaml")) | {"OMP_NUM_THREADS": "1"}
    words = list(map(str, [*torchrun, *stage_words(two, *flags)[1:]]))
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    aucs = [[entry["eval_auc"] for entry in history(folder)] for folder in (one, two)]
    assert aucs[0] == aucs[1] and len(aucs[0]) == 4
    assert furthest(weights(one), weights(two)) < 1e-5
