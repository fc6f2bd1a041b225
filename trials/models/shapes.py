"""The base model without its weights: which class loads it, and what shapes it has."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trials.config import ModelConfig
from trials.models.sources import local_or_hub


def auto_class(config: Any) -> Any:
    """Return the class of transformers that loads a model of this configuration."""
    return AutoModelForCausalLM


def read_config(model: ModelConfig) -> Any:
    """Return the model's configuration, of transformers."""
    return AutoConfig.from_pretrained(
        local_or_hub(model.name), revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def on_meta(model: ModelConfig) -> Any:
    """Build the model on the meta device: all modules and shapes, no memory, and not quantised."""
    config = read_config(model)
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=model.trust_remote_code)


def carries_state(model: Any) -> bool:
    """Whether a layer is recurrent, a state-space model, a convolution or linear attention.

    Such a layer hands on what it has seen: where one row ends it cannot be told.
    """
    config = model.config.get_text_config()
    kinds = (
        kind
        for name in ("layer_types", "layers_block_type", "block_types")
        for kind in getattr(config, name, None) or ()
    )
    decoder = model.get_decoder() or model  # without the towers of images and sounds
    return (
        getattr(model, "_is_stateful", False)
        or any(kind.startswith("linear") or "attention" not in kind for kind in kinds)
        or any(isinstance(module, torch.nn.Conv1d) for module in decoder.modules())
    )
