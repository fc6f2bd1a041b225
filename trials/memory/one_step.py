"""What a training step takes of a device, found without it: the step runs on the meta device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trials.models.loss import likely_loss
from trials.models.shapes import taken_by

MOST_OPERATIONS = 100_000
"""Of a step that is gone through: 20 s. A Llama of 126 layers has about 60,000."""


def peak_bytes(
    adapted: Any, *, rows: int, length: int, on_gpu: bool, at_most: int = MOST_OPERATIONS
) -> int:
    """Return the most that a forward and a backward pass hold at once, beside the model itself.

    Without gradient checkpointing, with a target at every position, in the model's own type. The
    gradients of the adapter are in it.

    Args:
        adapted: A model on the meta device with an adapter, in one type.
        on_gpu: Whether attention kernels are those of GPUs.
        at_most: Operations.

    Raises:
        TooLong: It has more of them.
    """
    ids = torch.zeros(rows, length, dtype=torch.long, device="meta")
    predicting = torch.arange(length - 1, device="meta")
    base = adapted.get_base_model()
    asked = taken_by(base, logits_to_keep=predicting, use_cache=False)
    targets = torch.zeros(rows * (length - 1), dtype=torch.long, device="meta")

    def forward() -> tuple[torch.Tensor, torch.Tensor]:
        logits = adapted(input_ids=ids, **asked).logits
        return logits[:, : length - 1].flatten(0, 1), targets

    held = _Held([*adapted.parameters(), *adapted.buffers()], at_most)
    try:
        with held, _FusedAttention(on_gpu=on_gpu), _without_autocast():
            torch.autograd.backward(likely_loss(base).sum(forward))
    finally:
        adapted.zero_grad()
    return held.most


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    """peft turns it off around experts, but torch knows of none on the meta device."""
    own = torch.autocast
    vars(torch)["autocast"] = lambda *args, **kwargs: contextlib.nullcontext()
    try:
        yield
    finally:
        vars(torch)["autocast"] = own


class TooLong(Exception):
    """A step has more operations than are worth going through."""


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations make, until nothing refers to them."""

    def __init__(self, given: Iterable[torch.Tensor], at_most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, object] = dict.fromkeys(t.untyped_storage()._cdata for t in given)
        self._now = self.most = 0
        self._operations_left = at_most

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True  # no values here; models ask whether rows are whole, and each alone
        self._operations_left -= 1
        if self._operations_left < 0:
            raise TooLong
        if func is torch.ops.aten._grouped_mm.default:
            result = _of_experts(*args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._take(tensor.untyped_storage())
        return result

    def _take(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def give_back(_: object) -> None:
            del self._known[key]
            self._now -= size

        self._known[key] = weakref.ref(storage, give_back)
        self._now += size
        self.most = max(self.most, self._now)


def _of_experts(left: torch.Tensor, right: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
    """On the meta device there is this product in bfloat16 alone."""
    product = torch.ops.aten._grouped_mm.default
    found: torch.Tensor = product(left.bfloat16(), right.bfloat16(), *more, **named)
    return found.to(left.dtype)


class _FusedAttention(TorchFunctionMode):
    """Take the fused kernel where a real device would: meta has the plain one alone, whose scores,
    (tokens, tokens) for each head, are kept."""

    def __init__(self, *, on_gpu: bool) -> None:
        super().__init__()
        self._on_gpu = on_gpu

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self._is_fused(*args, **kwargs):
            query, key, value = args[:3]
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return kernel(query, key, _as_wide(value, query))[0][..., : value.shape[-1]]
        return func(*args, **kwargs)

    def _is_fused(
        self, query: Any, key: Any, value: Any, *_: Any, dropout_p: float = 0.0, **more: Any
    ) -> bool:
        # Falcon's only key goes with all queries by broadcasting, which no fused kernel knows.
        if query.shape[1] != key.shape[1] and not more.get("enable_gqa"):
            return False
        return self._on_gpu or (dropout_p == 0.0 and query.shape[-1] == value.shape[-1])


def _as_wide(value: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    return F.pad(value, (0, query.shape[-1] - value.shape[-1]))
