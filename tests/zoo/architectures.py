"""Every architecture of the zoo, by its name there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.zoo.seeing_models import SEEING_MODELS
from tests.zoo.text_models import TEXT_MODELS
from tests.zoo.tiny_config import Architecture, made

ARCHITECTURES: Mapping[str, Architecture] = {**TEXT_MODELS, **SEEING_MODELS}


def tiny_config(name: str) -> Any:
    """Return the configuration of transformers."""
    return made(ARCHITECTURES[name])
