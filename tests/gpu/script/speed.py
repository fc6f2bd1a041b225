"""A trial's steps timed, profiled and watched: kernels, idle share, waits, optimizers."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.gpu.script.bench import Bench, loaded, model_config, run, trial_config
from tests.gpu.script.found import needs
from tests.gpu.script.llama import DEEP, WIDE, folder_of, longest_row, write_rows

WARM_UP, TIMED, PROFILED = 4, 20, 3
"""Steps. Profiled ones are slower, so they are not those that are timed."""
IN_SMALL = 1, 2, 1
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw_8bit")
EFFECTIVE_BATCH_SIZE, MICRO_BATCH_SIZE = 16, 8
MOST_WAITS = 1
"""Times in a step that the host may wait for the device."""
A_WAIT = "called a synchronizing CUDA operation"
"""What torch's sync debug mode warns with (c10/cuda/CUDAFunctions.cpp)."""


def at_8b(bench: Bench) -> None:
    optimizers_side_by_side(bench, WIDE)


def at_smollm2(bench: Bench) -> None:
    optimizers_side_by_side(bench, DEEP)


def optimizers_side_by_side(bench: Bench, name: str) -> None:
    needs("bitsandbytes")
    if not bench.has_gpu:
        bench.found.missing("kernels, the idle share and waits are a GPU's")
    watched = watched_steps(bench)
    model = model_config(
        folder_of(bench, name), "transformers", "nf4", max_length=longest_row(bench)
    )
    base = loaded(bench, model)
    data = write_timed_rows(bench)
    for number, optimizer in enumerate(OPTIMIZERS):
        watch = Watch(bench.has_gpu, *watched)
        config = trial_config(
            bench,
            number,
            model,
            data,
            optimizer=optimizer,
            effective_batch_size=EFFECTIVE_BATCH_SIZE,
            micro_batch_size=MICRO_BATCH_SIZE,
            n_evaluations=1,
            evaluate_base=False,
        )
        trial = run(config, base, watch.after_step)
        if trial.outcome != "completed":
            bench.found.wrong(f"{optimizer}: {trial.outcome}, {trial.reason}")
            continue
        bench.found.figure(f"{optimizer}, peak GiB", trial.points[-1].gpu_memory_gib)
        watch.tell(bench, optimizer, data)
        if bench.has_gpu and optimizer == "adamw":
            words = f"the host waits {watch.waits_of_a_step:g} times a step: {watch.waits_at}"
            bench.found.expect(watch.waits_of_a_step <= MOST_WAITS, words)


def watched_steps(bench: Bench) -> tuple[int, int, int]:
    return IN_SMALL if bench.small else (WARM_UP, TIMED, PROFILED)


def n_rows(bench: Bench) -> int:
    """For one more step than are watched, each of new rows."""
    warm_up, timed, profiled = watched_steps(bench)
    return EFFECTIVE_BATCH_SIZE * (warm_up + timed + 2 * profiled + 1)


def write_timed_rows(bench: Bench) -> Path:
    return write_rows(bench, n_train=n_rows(bench), n_eval=8)


class Watch:
    """Is told after each step; first times some, then profiles some, then counts waits."""

    def __init__(self, on_gpu: bool, warm_up: int, timed: int, profiled: int) -> None:
        self._on_gpu, self._timed, self._profiled = on_gpu, timed, profiled
        self._n_steps = 0
        self._changes: dict[int, list[Callable[[], Any]]] = {
            warm_up: [self._begin_timing],
            warm_up + timed: [self._end_timing, self._begin_profile],
            warm_up + timed + profiled: [self._end_profile, self._begin_waits],
            warm_up + timed + 2 * profiled: [self._end],
        }
        self._stack = contextlib.ExitStack()
        self.seconds = 0.0
        """Of the timed steps."""
        self.kernels: list[Kernel] = []
        self._waits: list[warnings.WarningMessage] = []

    def after_step(self) -> bool:
        """A step has been taken; never asks the trial to stop."""
        self._n_steps += 1
        for change in self._changes.get(self._n_steps, ()):
            change()
        return False

    def _synchronize(self) -> None:
        import torch

        if self._on_gpu:
            torch.cuda.synchronize()

    def _begin_timing(self) -> None:
        self._synchronize()
        self._began = time.perf_counter()

    def _end_timing(self) -> None:
        self._synchronize()
        self.seconds = time.perf_counter() - self._began

    def _begin_profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activity = ProfilerActivity.CUDA if self._on_gpu else ProfilerActivity.CPU
        self._profile = self._stack.enter_context(profile(activities=[activity]))

    def _end_profile(self) -> None:
        self._synchronize()
        self._stack.close()
        self.kernels = kernels(self._profile)

    def _begin_waits(self) -> None:
        self._waits = self._stack.enter_context(waits(self._on_gpu))

    def _end(self) -> None:
        self._stack.close()

    @property
    def waits_of_a_step(self) -> float:
        return sum(A_WAIT in str(wait.message) for wait in self._waits) / self._profiled

    @property
    def waits_at(self) -> str:
        """The places that wait most."""
        places = Counter(
            f"{'/'.join(Path(wait.filename).parts[-2:])}:{wait.lineno}"
            for wait in self._waits
            if A_WAIT in str(wait.message)
        )
        return ", ".join(f"{place} ({n})" for place, n in places.most_common(3))

    def tell(self, bench: Bench, name: str, data: Path) -> None:
        """Write the figures down.

        Args:
            data: Folder of the rows that were trained on, each once.
        """
        steps_per_second = self._timed / self.seconds
        pace = tokens_of_a_step(data) * steps_per_second
        bench.found.figure(f"{name}, tokens/s", round(pace))
        if not bench.has_gpu:
            return
        busy = busy_seconds(self.kernels) / self._profiled * steps_per_second
        bench.found.figure(f"{name}, idle %", round(100 * (1 - busy), 1))
        bench.found.figure(f"{name}, kernels/step", round(len(self.kernels) / self._profiled))
        bench.found.figure(f"{name}, waits/step", self.waits_of_a_step)
        bench.found.expect(bool(self.kernels), f"{name}: the profiler has seen no kernel")


def tokens_of_a_step(data: Path) -> float:
    """The mean."""
    from trials.data.tokens import TokenSplit

    return float(TokenSplit.load(data / "train").lengths.mean()) * EFFECTIVE_BATCH_SIZE


@dataclass(frozen=True, slots=True)
class Kernel:
    """When the device was busy with one thing, in microseconds."""

    begin: float
    end: float


def kernels(profile: Any) -> list[Kernel]:
    """Return what a profile saw on a GPU: kernels, copies and fills; not the marks of the host."""
    import torch

    cuda = torch._C._autograd.DeviceType.CUDA

    return [
        Kernel(event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == cuda and not getattr(event, "is_user_annotation", False)
    ]


def busy_seconds(spans: Sequence[Kernel]) -> float:
    """Return how long anything ran: what runs beside each other counts once."""
    if not spans:
        return 0.0
    times = np.array(sorted((span.begin, span.end) for span in spans))
    reached = np.maximum.accumulate(times[:, 1])
    free_from = np.concatenate([[-np.inf], reached[:-1]])
    return float((reached - np.maximum(times[:, 0], free_from)).clip(0).sum()) / 1e6


@contextlib.contextmanager
def waits(on_gpu: bool) -> Iterator[list[warnings.WarningMessage]]:
    """Collect a warning for each time that the host waits for the device."""
    import torch

    def synchronize(*args: Any) -> None:
        # The debug mode does not hear of this one, by which bitsandbytes waits.
        warnings.warn(A_WAIT, stacklevel=2)
        whole_device(*args)

    whole_device = torch.cuda.synchronize
    with warnings.catch_warnings(record=True) as heard, contextlib.ExitStack() as stack:
        warnings.simplefilter("always")
        if on_gpu:
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
            stack.enter_context(patch.object(torch.cuda, "synchronize", synchronize))
            torch.cuda.set_sync_debug_mode("warn")
        yield heard
