"""Keep every slot busy until the budget is spent: the only loop of a sweep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sweep.study.ask_tell import AskTell
from sweep.study.budget import Budget
from sweep.study.tracker import Place
from trials.config import Report, TrialConfig, TrialResult

WAIT_SECONDS = 0.5
"""How soon a sweep that waits for room notices that there is some."""


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
        return True

    def ran_out(self) -> None: ...

    def sufficed(self) -> None: ...


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
