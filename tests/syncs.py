"""What would make the host wait for a GPU, counted on a processor."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
WAITS = (
    _aten._local_scalar_dense,  # item, float, bool, int
    _aten.nonzero,
    _aten.equal,
    _aten.masked_select,
    _aten._unique2,
    _aten.unique_consecutive,
    _aten.repeat_interleave.Tensor,
    _aten.bincount,
)
"""Operations whose result, or the size of it, the host must read."""
READS = ("cpu", "numpy", "tolist", "__array__")
"""Methods that copy a tensor to the host, which on a processor pass no dispatch. `to` is not among
them: where the device is a processor, it is what brings tensors to the device."""


class Syncs:
    """Counts them while it is entered: `with Syncs() as syncs: …; syncs.places`."""

    def __init__(self) -> None:
        self.places: list[str] = []
        """One for each, by the nearest lines of code."""
        self._modes = contextlib.ExitStack()
        self._is_host = 0

    def __enter__(self) -> Syncs:
        self._modes.enter_context(_Dispatched(self))
        self._modes.enter_context(_Called(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._modes.close()

    @contextlib.contextmanager
    def on_host(self) -> Iterator[None]:
        """What happens inside is about tensors of the host, which wait for nothing."""
        self._is_host += 1
        try:
            yield
        finally:
            self._is_host -= 1

    def of_host(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function that works on the host alone."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.on_host():
                return function(*args, **kwargs)

        return wrapped

    def note(self, what: str) -> None:
        if self._is_host:
            return
        frames = [f for f in traceback.extract_stack() if "torch/" not in f.filename][-5:-2]
        lines = (f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno}" for f in frames)
        self.places.append(f"{what}: {' > '.join(lines)}")


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, syncs: Syncs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._syncs = syncs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_mask = func.overloadpacket in (_aten.index, _aten.index_put, _aten.index_put_) and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if is_mask or func in WAITS or func.overloadpacket in WAITS:
            self._syncs.note(str(func))
        return func(*args, **kwargs or {})


class _Called(TorchFunctionMode):
    def __init__(self, syncs: Syncs) -> None:
        super().__init__()
        self._syncs = syncs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS:
            self._syncs.note(name)
        return func(*args, **kwargs or {})
