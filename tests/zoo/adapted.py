"""Which modules an adapter lies on, by their names."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch

# Not the gate of a shared expert, which chooses none.
ROUTER = re.compile(r"\.(gate|router|router\.\w+|wg|classifier)$")
TOWER = re.compile(r"vision|visual|image|audio|multi_modal_projector|connector")


def adapted_kinds(adapted: Any) -> dict[str, int]:
    """Return how many modules of each name have an adapter."""
    return dict(Counter(name.rpartition(".")[2] for name in _adapted_names(adapted)))


def left_out_kinds(adapted: Any) -> dict[str, int]:
    """Return how many linear layers of each name have none, but for the head and towers."""
    from transformers.pytorch_utils import Conv1D

    with_one = _adapted_names(adapted)
    head = adapted.get_output_embeddings()
    return dict(
        Counter(
            name.rpartition(".")[2]
            for name, module in adapted.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D)
            and module is not head
            and "lora_" not in name
            and name.removesuffix(".base_layer") not in with_one
            and not TOWER.search(name)
        )
    )


def misplaced(adapted: Any) -> list[str]:
    """Return the names of routers, and of layers that no text goes through, with an adapter."""
    wrong = (name for name in _adapted_names(adapted) if ROUTER.search(name) or TOWER.search(name))
    return sorted({re.sub(r"\d+", "*", name.rpartition("model.")[2]) for name in wrong})


def _adapted_names(adapted: Any) -> set[str]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    # Of experts that are parameters, layers lie within layers.
    return {
        _named(name, module)
        for name, module in adapted.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _named(name: str, module: Any) -> str:
    parameter = getattr(module, "parameter_name", None)
    name = name.replace(".base_layer", "")
    return f"{name}.{parameter}" if parameter else name
