"""Which kind of attention a model computes with: the fastest that is shown to work."""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from trials.backends.known_rows import VARLEN
from trials.backends.varlen import can_name_bounds, try_out
from trials.memory.device import is_out_of_memory

FLASH = "flash_attention_2"
BOUNDED = (FLASH, VARLEN)
"""Kinds that take where rows begin and end, and need no mask for it."""


def choose_attention(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Take flash-attn where it works, else torch's own for packed rows, else what is there."""
    is_16_bit = dtype in (torch.bfloat16, torch.float16)
    if device.type != "cuda" or not is_16_bit or torch.cuda.get_device_capability(device) < (8, 0):
        return
    if is_flash_attn_2_available():
        switch_attention(model, FLASH, dtype)
    if can_name_bounds(model):
        switch_attention(model, VARLEN, dtype)


@torch.no_grad()
def switch_attention(model: Any, kind: str, dtype: torch.dtype) -> None:
    """Switch to a kind of attention if it works with this model, shown by a few tokens.

    A flash-attn built for another torch fails as it is imported, heads above 256 in the kernel.
    """
    own = model.config._attn_implementation
    try:
        if kind == VARLEN:
            try_out(model, dtype)
        else:
            model.set_attn_implementation(kind)
            with torch.autocast(model.device.type, dtype):
                model(input_ids=torch.tensor([[0, 0]], device=model.device), use_cache=False)
    except ValueError:  # the model's own attention has no such form
        model.set_attn_implementation(own)
    except (ImportError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        model.set_attn_implementation(own)
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{kind} does not work here, so attention is {own}: {why}", flush=True)
