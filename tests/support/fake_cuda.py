"""CUDA GPUs that are only pretended: numbers are computed on the CPU, but every tensor knows where it would be.

    with FakeCuda(count=1, capability=(8, 0), memory=80e9):
        ...                               # torch.cuda.is_available(), .to("cuda"), device=, model.device as on a GPU box

As on a real machine, an operation on tensors of both kinds raises RuntimeError, .numpy() of one on the GPU TypeError, and
more than `memory` bytes on the GPU torch.OutOfMemoryError.

How it works: a tensor is "on the GPU" if its storage is listed. A dispatch mode sees every operation of PyTorch, runs it
on the CPU, and lists the storages of its results if its arguments were listed or it was asked for a CUDA device. What
never reaches the dispatcher (`tensor.device`, `.to`, torch.cuda) is patched. So kernels, attention on a GPU, NCCL, and
errors that come late are not covered, and autocast uses the CPU's list of operations.
"""

import contextlib
import types
from unittest import mock

import bitsandbytes  # noqa: F401  # looks for real GPUs when it is imported, so before any are pretended
import torch
import torch.utils._device
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Tensor, aten = torch.Tensor, torch.ops.aten
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
REAL = {name: getattr(Tensor, name) for name in ("to", "numpy", "device")}
# operations that take tensors of both kinds: copies, and indices, which may be on the CPU
BOTH_KINDS = {aten.copy_, aten._to_copy, aten.lift_fresh, aten.lift, aten.set_, aten.detach}
BOTH_KINDS |= {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


def is_cuda(device):
    """Whether what is given as a device (a name, a number, a torch.device, None) is a GPU."""
    return device is not None and (isinstance(device, int) or torch.device(device).type == "cuda")


class FakeCuda(TorchDispatchMode):
    """`count` GPUs of this compute capability with `memory` bytes each, of which everything uses the first."""

    def __init__(self, count=1, capability=(8, 0), memory=80e9):
        super().__init__()
        self.count, self.capability, self.total, self.memory = count, capability, int(memory), int(memory)
        self.listed = {}  # address of a storage: (weak reference to it, bytes)
        self.used = self.peak = 0
        self.inside = False  # a kernel written in Python, such as bitsandbytes', runs as if on the CPU

    # ------------------------------------------------------------------------------------------ where a tensor is

    def has(self, tensor):
        return not self.inside and self._key(tensor) in self.listed

    def put(self, tensor, on_gpu=True):
        """List the tensor's storage, or strike it off; returns the tensor."""
        if self.inside:
            return tensor
        storage, key = tensor.untyped_storage(), self._key(tensor)
        if not on_gpu:
            self.used -= self.listed.pop(key, (None, 0))[1]
        elif key not in self.listed:
            self.listed[key] = StorageWeakRef(storage), storage.nbytes()
            self.used += storage.nbytes()
            if self.used > min(self.memory, self.peak):  # what has been freed is struck off when it matters
                self.clear()
                if self.used > self.memory:
                    self.put(tensor, False)
                    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {storage.nbytes()} bytes.")
                self.peak = max(self.peak, self.used)
        return tensor

    def clear(self):
        self.listed = {key: entry for key, entry in self.listed.items() if not entry[0].expired()}
        self.used = sum(size for _, size in self.listed.values())

    @staticmethod
    def _key(tensor):
        try:
            return tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # a tensor without storage, such as a sparse one
            return None

    # ------------------------------------------------------------------------------------------ every operation

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, operation = dict(kwargs or {}), function.overloadpacket
        asked = kwargs.get("device")
        if asked is not None and is_cuda(asked):
            kwargs["device"] = CPU
        if "pin_memory" in kwargs:
            kwargs["pin_memory"] = False
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        kinds = {self.has(tensor) for tensor in tensors if tensor.dim()}  # numbers may be on either
        if len(kinds) == 2 and operation not in BOTH_KINDS:
            places = ", ".join(f"{tuple(tensor.shape)} on {GPU if self.has(tensor) else CPU}" for tensor in tensors)
            raise RuntimeError(f"Expected all tensors to be on the same device: {function} of {places}")
        any_on_gpu, known = any(map(self.has, tensors)), {self._key(tensor) for tensor in tensors}
        with mock.patch.object(self, "inside", True):
            result = function(*args, **kwargs)
        if operation is not aten.copy_:
            on_gpu = True in kinds if kinds else any_on_gpu
            if asked is not None:  # autograd and changes of dtype ask for the real device, which is the CPU
                on_gpu = is_cuda(asked) or (operation is aten._to_copy and any_on_gpu)
            for made in tree_leaves(result):
                if isinstance(made, Tensor) and self._key(made) not in known:
                    self.put(made, on_gpu)
        return result

    # ------------------------------------------------------------------------------------------ what Python sees

    def _to(self, tensor, *args, **kwargs):
        with torch._C.DisableTorchFunctionSubclass():  # a subclass such as Parameter would come back here
            goal = kwargs.get("device", kwargs.get("other", args[0] if args else None))
            if isinstance(goal, Tensor):
                goal = GPU if self.has(goal) else CPU
            if isinstance(goal, torch.dtype) or goal is None or isinstance(goal, bool):
                return REAL["to"](tensor, *args, **kwargs)
            if not isinstance(goal, int) and torch.device(goal).type not in ("cuda", "cpu"):
                return REAL["to"](tensor, *args, **kwargs)
            args = tuple(
                CPU if number == 0 and not isinstance(each, Tensor) else each for number, each in enumerate(args)
            )
            kwargs |= {"device": CPU} if "device" in kwargs else {}
            moved = REAL["to"](tensor, *args, **kwargs)
            if is_cuda(goal) == self.has(tensor):
                return moved
            if self._key(moved) == self._key(tensor):
                moved = moved.clone()
            return self.put(moved, is_cuda(goal))

    def _numpy(self, tensor, *args, **kwargs):
        if self.has(tensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return REAL["numpy"](tensor, *args, **kwargs)

    def _tensor(self, data, *args, device=None, make=torch.tensor, **kwargs):
        made = make(data, *args, **kwargs)
        return made if device is None else self._to(made, device)

    def _patches(self):
        """(object, name of its attribute, what stands for it)."""
        yield torch, "tensor", self._tensor
        yield torch, "as_tensor", lambda *args, **kwargs: self._tensor(*args, make=REAL_AS_TENSOR, **kwargs)
        yield Tensor, "device", property(lambda tensor: GPU if self.has(tensor) else REAL["device"].__get__(tensor))
        yield Tensor, "is_cuda", property(self.has)
        yield Tensor, "get_device", lambda tensor: 0 if self.has(tensor) else -1
        yield Tensor, "to", lambda tensor, *args, **kwargs: self._to(tensor, *args, **kwargs)
        yield Tensor, "cpu", lambda tensor, *args, **kwargs: self._to(tensor, CPU)
        yield Tensor, "cuda", lambda tensor, *args, **kwargs: self._to(tensor, GPU)
        yield Tensor, "numpy", lambda tensor, *args, **kwargs: self._numpy(tensor, *args, **kwargs)
        yield Tensor, "pin_memory", lambda tensor, *args, **kwargs: tensor
        major, minor = self.capability
        properties = types.SimpleNamespace(
            major=major, minor=minor, name="Fake GPU", total_memory=self.total, multi_processor_count=108, warp_size=32
        )
        state = torch.zeros(16, dtype=torch.uint8)  # of random numbers, which come from the CPU's
        answers = {
            "is_available": True,
            "is_initialized": True,
            "device_count": self.count,
            "current_device": 0,
            "get_device_properties": properties,
            "get_device_capability": self.capability,
            "get_device_name": "Fake GPU",
            "memory_reserved": 0,
            "get_rng_state": state,
            "get_rng_state_all": [state] * self.count,
            "device": contextlib.nullcontext(),
            "get_arch_list": [],
        }
        answers |= dict.fromkeys(("_lazy_init", "init", "set_device", "synchronize", "empty_cache", "manual_seed"))
        answers |= dict.fromkeys(("manual_seed_all", "set_rng_state", "set_rng_state_all"))
        for name, answer in answers.items():
            yield torch.cuda, name, lambda *args, answer=answer, **kwargs: answer
        for name in ("get_rng_state", "get_rng_state_all", "set_rng_state", "set_rng_state_all"):
            yield torch.cuda.random, name, lambda *args, answer=answers[name], **kwargs: answer
        yield torch.cuda, "mem_get_info", lambda *args: (self.memory - self.memory_allocated(), self.memory)
        yield torch.cuda, "set_per_process_memory_fraction", self.limit
        yield torch.cuda, "memory_allocated", self.memory_allocated
        yield torch.cuda, "max_memory_allocated", lambda *args: self.peak
        yield torch.cuda, "reset_peak_memory_stats", self.reset_peak
        # asked by the optimiser, and answered in C++ by a build with CUDA, which finds no driver
        yield torch.accelerator, "current_accelerator", lambda check_available=False: None
        begin = torch.autocast.__init__
        yield (
            torch.autocast,
            "__init__",
            lambda block, device_type, *args, **kwargs: begin(block, CPU.type, *args, **kwargs),
        )

    def memory_allocated(self, *_):
        self.clear()
        return self.used

    def limit(self, fraction, *_):
        self.memory = int(fraction * self.total)

    def reset_peak(self, *_):
        self.clear()
        self.peak = self.used

    def __enter__(self):
        from accelerate.state import AcceleratorState

        # PyTorch keeps the list of functions that take a device when it is first asked for: before they are patched
        torch.utils._device._device_constructors()
        torch.cuda.is_bf16_supported.__globals__["_check_bf16_tensor_supported"].cache_clear()
        self.stack = contextlib.ExitStack()
        for where, name, value in self._patches():
            self.stack.enter_context(mock.patch.object(where, name, value))
        AcceleratorState._reset_state(reset_partial_state=True)
        self.stack.callback(AcceleratorState._reset_state, reset_partial_state=True)
        return super().__enter__()

    def __exit__(self, *error):
        try:
            return super().__exit__(*error)
        finally:
            self.stack.close()


REAL_AS_TENSOR = torch.as_tensor
