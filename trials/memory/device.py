"""The memory of a device: what is free, giving it back, running out of it."""

import gc

import psutil
import torch


def give_back_memory() -> None:
    """Free what nothing refers to any more. Call it outside `except`, which holds the frames."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Return what this process can still take of the device's memory."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    allowed = total * torch.cuda.get_per_process_memory_fraction(device)
    return int(min(free + unused, allowed - allocated))


CONTEXT_BYTES = 2**29
"""What a process takes of a GPU beside torch's own allocator: CUDA's context, cuBLAS' workspaces.
A guess on the safe side; 0.3 to 0.5 GiB are usual."""


def limit_memory(gpu_share: float) -> None:
    """Let this process take no more than its share of the GPU: the rest belongs to other trials.

    Past it torch raises the out-of-memory error that a full GPU does, so the micro-batch shrinks.
    """
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(
            max(gpu_share * total - CONTEXT_BYTES, 0.0) / total
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device, or the host in its place, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


_NO_MEMORY = (
    "can't allocate memory",  # torch on processors
    "CUDA out of memory",
    "CUDA error: out of memory",  # what allocates past torch: bitsandbytes' paged optimizers
    "CUDA driver error: out of memory",  # torch's own kernels that are compiled as they are needed
    "Triton Error [CUDA]: out of memory",  # a kernel of Triton as it is loaded
    "No or negligible GPU memory",  # Unsloth (unsloth_zoo/fused_losses/cross_entropy_loss.py)
    "CUBLAS_STATUS_ALLOC_FAILED",  # a workspace that cuBLAS takes when it is first needed
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what `cublasCreate` says where it has no room
    "CUDNN_STATUS_ALLOC_FAILED",
)


def memory_in_words(device: torch.device) -> str:
    """Return what the device has and what this process held at its peak: `22.1 of 24.0 GiB`."""
    if device.type != "cuda":
        return "the host's memory is used up"
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{peak:.1f} of {total:.1f} GiB"
