"""Load a base model with the backend it is to be trained by."""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING

from trials.config import ComputeDtype, ModelConfig
from trials.models.frozen_base import FrozenBase

if TYPE_CHECKING:
    import torch


BACKEND_MODULES = {
    "transformers": "trials.backends.transformers_qlora",
    "unsloth": "trials.backends.unsloth_qlora",
}


def load(config: ModelConfig, gpu_share: float = 1.0) -> FrozenBase:
    """Load the base model with the backend of `config`, whose module is imported only now.

    Unsloth patches transformers and peft when it is imported, so a process holds one backend.

    Args:
        gpu_share: Of the GPU's memory that this process may take, from 0 to 1.
    """
    backend = importlib.import_module(BACKEND_MODULES[config.backend])
    if gpu_share < 1.0:
        from trials.memory.device import limit_memory

        limit_memory(gpu_share)
    began = time.perf_counter()
    base: FrozenBase = backend.load(config)
    base.load_seconds = time.perf_counter() - began
    return base


NOT_IN_FLOAT16 = tuple("embedding_gemma2 gemma3 gemma4 glm4_moe gpt_oss qwen3_5 qwen3_moe".split())
"""Beginnings of model types whose gradients are not finite in float16 (unsloth_zoo 2026.10.9,
model_lists.py). Unsloth's own kernels are for none of them."""


def compute_dtype(
    name: ComputeDtype, device: torch.device, model_type: str | None = None
) -> torch.dtype:
    """Return the type of the matrix products; auto is bfloat16 unless the GPU only emulates it.

    Args:
        model_type: Of the model's config.json.
    """
    import torch

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float32 if (model_type or "").startswith(NOT_IN_FLOAT16) else torch.float16
    return torch.bfloat16
