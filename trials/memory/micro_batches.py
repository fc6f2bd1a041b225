"""Which micro-batch fits: halve it when memory runs out, keep the effective batch, remember."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trials.config import ModelConfig, TrialConfig, largest_divisor
from trials.models.frozen_base import TARGET_MODULES, local_or_hub

if TYPE_CHECKING:
    from trials.distributed.processes import Group
    from trials.models.frozen_base import FrozenBase

Key = tuple[int, int, str, bool]


class DoesNotFit(Exception):
    """Not even one row at a time, with gradient checkpointing, fits into memory."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to train a trial in less memory than the one before; none changes the result."""

    micro_batch_size: int
    gradient_checkpointing: bool
    """Whether activations are computed again in the backward pass: about a third slower."""

    def needs_as_much_as(self, other: Attempt) -> bool:
        """Whether this attempt fails where `other` did."""
        if self.gradient_checkpointing != other.gradient_checkpointing:
            return other.gradient_checkpointing
        return self.micro_batch_size >= other.micro_batch_size


@dataclass
class MicroBatchMemory:
    """What a worker has learnt about the batches that its device can hold, for one base model."""

    _failed: dict[Key, Attempt] = field(default_factory=dict)
    _eval_limits: dict[Key, int] = field(default_factory=dict)

    def attempts(self, config: TrialConfig, estimated: int) -> Iterator[Attempt]:
        """Yield attempts, the fastest first; each micro-batch divides a GPU's share of the batch.

        What has run out of memory before is left out, but for the very last resort.

        Args:
            estimated: Rows that are believed to fit; the first attempt holds no more.
        """
        share = config.effective_batch_size // config.gpus_per_trial
        sizes = [largest_divisor(share, config.micro_batch_size)]
        while sizes[-1] > 1:
            sizes.append(largest_divisor(share, sizes[-1] // 2))
        *attempts, last = [
            Attempt(m, checkpointing) for checkpointing in (False, True) for m in sizes
        ]
        for attempt in attempts:
            believed = attempt.gradient_checkpointing or attempt.micro_batch_size <= max(
                estimated, 1
            )
            failed = self._failed.get(_key(config))
            if believed and (failed is None or not attempt.needs_as_much_as(failed)):
                yield attempt
        yield last

    def did_not_fit(self, config: TrialConfig, attempt: Attempt) -> None:
        """Remember that this attempt ran out of memory, so that no later trial makes it."""
        self._failed[_key(config)] = attempt

    def eval_batch_size(self, config: TrialConfig) -> int:
        """Rows of an evaluation's forward pass: the study's own, unless it did not fit before."""
        return min(config.eval_batch_size, self._eval_limits.get(_key(config), 2**31))

    def evaluation_did_not_fit(self, config: TrialConfig, size: int) -> None:
        """Remember that evaluation batches of `size` rows do not fit: later ones hold half."""
        self._eval_limits[_key(config)] = max(1, size // 2)


def _key(config: TrialConfig) -> Key:
    return config.max_length, config.rank, config.target_modules, config.use_dora


class Fit:
    """How a running trial uses its device's memory: it takes less whenever that has run out."""

    def __init__(self, memory: MicroBatchMemory, config: TrialConfig, estimated: int) -> None:
        self._memory, self._config = memory, config
        self._attempts = memory.attempts(config, estimated)
        self.attempt = next(self._attempts)
        self.eval_batch_size = memory.eval_batch_size(config)

    def go_on_with(self, attempt: Attempt, eval_batch_size: int) -> None:
        """Use what a checkpoint says of the trial's earlier part."""
        self.attempt, self.eval_batch_size = attempt, eval_batch_size
        self._attempts = (
            a
            for a in self._memory.attempts(self._config, attempt.micro_batch_size)
            if not a.needs_as_much_as(attempt)
        )

    def shrink(self) -> bool:
        """Take the next attempt after the present one ran out of memory; False: there is none."""
        print(f"out of memory: {self.attempt}", flush=True)
        self._memory.did_not_fit(self._config, self.attempt)
        following = next(self._attempts, None)
        self.attempt = following or self.attempt
        return following is not None

    def shrink_evaluation(self) -> bool:
        """Halve the evaluation's batch after it ran out of memory; False: it holds one row."""
        print(f"out of memory: evaluation of {self.eval_batch_size} rows at a time", flush=True)
        if self.eval_batch_size == 1:
            return False
        self._memory.evaluation_did_not_fit(self._config, self.eval_batch_size)
        self.eval_batch_size = self._memory.eval_batch_size(self._config)
        return True


FREE_SHARE = 0.9
"""Of the free memory that an estimate may plan with; the rest is for what it does not know."""


def rows_that_fit(
    base: FrozenBase, config: TrialConfig, *, longest_row: int, n_trained: int, group: Group
) -> int:
    """Estimate how many rows a forward and backward pass can hold, on the fullest device.

    Args:
        longest_row: Tokens.
        n_trained: Parameters of the adapter, whose gradients and optimizer state come yet.
    """
    state = n_trained * (4 + ADAMW_BYTES[config.optimizer])
    free = FREE_SHARE * free_bytes(base.device) - state
    return int(group.smallest(free) // (longest_row * base.activation_bytes_per_token))


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
    "CUBLAS_STATUS_ALLOC_FAILED",  # a workspace that cuBLAS takes when it is first needed
    "CUDNN_STATUS_ALLOC_FAILED",
)


def memory_in_words(device: torch.device) -> str:
    """Return what the device has and what this process held at its peak: `22.1 of 24.0 GiB`."""
    if device.type != "cuda":
        return "the host's memory is used up"
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{peak:.1f} of {total:.1f} GiB"


ADAMW_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0}
"""Bytes of optimizer state for each trained parameter: two moments."""

WEIGHT_BYTES = {"nf4": 0.5 + 0.127 / 8, "int8": 1.0, "none": 2.0}
"""Bytes of a frozen linear weight; NF4 with double quantisation adds 0.127 bits (QLoRA, 3)."""


def activation_bytes_per_token(model: torch.nn.Module) -> float:
    """Estimate the bytes that one token of a micro-batch keeps on the device in training.

    Of every linear its input and its output in 16 bits, and as much again for norms, rotary
    embeddings, attention and the adapter's own path; the logits in 16 bits, in float32, and their
    gradient. A rough upper guess: no gradient checkpointing, a target at every position.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    widths = sum(m.in_features + m.out_features for m in linears)
    vocabulary = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    return float(2 * 2 * widths / 1.5 + vocabulary * (2 + 4 + 4))


def estimate(
    model: ModelConfig,
    *,
    rank: int,
    target_modules: str,
    optimizer: str,
    micro_batch_size: int,
    max_length: int,
) -> dict[str, float]:
    """Estimate the device memory of the largest trial, in GiB, from the shapes of the model alone.

    Returns:
        `base_parameters` and `adapter_parameters` (counts); `weights_gib`; `adapter_gib` (float32
        weights, gradients, optimizer); `activations_gib` for one micro-batch of the longest rows
        without gradient checkpointing. A rough upper guess, since rows are seldom all that long.
    """
    config = AutoConfig.from_pretrained(
        local_or_hub(model.name), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    head = shapes.get_output_embeddings()
    linears = {
        name: module
        for name, module in shapes.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    wanted = TARGET_MODULES[target_modules]
    targets = [
        module
        for name, module in linears.items()
        if wanted == "all-linear" or name.rsplit(".", 1)[-1] in wanted
    ]
    n_linear = sum(module.weight.numel() for module in linears.values())
    n_base = sum(parameter.numel() for parameter in shapes.parameters())
    n_adapter = rank * sum(module.in_features + module.out_features for module in targets)
    activations = micro_batch_size * max_length * activation_bytes_per_token(shapes)
    gib = 2.0**30
    return {
        "base_parameters": float(n_base),
        "adapter_parameters": float(n_adapter),
        "weights_gib": (n_linear * WEIGHT_BYTES[model.quantization] + (n_base - n_linear) * 2)
        / gib,
        "adapter_gib": n_adapter * (4 + 4 + ADAMW_BYTES[optimizer]) / gib,
        "activations_gib": activations / gib,
    }
