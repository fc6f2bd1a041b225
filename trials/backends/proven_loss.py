"""Which loss is the model's own: in chunks where that is shown, else of whole logits."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from trials.backends.liger_loss import liger_cross_entropy
from trials.backends.packing import Layout, padded
from trials.data.tokens import IGNORED
from trials.memory.device import is_out_of_memory
from trials.models.loss import (
    ChunkedLoss,
    Forward,
    WholeLoss,
    cross_entropy,
    frozen_head,
    passing_on,
)

LARGEST = 40.0
"""Size of the logits of half of a proof: there a soft cap shows, which is often 30."""

OFF = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""How far losses may be from the model's own, relative to their norm; gradients ten times as far.

Of 112 tiny models: equal to 2e-7, gradients to 4e-8, in float16 to 4e-5. With a scale that is no
power of two, which rounds the hidden states in place of the logits: 4e-3 and 0.04 in 16 bits, 3e-7
and 1.4e-6 in float32. Of the six that cap their logits: at least 0.06, and 0.45.
"""


def proven_loss(
    model: Any, dtype: torch.dtype, forward: Callable[[Layout], tuple[torch.Tensor, torch.Tensor]]
) -> WholeLoss:
    """Return the loss in chunks if it is the model's own, shown on two short rows.

    What the model does to its logits, it then does to the hidden states: a scale gives the same,
    a soft cap does not. One that masks or leaves out some is known by zeros in their place.
    """
    if (head := frozen_head(model)) is None:
        return WholeLoss()
    two_rows = functools.partial(forward, _two_rows(model))
    # In float16 Liger's gradient has no scale yet where it is written, and small ones would be 0.
    if model.device.type == "cuda" and dtype is not torch.float16 and find_spec("liger_kernel"):
        fused = ChunkedLoss(head, dtype, liger_cross_entropy)
        if (why := _why_not(model, fused, two_rows)) is None:
            return fused
        print(f"Liger's loss is not used here: {why}", flush=True)
    chunked = ChunkedLoss(head, dtype, cross_entropy)
    if (why := _why_not(model, chunked, two_rows)) is None:
        return chunked
    print(f"The loss is made of whole logits: {why}", flush=True)
    return WholeLoss()


def _why_not(model: Any, loss: ChunkedLoss, forward: Forward) -> str | None:
    """Say why it is not the model's own: its code may do another thing in training."""
    try:
        for is_training in (True, False):
            model.train(is_training)
            if why := _why_not_now(loss, forward):
                return why
        return None
    finally:
        model.eval()


@torch.enable_grad()
def _why_not_now(loss: ChunkedLoss, forward: Forward) -> str | None:
    several = replace(loss, most_logits=5 * len(loss.head.weight))
    try:
        if not _takes_all(loss.head, forward):
            return "some logits are masked or left out"
        with _probed(loss.head) as probes:
            wanted = _measured(WholeLoss(), forward(), probes)
            with passing_on(loss.head):
                found = _measured(several, forward(), probes)
    # Exception: a model's own code meets hidden states where it looks for logits.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}".splitlines()[0]
    nlls, gradients = (
        float(((f - w).norm(dim=1) / w.norm(dim=1)).max())
        for f, w in zip(found, wanted, strict=True)
    )
    if nlls <= OFF[loss.dtype] and gradients <= 10 * OFF[loss.dtype]:
        return None
    return f"losses are {nlls:.1g} off, gradients {gradients:.1g}"


@torch.no_grad()
def _takes_all(head: Any, forward: Forward) -> bool:
    """Whether the model gives as many logits as its head, and masks none.

    Few of many thousands are too small a share to show in 16 bits. It comes first: a GPU does not
    survive a mask beyond the hidden states.
    """
    n_outputs, width = head.weight.shape
    with passing_on(head, zeros=max(0, n_outputs - width)):
        found, _ = forward()
    return found.shape[-1] == max(n_outputs, width) and not found[:, width:].any()


def _two_rows(model: Any) -> Layout:
    ids = torch.randint(
        model.get_input_embeddings().num_embeddings,
        (2, 12),
        generator=torch.Generator().manual_seed(0),  # its own: a trial's seed is not touched
    )
    labels = ids.clone()
    labels[:, :4] = IGNORED
    return padded({"input_ids": ids, "labels": labels})


@contextlib.contextmanager
def _probed(head: Any) -> Iterator[list[torch.Tensor]]:
    """Give the head always the same input, which wants a gradient; its second half is enlarged."""
    probes: list[torch.Tensor] = []

    @torch.no_grad()
    def probe(_: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        if not probes:
            factors = torch.ones(given[0].shape[:-1], device=given[0].device).flatten()
            factors[len(factors) // 2 :] = LARGEST / head.forward(given[0]).abs().max()
            enlarged = given[0] * factors.view(*given[0].shape[:-1], 1)
            probes.append(enlarged.to(given[0].dtype).requires_grad_())
        return (probes[0],)

    hook = head.register_forward_pre_hook(probe)
    try:
        yield probes
    finally:
        hook.remove()


def _measured(
    loss: WholeLoss, given: tuple[torch.Tensor, torch.Tensor], probes: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses and the gradient of their sum, each (2, …): the two halves."""
    nll = loss.sum(lambda: given)
    (gradient,) = torch.autograd.grad(nll, probes)
    each, _ = loss.each(lambda: given, counts_correct=False)
    losses = torch.cat([each.detach().view(2, -1), nll.detach().expand(2, 1)], dim=1)
    return losses, gradient.float().view(2, -1)
