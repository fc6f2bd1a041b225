"""A GPU that is not there: Unsloth's real code runs on a CPU, its kernels in Triton's interpreter.

Import this first. `FakeGpu` is to be around the import of Unsloth and all that runs after it.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

# Read by torch, triton, Unsloth and transformers, most of them when they are imported.
os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    TRITON_INTERPRET="1",
    UNSLOTH_ALLOW_CPU="1",
    HF_DEACTIVATE_ASYNC_LOAD="1",  # a mode of torch functions is of one thread
)

import torch
from torch.overrides import TorchFunctionMode

GIB = 2**30
T4 = SimpleNamespace(
    name="fake T4",
    major=7,
    minor=5,
    total_memory=16 * GIB,
    multi_processor_count=40,
    max_threads_per_multi_processor=1024,
    warp_size=32,
    regs_per_multiprocessor=65536,
    shared_memory_per_multiprocessor=65536,
    shared_memory_per_block_optin=65536,
)
ANSWERS = {
    "device_count": 1,
    "current_device": 0,
    "get_device_capability": (T4.major, T4.minor),
    "get_device_properties": T4,
    "mem_get_info": (16 * GIB, 16 * GIB),
}
"""Of torch.cuda. `is_available` stays false: torch itself is not to use the GPU."""


class FakeGpu(TorchFunctionMode):
    """Gives the CPU to whatever asks for the GPU, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        for name, answer in ANSWERS.items():
            setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
        torch._C._cuda_getCurrentRawStream = lambda device: 0  # a torch for CPUs has none

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if func is torch.device and args and _is_gpu(args[0]):
            return CPU
        if name == "pin_memory":
            return args[0]
        kwargs = dict(kwargs or {})
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = CPU
        if name == "to":
            args = [CPU if _is_gpu(argument) else argument for argument in args]
        return func(*args, **kwargs)


CPU = torch.device("cpu", 0)
"""With the index that Unsloth expects of a device."""


def _is_gpu(asked: Any) -> bool:
    """Whether this names a GPU, as `cuda`, `cuda:0` or 0."""
    if isinstance(asked, str | torch.device):
        return str(asked).startswith("cuda")
    return isinstance(asked, int) and not isinstance(asked, bool)
