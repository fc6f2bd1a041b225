"""Activations are computed again in the backward pass, in the kind that keeps the least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.nn import Linear8bitLt

from trials.memory.device import is_out_of_memory

ROUNDING = 1e-2
"""How far a gradient may be from that of a plain pass, relative to its norm."""

NllSum = Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]


def is_in_8_bits(model: torch.nn.Module) -> bool:
    """Whether only reentrant checkpointing keeps little.

    An 8-bit layer holds its inputs past autograd (bitsandbytes/autograd/_functions.py,
    MatMul8bitLt: `ctx.tensors`), where the other kind does not see them.
    """
    return any(isinstance(module, Linear8bitLt) for module in model.modules())


def recompute(model: Any, *, reentrant: bool) -> None:
    """Turn it on; `stop_recomputing` turns it off."""
    model.disable_input_require_grads()  # else a second hook takes the place of the first's handle
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if not reentrant:
        # It has also put a hook on the embeddings so that their output requires a gradient. Only
        # reentrant checkpointing needs that.
        model.disable_input_require_grads()


def stop_recomputing(model: Any) -> None:
    model.gradient_checkpointing_disable()
    model.disable_input_require_grads()


def reentrant_is_right(model: Any, adapted: Any, nll_sum: NllSum) -> bool:
    """Whether reentrant checkpointing gives the gradients of a plain pass, shown on a short row.

    It loses those of what a layer takes by name, or gives to later ones past its output.
    """
    was_training = adapted.training
    adapted.train()
    model.get_input_embeddings().eval()  # where NEFTune's noise would miss the row's length
    try:
        stop_recomputing(model)
        plain = _gradients(adapted, nll_sum)
        recompute(model, reentrant=True)
        again = _gradients(adapted, nll_sum)
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return False
    finally:
        stop_recomputing(model)
        adapted.zero_grad()
        adapted.train(was_training)
    return all(
        found is not None and bool((found - p).norm() <= ROUNDING * p.norm())
        for p, found in zip(plain, again, strict=True)
        if p is not None
    )


def _gradients(adapted: Any, nll_sum: NllSum) -> list[torch.Tensor | None]:
    ids = torch.arange(16)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    adapted.zero_grad()
    with torch.random.fork_rng():  # dropout draws the same each time, and nothing of the trial's
        torch.manual_seed(0)
        torch.autograd.backward(nll_sum(adapted, batch))
    return [p.grad for p in adapted.parameters() if p.requires_grad]
