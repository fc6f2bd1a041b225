"""How a tiny configuration of an architecture is made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 512

COMMON: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
"""Given to each configuration that knows the name."""

ALWAYS: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    # As large as in a trained model: near 0, attention sees every token alike.
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to make a tiny configuration of an architecture."""

    model_type: str
    """As transformers names it."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Settings beside the common ones, or in their place; of a wrapper, its own alone."""
    text: Architecture | None = None
    """Of a model that also sees or hears: its text part."""
    vision: Mapping[str, Any] | None = None
    """Of the same: its tower's settings."""
    bare: bool = False
    """Whether it has other names for the common settings, and gets none of them."""


def made(architecture: Architecture) -> Any:
    """Return the configuration of transformers."""
    from transformers import AutoConfig

    own = copy.deepcopy(dict(architecture.own))
    if architecture.text is not None:
        text = made(architecture.text)
        is_tied = getattr(text, "tie_word_embeddings", False)
        parts = {"text_config": text.to_dict(), "tie_word_embeddings": is_tied}
        if architecture.vision is not None:
            parts["vision_config"] = copy.deepcopy(dict(architecture.vision))
        return AutoConfig.for_model(architecture.model_type, **parts, **own)
    usual = AutoConfig.for_model(architecture.model_type)
    known = {*usual.to_dict(), *getattr(usual, "attribute_map", {})}
    common = {} if architecture.bare else COMMON
    given = {key: value for key, value in {**common, **ALWAYS}.items() if key in known}
    # None: the configuration is to say nothing of it.
    given = {key: value for key, value in {**given, **own}.items() if value is not None}
    return AutoConfig.for_model(architecture.model_type, **given)


def text_model(model_type: str, **own: Any) -> Architecture:
    return Architecture(model_type, own)


def bare(model_type: str, **own: Any) -> Architecture:
    return Architecture(model_type, own, bare=True)
