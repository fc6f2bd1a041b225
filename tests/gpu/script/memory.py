"""Out of memory on purpose, in each place where a trial can run out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from tests.gpu.script.bench import Bench, expect_learnt, loaded, model_config, run, trial_config
from tests.gpu.script.found import needs
from tests.gpu.script.llama import WIDE, folder_of, longest_row, write_rows
from trials.models.frozen_base import FrozenBase

BLOCK_BYTES = (2**24, 2**21, 2**18, 2**14, 2**9)
"""Of what fills the holes that torch's allocator has left, the largest first."""


def out_of_memory(bench: Bench) -> None:
    """A trial goes on in smaller micro-batches, to the losses of one that had the memory."""
    needs("bitsandbytes")
    model = model_config(
        folder_of(bench, WIDE), "transformers", "nf4", max_length=longest_row(bench)
    )
    base = loaded(bench, model)
    data = write_rows(bench)
    plain = run(trial_config(bench, 0, model, data), base)
    expect_learnt(bench, plain, "without pressure")
    if not bench.has_gpu:
        bench.found.note("on processors the error is only raised, not met")
    for number, (place, full) in enumerate(places(base).items(), start=1):
        filled: list[bool] = []
        with full(filled):
            trial = run(trial_config(bench, number, model, data), base)
        expect_learnt(bench, trial, place)
        bench.found.figure(f"{place}, rows", trial.micro_batch_size)
        bench.found.figure(f"{place}, checkpointing", trial.recomputes)
        bench.found.figure(f"{place}, held MiB", round(trial.held_mib, 1))
        bench.found.expect(filled == [True], f"{place}: memory did not run out there")
        # Sums in bfloat16 in another order.
        bench.found.expect_equal(trial.losses, plain.losses, within=1e-2, of=place)


Full = Callable[[list[bool]], contextlib.AbstractContextManager[Any]]


def places(base: FrozenBase) -> dict[str, Full]:
    """For each place: what fills the device there, once, and says in a list that it has."""
    import torch

    is_training: Callable[..., bool] = lambda model, batch: model.training  # noqa: E731
    on_device: Callable[..., bool] = lambda nll, *_, **__: nll.device == base.device  # noqa: E731
    return {
        "forward": lambda f: patch.object(base, "nll_sum", Once(base.nll_sum, f, is_training)),
        # On the meta device nothing is ever full: the estimate computes there.
        "backward": lambda f: patch.object(
            torch.autograd, "backward", Once(torch.autograd.backward, f, on_device)
        ),
        "step": lambda f: patch.object(
            torch.optim.AdamW, "step", Once.of_a_class(torch.optim.AdamW.step, f)
        ),
        "evaluation": lambda f: patch.object(base, "nll_rows", Once(base.nll_rows, f)),
    }


class Once:
    """A function that has no memory left at the first of its calls, and all of it afterwards."""

    def __init__(
        self,
        function: Callable[..., Any],
        filled: list[bool],
        counts: Callable[..., bool] = lambda *_, **__: True,
    ) -> None:
        self._function, self._filled, self._counts = function, filled, counts

    def __call__(self, *args: Any, **settings: Any) -> Any:
        if self._filled or not self._counts(*args):
            return self._function(*args, **settings)
        import torch

        try:
            with full_device():
                return self._function(*args, **settings)
        except torch.OutOfMemoryError:
            self._filled.append(True)
            raise

    @classmethod
    def of_a_class(cls, function: Callable[..., Any], filled: list[bool]) -> Callable[..., Any]:
        """A plain function, so that it becomes a method of an object."""
        once = cls(function, filled)
        return lambda *args, **settings: once(*args, **settings)


@contextlib.contextmanager
def full_device() -> Iterator[None]:
    """Leave this process no byte of the device beside what it has; on processors only say so."""
    import torch

    if not torch.cuda.is_available():
        raise torch.OutOfMemoryError("CUDA out of memory. As on a GPU.")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    before = torch.cuda.get_per_process_memory_fraction()
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    ballast: list[torch.Tensor] = []
    try:
        for n_bytes in BLOCK_BYTES:
            with contextlib.suppress(torch.OutOfMemoryError):
                while True:
                    ballast.append(torch.empty(n_bytes, dtype=torch.uint8, device="cuda"))
        yield
    finally:
        ballast.clear()
        torch.cuda.set_per_process_memory_fraction(before)
