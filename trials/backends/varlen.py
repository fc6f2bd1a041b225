"""Attention of rows that lie end to end by torch's own `varlen_attn`, without a mask.

transformers hands it what flash attention needs: where rows begin and end, and each layer's window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from trials.backends.known_rows import VARLEN, rows_known
from trials.backends.rows_apart import ROUNDING
from trials.machine import libraries
from trials.models.shapes import carries_state

FIRST, SECOND = 19, 27
"""Tokens of the rows that it is tried with."""

_TAKEN = frozenset("cu_seq_lens_q cu_seq_lens_k max_length_q max_length_k position_ids".split())
"""What a layer may hand to attention beside a scale and a window."""


class NotForVarlen(RuntimeError):
    """The kernel does not compute this model's attention."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as a layer of transformers calls it; padded rows and answers are for sdpa.

    Args:
        query: (1, heads, tokens, width); keys and values may have fewer heads.

    Returns:
        (1, tokens, heads, width).

    Raises:
        NotForVarlen: It is more than causal attention within the rows, or in a window of them.
    """
    bounds = settings.get("cu_seq_lens_q")
    if bounds is None:
        found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return found, None
    if attention_mask is not None or key.shape != value.shape or query.shape[2] != key.shape[2]:
        raise NotForVarlen("it has a mask of its own, or keys of another shape than values")
    window, scale = settings.pop("sliding_window", None), settings.pop("scaling", None)
    _check(module, **settings)
    dtype = value.dtype
    if torch.is_autocast_enabled(query.device.type):  # it does not know torch's custom operators
        dtype = torch.get_autocast_dtype(query.device.type)
    found = libraries.varlen_attn()(
        *(each.transpose(1, 2).squeeze(0).to(dtype) for each in (query, key, value)),
        bounds,
        bounds,
        settings["max_length_q"],
        settings["max_length_q"],
        scale=scale,
        # Keys to the left and right of a query; of a window it is one itself.
        window_size=(-1 if window is None else window - 1, 0),
    )
    return found.unsqueeze(0), None


def _check(
    module: torch.nn.Module, *, dropout: float = 0.0, is_causal: bool | None = None, **others: Any
) -> None:
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise NotForVarlen("tokens see those after them")
    asked = {name for name, given in others.items() if given is not None and given is not False}
    if more := sorted((asked - _TAKEN) | ({"dropout"} if dropout else set())):
        raise NotForVarlen(f"its layers ask for {', '.join(more)}")


AttentionInterface.register(VARLEN, attend)


def can_name_bounds(model: Any) -> bool:
    """Whether a model's layers hand on what attention without a mask needs, by transformers' word,
    and its rows may lie end to end at all."""
    is_plain = model.config._attn_implementation == "sdpa" and not carries_state(model)
    return is_plain and bool(getattr(model, "_supports_flash_attn", False))


def try_out(model: Any, dtype: torch.dtype) -> None:
    """Switch to it; raise unless it trains, and gives the logits of the model's own attention.

    Raises:
        NotForVarlen, RuntimeError, ImportError, ValueError: It does not.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, FIRST + SECOND), generator=chance).to(model.device)
    autocast = torch.autocast(model.device.type, dtype, enabled=dtype is not torch.float32)
    with autocast:
        alone = model(input_ids=ids[:, FIRST:], use_cache=False).logits.float()
    model.set_attn_implementation(VARLEN)
    if model.config._attn_implementation != VARLEN:
        raise ValueError("the model has attention of its own")
    with autocast, rows_known(_end_to_end(ids)) as inputs:
        with _in_training(model):
            model(**inputs, use_cache=False).logits.float().sum().backward()
        after = model(**inputs, use_cache=False).logits[:, FIRST:].float()
    if not (after - alone).norm() < ROUNDING * alone.norm():
        raise NotForVarlen("a row after another has other logits than alone")


def _end_to_end(ids: torch.Tensor) -> dict[str, Any]:
    positions = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])[None]
    bounds = torch.tensor([0, FIRST, FIRST + SECOND], dtype=torch.int32, device=ids.device)
    inputs = {"input_ids": ids, "position_ids": positions.to(ids.device)}
    inputs |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
    return inputs | {"max_length_q": SECOND, "max_length_k": SECOND}


@contextlib.contextmanager
def _in_training(model: Any) -> Iterator[None]:
    """With dropout as in training, and with gradients down to the embeddings."""
    model.enable_input_require_grads()
    model.train()
    try:
        with torch.enable_grad():
            yield
    finally:
        model.eval()
        model.disable_input_require_grads()
