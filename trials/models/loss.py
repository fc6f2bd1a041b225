"""The loss of whole logits, and the same in chunks: the logits of all targets would be the largest
tensor of a step."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
from torch.autograd.function import once_differentiable

MOST_LOGITS = 2**25
"""Made at once: 128 MiB in float32, of 256 targets at a vocabulary of 128,000."""

Forward = Callable[[], tuple[torch.Tensor, torch.Tensor]]
"""Makes the logits of a batch's targets, (targets, vocabulary), and gives the targets."""

CrossEntropy = Callable[[torch.Tensor, torch.Tensor, bool], tuple[torch.Tensor, torch.Tensor]]
"""Makes of logits, which it may write over, and targets each target's negative log-likelihood, in
float32, and, where wanted, the gradient of their sum, (targets, vocabulary)."""


class WholeLoss:
    """Negative log-likelihoods of the logits that a model makes, all at once."""

    def sum(self, forward: Forward) -> torch.Tensor:
        """Return that of all targets."""
        logits, targets = forward()
        return F.cross_entropy(logits.float(), targets, reduction="sum")

    def each(self, forward: Forward, *, counts_correct: bool) -> tuple[torch.Tensor, Any]:
        """Return that of each target and, where asked for, whether it is the first choice."""
        logits, targets = forward()
        nlls = F.cross_entropy(logits.float(), targets, reduction="none")
        return nlls, _correct(logits, targets) if counts_correct else None


@dataclass(frozen=True, slots=True)
class ChunkedLoss(WholeLoss):
    """The same of the hidden states before a model's head, some targets at a time.

    The head is frozen, so the gradient is made beside the loss, from logits that are there, and
    nothing is computed twice.
    """

    head: Any
    """Frozen."""
    dtype: torch.dtype
    """Of the matrix products."""
    cross_entropy: CrossEntropy
    most_logits: int = MOST_LOGITS

    def sum(self, forward: Forward) -> torch.Tensor:
        with passing_on(self.head):
            hidden, targets = forward()
        nll: torch.Tensor = _NllSum.apply(hidden, targets, self)  # type: ignore[no-untyped-call]
        return nll

    @torch.no_grad()
    def each(self, forward: Forward, *, counts_correct: bool) -> tuple[torch.Tensor, Any]:
        with passing_on(self.head):
            hidden, targets = forward()
        nlls, correct = [], []
        for logits, some in self.chunks(hidden.to(self.dtype), targets):
            if counts_correct:
                correct.append(_correct(logits, some))
            nlls.append(self.cross_entropy(logits, some, False)[0])
            del logits  # before the next are made
        return torch.cat(nlls), torch.cat(correct) if counts_correct else None

    def chunks(self, *of_targets: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield some logits at a time, and what else belongs to their targets.

        Args:
            of_targets: Hidden states, then others, each (targets, …).
        """
        weight, bias = self.head.weight.to(self.dtype), self.head.bias
        bias = None if bias is None else bias.to(self.dtype)
        n = max(1, math.ceil(len(of_targets[0]) * len(weight) / self.most_logits))
        for hidden, *others in zip(*(each.tensor_split(n) for each in of_targets), strict=True):
            yield F.linear(hidden, weight, bias), *others


class _NllSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, loss: ChunkedLoss
    ) -> torch.Tensor:
        inputs = hidden.to(loss.dtype)
        weight = loss.head.weight.to(loss.dtype)
        # In float16 a probability below 6e-8 is 0; the trial's own scale comes only in backward.
        ctx.scale = 2.0**10 if loss.dtype is torch.float16 else 1.0
        ctx.dtype, wants_gradient = hidden.dtype, ctx.needs_input_grad[0]
        gradients = torch.empty_like(inputs if wants_gradient else inputs[:, :0])
        nlls = []
        for logits, some, into in loss.chunks(inputs, targets, gradients):
            nll, of_logits = loss.cross_entropy(logits, some, wants_gradient)
            nlls.append(nll)
            if wants_gradient:
                if ctx.scale != 1.0:
                    of_logits.mul_(ctx.scale)
                torch.mm(of_logits.to(loss.dtype), weight, out=into)
            del logits, of_logits  # before the next are made
        ctx.save_for_backward(gradients)
        return torch.cat(nlls).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        # In float32: in 16 bits `outer` would be rounded, and all gradients with it.
        return (gradients.float() * (outer / ctx.scale)).to(ctx.dtype), None, None


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, wants_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's. The gradient is in float32."""
    found = F.log_softmax(logits.float(), dim=-1)
    places = targets[:, None]
    nlls = -found.gather(1, places).squeeze(1)
    if wants_gradient:
        found.exp_().scatter_add_(1, places, torch.full_like(nlls, -1.0)[:, None])
    return nlls, found


def _correct(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=-1) == targets


def frozen_head(model: Any) -> Any:
    """Return the layer that makes the logits, if it is a plain one that is not trained; or None."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.weight.requires_grad:
        return None
    return head if head.weight.is_floating_point() else None


@contextlib.contextmanager
def passing_on(head: Any, *, zeros: int = 0) -> Iterator[None]:
    """Let a layer give what it is given: the model then gives what its logits are made of.

    Args:
        zeros: As many follow.
    """
    own = vars(head).get("forward")
    vars(head)["forward"] = lambda hidden: F.pad(hidden, (0, zeros)) if zeros else hidden
    try:
        yield
    finally:
        del vars(head)["forward"]
        if own is not None:
            vars(head)["forward"] = own


def likely_loss(model: Any) -> WholeLoss:
    """Guess which loss a model will be shown to have, from its shape alone."""
    about = vars(model.config.get_text_config())
    is_capped = any(
        value
        for name, value in about.items()
        if "logit" in name and "cap" in name and not name.startswith("attn")
    )
    head = frozen_head(model)
    if head is None or is_capped or _CHANGED.search(_code(model)):
        return WholeLoss()
    return ChunkedLoss(head, model.dtype, cross_entropy)


_CHANGED = re.compile(r"\blogits = logits\[|\blogits\[.*\] = torch\.finfo")
"""Of a forward pass that leaves some logits out, as Inkling's, or masks some, as Chameleon's."""


def _code(model: Any) -> str:
    try:
        return inspect.getsource(type(model).forward)
    except OSError:
        return ""
