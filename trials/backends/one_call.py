"""A linear layer and its adapter in one call of autograd, with half as many launches as peft's.

peft's own layers go forward through base, A, B, the scale and their sum one by one, and so back. At
the sizes of an adapter each of these costs a GPU's host more than the GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trials.models.lora import ADAPTER


def join_calls(adapted: Any) -> None:
    """Let the plain layers of a peft model compute base and adapter in one call.

    Layers with dropout or DoRA, on 8 bits, experts or another kind of layer stay peft's.
    """
    layers = [layer for layer in adapted.modules() if _is_plain(layer)]
    cast: dict[nn.Module, Sequence[Tensor]] = {}
    for layer in layers:
        layer.forward = functools.partial(_forward, layer, layer.forward, cast)
    # All at once: layer by layer this would be two launches each.
    adapted.register_forward_pre_hook(lambda *_: cast.update(_all_cast(layers)))
    # Later the weights may be others.
    adapted.register_forward_hook(lambda *_: cast.clear(), always_call=True)


def _is_plain(layer: Any) -> bool:
    if (type(layer), type(getattr(layer, "base_layer", None))) not in _KINDS:
        return False
    base = layer.base_layer
    return (
        isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and ADAPTER not in layer.lora_variant  # DoRA
        and not layer.lora_bias[ADAPTER]
        # Its own backward pass, which is left out, would be of these.
        and "forward" not in vars(base)
        and not any(hooks for name, hooks in vars(base).items() if name.endswith("_hooks"))
    )


_KINDS = {(lora.Linear, nn.Linear), (lora.Linear4bit, Linear4bit)}
"""peft's class and the base's; classes derived from them may do something else."""


def _all_cast(layers: Sequence[Any]) -> dict[nn.Module, Sequence[Tensor]]:
    """Return A and B of each layer in autocast's type, where it is on."""
    if not layers:
        return {}
    weights = [weight.detach() for layer in layers for weight in _weights(layer)]
    device = weights[0].device.type
    if not torch.is_autocast_enabled(device):
        return {}
    sizes = [weight.numel() for weight in weights]
    flat = weights[0].new_empty(sum(sizes), dtype=torch.get_autocast_dtype(device))
    parts = zip(torch.split(flat, sizes), weights, strict=True)
    copies = [part.view_as(weight) for part, weight in parts]
    torch._foreach_copy_(copies, weights)
    return dict(zip(layers, zip(copies[::2], copies[1::2], strict=True), strict=True))


def _weights(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def _forward(
    layer: Any,
    own: Any,
    cast: dict[nn.Module, Sequence[Tensor]],
    x: Tensor,
    *rest: Any,
    **more: Any,
) -> Any:
    device, base = x.device.type, layer.base_layer
    is_cast = torch.is_autocast_enabled(device)  # off where a model computes a part in float32
    dtype = torch.get_autocast_dtype(device) if is_cast else x.dtype
    is_in_dtype = getattr(base, "compute_dtype", None) in (None, dtype)  # of 4 bits
    if rest or more or layer.disable_adapters or layer.merged or not is_in_dtype:
        return own(x, *rest, **more)
    a, b = own_weights = _weights(layer)
    at_hand = cast.get(layer, own_weights) if is_cast else own_weights
    return _OneCall.apply(  # type: ignore[no-untyped-call]
        x, a, b, at_hand, layer.scaling[ADAPTER], base, dtype
    )


class _OneCall(torch.autograd.Function):
    """y = base(x) + s·x·Aᵀ·Bᵀ, with the scale s at the products' narrow side."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        cast: Sequence[Tensor],
        scale: float,
        base: nn.Module,
        dtype: torch.dtype,
    ) -> Tensor:
        """Compute in `dtype`; A and B in it, if they are at hand, are `cast`."""
        a, b = (weight.to(dtype) for weight in cast)
        rows = x.to(dtype).reshape(-1, x.shape[-1])
        down = _scaled(rows, a.t(), scale)
        of_base = base(x)
        # With a bias it is a view, which autograd would let no model change in place.
        y: Tensor = torch.ops.aten._unsafe_view(of_base, of_base.shape)
        if y.dtype == dtype:
            y.view(-1, len(b)).addmm_(down, b.t())
        else:  # 4 bits under autocast give back float32 for float32
            y.add_(down.mm(b.t()).view_as(y))
        ctx.save_for_backward(rows, down, a, b)
        ctx.scale, ctx.base, ctx.shape = scale, base, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, down, a, b = ctx.saved_tensors
        dy = dy.to(rows.dtype).reshape(-1, len(b))
        up = _scaled(dy, b, ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy.mm(_base_weight(ctx.base, dy.dtype)).addmm_(up, a).view(ctx.shape)
        return dx, _in_float32(up.t(), rows), _in_float32(dy.t(), down), None, None, None, None


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    product = left.new_empty(len(left), right.shape[1])
    return product.addmm_(left, right, beta=0, alpha=scale)


def _in_float32(left: Tensor, right: Tensor) -> Tensor:
    """A gradient of A or B, which are float32."""
    if left.is_cpu:  # where a product is of its factors' type: autograd casts it
        return left.mm(right)
    return torch.mm(left, right, out_dtype=torch.float32)


def _base_weight(base: Any, dtype: torch.dtype) -> Tensor:
    weight: Tensor = base.weight
    if isinstance(base, Linear4bit):
        # As a column, whichever way it lies (bitsandbytes/autograd/_functions.py, MatMul4Bit).
        weight = dequantize_4bit(weight.view(-1, 1), base.weight.quant_state)
    return weight.to(dtype)
