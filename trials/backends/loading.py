"""Load a base model with the backend it is to be trained by."""

from __future__ import annotations

import importlib
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from trials.config import ComputeDtype, ConfigError, ModelConfig
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


MOST_SHOWN = 5
"""Keys of a checkpoint."""


def check_keys(name: str, found: Mapping[str, Any]) -> None:
    """See that a model has its checkpoint's weights, and say what of it is left out.

    Args:
        found: What transformers tells of a load: after its own renaming, without tied weights.

    Raises:
        ConfigError: Weights are missing or of another shape: they would be drawn at random.
    """
    mismatched = [key if isinstance(key, str) else key[0] for key in found["mismatched_keys"]]
    wrong = {"are missing": found["missing_keys"], "have another shape": mismatched}
    told = [f"{len(keys)} {how} ({_shown(keys)})" for how, keys in wrong.items() if keys]
    told += [str(words) for words in found.get("error_msgs", ())]
    if told:
        raise ConfigError(
            f"base_model: every weight must be in the checkpoint, but of {name} "
            f"{'; '.join(told)}. Download it again, or name another checkpoint."
        )
    if unused := found["unexpected_keys"]:
        print(f"weights of {name} that the model does not use: {_shown(unused)}", flush=True)


def _shown(keys: Collection[str]) -> str:
    more = f" and {len(keys) - MOST_SHOWN} more" if len(keys) > MOST_SHOWN else ""
    return ", ".join(sorted(keys)[:MOST_SHOWN]) + more


def compute_dtype(name: ComputeDtype, device: torch.device) -> torch.dtype:
    """Return the type of the matrix products; auto is bfloat16 unless the GPU only emulates it."""
    import torch

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
