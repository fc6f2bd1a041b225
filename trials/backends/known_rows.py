"""Tell transformers that rows lie end to end, so that it does not ask the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionMaskInterface
from transformers.masking_utils import and_masks, packed_sequence_mask_function

VARLEN = "torch_varlen"
"""Our name, in transformers, for torch's own `varlen_attn`."""

MakeMask = Callable[..., torch.Tensor | None]

_INPUTS: ContextVar[Mapping[str, Any] | None] = ContextVar("inputs", default=None)
"""Of the forward pass that is under way."""


@contextlib.contextmanager
def rows_known(inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the inputs of a forward pass with which it does not ask whether rows are packed.

    Without a mask, transformers looks for positions that begin anew, and waits for the device's
    answer (masking_utils.py, find_packed_sequence_indices). Given a mask without padding it does
    not look, and the masks that are made here keep the rows apart in its place.
    """
    token = _INPUTS.set(inputs)
    try:
        yield {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
    finally:
        _INPUTS.reset(token)


def _knowing_rows(make_mask: MakeMask, *, takes_bounds: bool) -> MakeMask:
    """Make a kind of attention's mask without looking at what the rows are known to be."""

    def make(*args: Any, **settings: Any) -> torch.Tensor | None:
        inputs = _INPUTS.get()
        if inputs is None:
            return make_mask(*args, **settings)
        if takes_bounds and "cu_seq_lens_q" in inputs:
            return None
        settings["attention_mask"] = None
        if "position_ids" in inputs:
            row_of = (inputs["position_ids"] == 0).cumsum(dim=-1)
            same_row = packed_sequence_mask_function(row_of)
            settings["mask_function"] = and_masks(settings["mask_function"], same_row)
            settings["allow_is_causal_skip"] = False
        return make_mask(*args, **settings)

    return make


for _kind, _own, _takes_bounds in (
    ("eager", "eager", False),
    ("sdpa", "sdpa", False),
    ("flash_attention_2", "flash_attention_2", True),
    (VARLEN, "sdpa", True),
):
    _mask = _knowing_rows(AttentionMaskInterface()[_own], takes_bounds=_takes_bounds)
    AttentionMaskInterface.register(_kind, _mask)
