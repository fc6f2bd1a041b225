"""All that the parts know of the inside of a backend: mend it here when that changes."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trials.config import ModelConfig
from trials.models.frozen_base import FrozenBase

FLASH, PLAIN = "flash_attention_2", "sdpa"


def kinds_of_attention() -> dict[str, str | None]:
    """Return kinds that the backend may choose, as transformers names them; None: not here."""
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.utils import is_flash_attn_2_available

    importlib.import_module("trials.backends.transformers_qlora")  # registers its own, if any
    known = ALL_ATTENTION_FUNCTIONS.valid_keys()
    varlen = next((name for name in known if "varlen" in name), None)
    if not torch.cuda.is_available():  # its kernel is a GPU's
        varlen = None
    return {
        "sdpa": PLAIN,
        "flash": FLASH if is_flash_attn_2_available() else None,
        "varlen": varlen,
    }


def with_attention(base: FrozenBase, kind: str) -> FrozenBase:
    """Return a base of the same model whose attention is of a kind."""
    from trials.backends.transformers_qlora import TransformersBase

    base.model.set_attn_implementation(kind)
    return TransformersBase(base.model, base.device, base.dtype)


@contextlib.contextmanager
def rows_lie(base: FrozenBase, *, packed: bool) -> Iterator[None]:
    """Let rows lie end to end, or padded side by side, whatever the backend would choose."""
    with patch.object(type(base), "_packs", lambda self, batch: packed):
        yield


def can_pack(base: Any) -> bool:
    """Whether the backend has seen that rows end to end do not see each other."""
    return bool(base._rows_stay_apart)


def cached(model: ModelConfig) -> tuple[str, float, int]:
    """Load a model by the cache of quantised ones, however small it is.

    Returns:
        The hash of its content, seconds, and entries in the cache.
    """
    from platformdirs import user_cache_path

    from trials.backends import quantised
    from trials.backends.loading import load
    from trials.backends.proof import content_hash

    quantised.SMALLEST_BYTES = 0
    base = load(model)
    folder: Path = user_cache_path("sweep") / "quantised"
    entries = list(folder.glob("*/content.json"))
    return content_hash(base.model), base.load_seconds, len(entries)
