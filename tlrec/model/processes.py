"""The processes of one run, as `accelerate launch` starts them: who prints, how they stop, add up and share a model.

Without accelerate there is one process, and every function here works for it too.
"""

import os
import signal
import sys
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from torch.distributed.tensor import DTensor

from tlrec.errors import InputError


def only_the_first_prints():
    """Drop stdout of all processes except the first. stderr stays."""
    if not PartialState().is_main_process:
        sys.stdout = open(os.devnull, "w")


def leave():
    """End this process's part in a run, at the same time as the others: a process whose peers have gone may abort."""
    if PartialState().num_processes > 1:
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def add_up(array):
    """The sum of a float64 numpy array over all processes, on each of them."""
    state = PartialState()
    if state.num_processes == 1:
        return array
    return reduce(torch.from_numpy(array).to(state.device), reduction="sum").cpu().numpy()


def least(number):
    """The smallest of the numbers that the processes have, on each of them."""
    state = PartialState()
    return int(add_up(np.where(np.arange(state.num_processes) == state.process_index, float(number), 0.0)).min())


def share_batch(batch_size, micro_batch_size, processes):
    """(rows in a forward pass, forward passes in a step) of each process, so that the whole batch is `batch_size`.

    The rows are at most `micro_batch_size`, and fewer where many processes share the batch.
    """
    share, rest = divmod(batch_size, processes)
    if rest:
        raise InputError(
            f"--batch_size {batch_size} cannot be shared by {processes} processes; "
            f"give --batch_size {max(share, 1) * processes}, or another number of processes"
        )
    rows = max(rows for rows in range(1, min(share, micro_batch_size) + 1) if share % rows == 0)
    return rows, share // rows


def models_are_spread():
    """Whether accelerate was started to spread models over the processes, with FSDP or DeepSpeed ZeRO-3."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")


def is_spread(model):
    """Whether each process holds only its share of this model's weights."""
    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in model.parameters())


def out_of_memory(error):
    """Whether an exception says that GPU memory has run out; PyTorch's own class, or cuBLAS, which has none."""
    return isinstance(error, torch.OutOfMemoryError) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def whole(tensor):
    """The whole tensor. If it is shared out over processes it is gathered, and all of them have to call this."""
    if isinstance(tensor, DTensor):  # FSDP2
        return tensor.full_tensor()
    if hasattr(tensor, "ds_id"):  # ZeRO-3
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor


@contextmanager
def catch_signals():
    """Inside the block SIGTERM and SIGINT do not end the process: they are added to the list that the block gets.

    A second Ctrl-C stops at once. A second SIGTERM changes nothing: a cluster sends one to all processes, and so does
    the launcher.
    """
    received, before = [], {}

    def catch(number, frame):
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, catch)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
