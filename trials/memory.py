"""Which micro-batch fits: halve it when memory runs out, keep the effective batch, remember."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trials.base_model import TARGET_MODULES, local_or_hub
from trials.config import ModelConfig, TrialConfig, largest_divisor


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
    """What a worker has learnt about the micro-batches that its device can hold."""

    _failed: dict[tuple[int, int, str], Attempt] = field(default_factory=dict)

    def attempts(self, config: TrialConfig) -> Iterator[Attempt]:
        """Yield attempts, the fastest first; each micro-batch divides the effective batch.

        What has run out of memory before is left out, but for the very last resort.
        """
        sizes = [largest_divisor(config.effective_batch_size, config.micro_batch_size)]
        while sizes[-1] > 1:
            sizes.append(largest_divisor(config.effective_batch_size, sizes[-1] // 2))
        *attempts, last = [
            Attempt(m, checkpointing) for checkpointing in (False, True) for m in sizes
        ]
        for attempt in attempts:
            failed = self._failed.get(self._key(config))
            if failed is None or not attempt.needs_as_much_as(failed):
                yield attempt
        yield last

    def did_not_fit(self, config: TrialConfig, attempt: Attempt) -> None:
        """Remember that this attempt ran out of memory, so that no later trial makes it."""
        self._failed[self._key(config)] = attempt

    @staticmethod
    def _key(config: TrialConfig) -> tuple[int, int, str]:
        return config.max_length, config.rank, config.target_modules


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device, or the host in its place, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


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
        without gradient checkpointing: what each decoder layer keeps for its backward pass, and
        the logits in float32. A rough upper guess, since rows are seldom all that long.
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
    tokens = micro_batch_size * max_length
    # Of every linear: its input and its output in 16 bits, and as much again for norms, rotary
    # embeddings, attention and the adapter's own path.
    per_token = 2 * 2 * sum(m.in_features + m.out_features for m in linears.values()) / 1.5
    logits = tokens * config.get_text_config().vocab_size * (2 + 4 + 4)
    gib = 2.0**30
    return {
        "base_parameters": float(n_base),
        "adapter_parameters": float(n_adapter),
        "weights_gib": (n_linear * WEIGHT_BYTES[model.quantization] + (n_base - n_linear) * 2)
        / gib,
        "adapter_gib": n_adapter * (4 + 4 + ADAMW_BYTES[optimizer]) / gib,
        "activations_gib": (tokens * per_token + logits) / gib,
    }
