"""Runs a script, in one of several processes on the CPU, as `accelerate launch` with an FSDP configuration does on GPUs: only
there does accelerate use FSDP. Ends with an error unless the script has spread its model.

    python -m torch.distributed.run --nproc_per_node 2 fsdp_on_the_cpu.py SCRIPT [arguments]
"""

import runpy
import sys
from pathlib import Path

from accelerate import Accelerator, state
from accelerate.utils import DistributedType

initialise, prepare, spread = state.AcceleratorState.__init__, Accelerator.prepare, []


def initialise_with_fsdp(self, *arguments, fsdp_plugin=None, **more):
    initialise(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def prepare_and_look(self, *arguments, **more):
    from tlrec.model.processes import is_spread

    prepared = prepare(self, *arguments, **more)
    spread.extend(is_spread(one) for one in arguments if hasattr(one, "parameters"))
    return prepared


state.AcceleratorState.__init__, Accelerator.prepare = initialise_with_fsdp, prepare_and_look
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
if not any(spread):
    sys.exit("no model was spread over the processes")
