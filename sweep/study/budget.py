"""`Budget`: when enough has been tried."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sweep.study.ask_tell import AskTell


@dataclass
class Budget:
    """How long a sweep goes on."""

    trials: int | None
    """Trials of the whole study that end, whatever their outcome; None: no limit."""
    hours: float | None
    """Of this run of the command; None: no limit."""
    gpu_hours: float | None = None
    """Of all trials, times the GPUs of each, over all runs of the sweep; None: no limit."""
    stop_when_flat: int | None = None
    """Trials in a row without a lower eval loss after which the sweep ends; None: no limit."""
    clock: Callable[[], float] = time.monotonic
    stop: threading.Event = field(default_factory=threading.Event)
    """Set from outside (Ctrl-C) to end the sweep in order."""
    is_asked: Callable[[], bool] = lambda: False
    """Whether somebody has left word to end the sweep in order."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set from outside when nobody wants to wait for checkpoints."""

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def is_stopped(self) -> bool:
        """Whether anybody has asked for the end, in whichever way."""
        if not self.stop.is_set() and self.is_asked():
            self.stop.set()
        return self.stop.is_set()

    @property
    def is_over(self) -> bool:
        """Whether running trials have to be cut off now."""
        return self.is_stopped or self.seconds_left == 0.0

    def is_spent(self, sweep: AskTell) -> bool:
        """Whether running trials have to be cut off, for `gpu_hours` too."""
        return self.is_over or self.is_out_of_gpu_hours(sweep)

    def is_out_of_gpu_hours(self, sweep: AskTell) -> bool:
        """Whether `gpu_hours` are used up."""
        return self.gpu_hours is not None and sweep.gpu_seconds() >= self.gpu_hours * 3600

    def why_enough(self, sweep: AskTell, n_trials: int) -> str | None:
        """Say why no further trial begins; None: one may.

        Args:
            n_trials: That have ended, run, or are paused.
        """
        if self.is_stopped:
            return "stopped"
        if self.seconds_left == 0.0:
            return "the hours are over"
        if self.is_out_of_gpu_hours(sweep):
            return "the gpu_hours are used up"
        if self.trials is not None and n_trials >= self.trials:
            return "all trials have run"
        if sweep.is_exhausted():
            return "every point of the space has been tried"
        if self.stop_when_flat is not None and sweep.is_flat(self.stop_when_flat):
            return f"no better eval loss in {self.stop_when_flat} trials (stop_when_flat)"
        return None

    @property
    def seconds_left(self) -> float | None:
        """Until `hours` are over; None: no limit."""
        if self.hours is None:
            return None
        return max(0.0, self._began + self.hours * 3600 - self.clock())
