"""Keep every slot busy until the budget is spent: the only loop of a sweep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from trials.config import EvalPoint, Report, Stop, TrialConfig, TrialResult


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial runs."""

    node: str
    """The host's name."""
    device: str
    """`GPU 0`, or `CPU worker 1` where trials run on processors."""


class AskTell(Protocol):
    """A study, from the side of the loop and its runner."""

    def ask(self) -> tuple[int, TrialConfig]:
        """Return the next trial."""

    def started(self, config: TrialConfig, place: Place) -> None:
        """Hear that a trial begins, and where."""

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Take an evaluation and return the verdict: None to go on."""

    def tell(self, number: int, result: TrialResult) -> None:
        """Take the end of a trial."""

    def n_ended(self) -> int:
        """Trials that have ended, those of earlier runs included."""

    def is_exhausted(self) -> bool:
        """Whether nothing is left to ask for."""


class Runner(Protocol):
    """Runs trials, one per slot. A slot is one whole GPU, or one CPU worker.

    It tells the study where a trial begins and passes on its evaluations and verdicts.
    """

    slots: int

    def start(self, number: int, config: TrialConfig) -> None:
        """Begin trial `number`. Called only while a slot is free."""

    def wait(self, until: Callable[[], bool]) -> tuple[int, TrialResult] | None:
        """Block until a trial ends, or give None soon after `until` becomes true.

        Never raises for a trial's own failure.
        """


@dataclass
class Budget:
    """How long a sweep goes on."""

    trials: int | None
    """Trials of the whole study that end, whatever their outcome; None: no limit."""
    hours: float | None
    """Of this run of the command; None: no limit."""
    clock: Callable[[], float] = time.monotonic
    stop: threading.Event = field(default_factory=threading.Event)
    """Set from outside (Ctrl-C) to end the sweep in order."""

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def is_over(self) -> bool:
        """Whether running trials have to be cut off now."""
        return self.stop.is_set() or self.seconds_left == 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until `hours` are over; None: no limit."""
        if self.hours is None:
            return None
        return max(0.0, self._began + self.hours * 3600 - self.clock())


def run(sweep: AskTell, runner: Runner, budget: Budget) -> None:
    """Run trials until the budget is spent or the space is exhausted.

    Trials that still run when the time is over are left to the caller, as `Sweep.interrupt` does.
    """
    n_running = 0
    n_ended = sweep.n_ended()

    def wants_more() -> bool:
        if budget.is_over or sweep.is_exhausted():
            return False
        return budget.trials is None or n_ended + n_running < budget.trials

    while True:
        while n_running < runner.slots and wants_more():
            runner.start(*sweep.ask())
            n_running += 1
        if not n_running:
            return
        ended = runner.wait(until=lambda: budget.is_over)
        if ended is None:
            return
        sweep.tell(*ended)
        n_running -= 1
        n_ended += 1


class InlineRunner:
    """Runs trials in this process, one after the other: for tests, and for a trial by itself.

    Args:
        trial: What a trial does.
        sweep: Hears of it.
    """

    slots = 1

    def __init__(self, trial: Callable[[TrialConfig, Report], TrialResult], sweep: AskTell) -> None:
        self._trial = trial
        self._sweep = sweep
        self._next: tuple[int, TrialConfig] | None = None

    def start(self, number: int, config: TrialConfig) -> None:
        """Keep the trial for `wait`."""
        assert self._next is None, "no slot is free"
        self._next = number, config

    def wait(self, until: Callable[[], bool]) -> tuple[int, TrialResult] | None:
        """Run the trial that was started."""
        assert self._next is not None, "no trial was started"
        (number, config), self._next = self._next, None
        self._sweep.started(config, Place(node="localhost", device="this process"))
        result = self._trial(config, lambda point: self._sweep.report(number, point))
        return number, result
