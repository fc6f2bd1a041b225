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


WAIT_SECONDS = 0.5
"""How soon a sweep that waits for room notices that there is some."""


class AskTell(Protocol):
    """A study, from the side of the loop and its runner."""

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        """Return the next trial, or the paused one of that number."""

    def started(self, config: TrialConfig, place: Place) -> None:
        """Hear that a trial begins, and where."""

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Take an evaluation and return the verdict: None to go on."""

    def tell(self, number: int, result: TrialResult) -> bool:
        """Take the end of a trial; whether it is the end, or the trial will run again."""

    def n_ended(self) -> int:
        """Trials that have ended, those of earlier runs included."""

    def n_paused(self) -> int:
        """Trials that wait until they belong to the best."""

    def promising(self, *, is_last: bool) -> int | None:
        """Return the number of a paused trial that should go on; None: there is none.

        Args:
            is_last: Whether no further trial comes.
        """

    def end_paused(self) -> None:
        """End the trials that are still paused: no other comes to compare them with."""

    def is_exhausted(self) -> bool:
        """Whether nothing is left to ask for."""

    def gpu_seconds(self) -> float:
        """Time in which trials had GPUs, over all runs of the sweep."""

    def is_flat(self, n_trials: int) -> bool:
        """Whether the last `n_trials` that ended have not lowered the best eval loss."""


class Runner(Protocol):
    """Runs trials, one per slot. A slot is a GPU, a share of one or several, or a CPU worker.

    It tells the study where a trial begins and passes on its evaluations and verdicts.
    """

    @property
    def n_free(self) -> int:
        """Slots in which a trial can begin now; they come and go with the machines of a cluster."""

    def start(self, number: int, config: TrialConfig) -> None:
        """Begin trial `number`. Called only while a slot is free."""

    def wait(self, until: Callable[[], bool]) -> tuple[int, TrialResult] | None:
        """Block until a trial ends; give None when a slot becomes free, or soon after `until`.

        Where `until` is true from the beginning, take what has come and wait for nothing. Never
        raises for a trial's own failure.
        """


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


class Room(Protocol):
    """Of the disk."""

    def is_there(self) -> bool:
        """Whether a trial may begin now."""

    def ran_out(self) -> None:
        """A trial has found none."""

    def sufficed(self) -> None:
        """A trial has ended with what it needed."""


class RoomForAll:
    """A disk that is never full."""

    def is_there(self) -> bool:
        """It is."""
        return True

    def ran_out(self) -> None:
        """It does not."""

    def sufficed(self) -> None:
        """It does."""


def run(sweep: AskTell, runner: Runner, budget: Budget, room: Room = RoomForAll()) -> str:  # noqa: B008
    """Run trials until the budget is spent or the space is exhausted; say which.

    Trials that still run when the time is over are left to the caller, as `Sweep.interrupt` does,
    and paused ones stay paused. Otherwise those of them that belong to the best go on first.
    Without room on the disk none begins: the sweep waits until there is some.
    """
    n_running = 0
    n_ended = sweep.n_ended()
    is_waiting = False

    def something_to_do() -> bool:
        return budget.is_spent(sweep) or (is_waiting and room.is_there())

    while True:
        enough = budget.why_enough(sweep, n_ended + n_running + sweep.n_paused())
        if enough is not None and budget.is_spent(sweep):
            return enough
        paused = sweep.promising(is_last=enough is not None)
        if enough is not None and paused is None and not n_running:
            sweep.end_paused()
            return enough
        wanted = enough is None or paused is not None
        begins = wanted and runner.n_free > 0 and room.is_there()
        if begins:
            runner.start(*sweep.ask(paused))
            n_running += 1
        is_waiting = wanted and not begins and runner.n_free > 0
        if is_waiting and not n_running:
            time.sleep(WAIT_SECONDS)
            continue
        # One at a time: while a thousand begin, those that run do not wait for their verdicts.
        ended = runner.wait(until=_at_once if begins else something_to_do)
        if ended is None:
            continue
        number, result = ended
        n_ended += sweep.tell(number, result)
        n_running -= 1
        room.ran_out() if result.fault == "disk_full" else room.sufficed()


def _at_once() -> bool:
    return True


class InlineRunner:
    """Runs trials in this process, one after the other: for tests, and for a trial by itself.

    Args:
        trial: What a trial does.
        sweep: Hears of it.
    """

    def __init__(self, trial: Callable[[TrialConfig, Report], TrialResult], sweep: AskTell) -> None:
        self._trial = trial
        self._sweep = sweep
        self._next: tuple[int, TrialConfig] | None = None

    @property
    def n_free(self) -> int:
        """One trial at a time."""
        return 0 if self._next else 1

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
