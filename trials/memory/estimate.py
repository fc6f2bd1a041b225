"""How much memory a trial takes, before it is tried."""

from typing import Any

import torch
from transformers.quantizers.quantizers_utils import should_convert_module

from trials.config import ModelConfig, TrialConfig
from trials.distributed.group import Group
from trials.memory.device import free_bytes
from trials.models.frozen_base import FrozenBase
from trials.models.quantisation import kept_plain

ADAMW_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0}
"""Bytes of optimizer state for each trained parameter: two moments."""
WEIGHT_BYTES = {"nf4": 0.5 + 0.127 / 8, "int8": 1.0, "none": 2.0}
"""Bytes of a frozen linear weight; NF4 with double quantisation adds 0.127 bits (QLoRA, 3)."""


def linear_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """Return all linear layers by name, but for the head."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def activation_bytes_per_token(model: Any) -> float:
    """Estimate the bytes that one token of a micro-batch keeps on the device in training.

    Of every linear its input and its output in 16 bits, and as much again for norms, rotary
    embeddings, attention and the adapter's own path; the logits in 16 bits, in float32, and their
    gradient. A rough upper guess: no gradient checkpointing, a target at every position.
    """
    widths = sum(m.in_features + m.out_features for m in linear_layers(model).values())
    vocabulary = model.config.get_text_config().vocab_size
    return float(2 * 2 * widths / 1.5 + vocabulary * (2 + 4 + 4))


def estimate(
    shapes: Any,
    model: ModelConfig,
    *,
    n_adapter: int,
    optimizer: str,
    micro_batch_size: int,
    max_length: int,
) -> dict[str, float]:
    """Estimate the device memory of the largest trial, in GiB, from the shapes of the model alone.

    Args:
        shapes: The model on the meta device.
        n_adapter: Parameters of the largest adapter.

    Returns:
        `base_parameters` and `adapter_parameters` (counts); `weights_gib`; `adapter_gib` (float32
        weights, gradients, optimizer); `activations_gib` for one micro-batch of the longest rows
        without gradient checkpointing. A rough upper guess, since rows are seldom all that long.
    """
    config = shapes.config
    linears = linear_layers(shapes)
    skipped = (getattr(config, "quantization_config", None) or {}).get("llm_int8_skip_modules")
    skipped = skipped or kept_plain(shapes)
    n_linear = sum(
        module.weight.numel()
        for name, module in linears.items()
        if should_convert_module(name, skipped)
    )
    n_base = sum(parameter.numel() for parameter in shapes.parameters())
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
