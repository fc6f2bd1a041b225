"""The loop: slots stay busy, budgets are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweep.loop import Budget, run
from trials.config import TrialResult

DONE = TrialResult(outcome="completed", reason="")


class Asking:
    """A study that only counts."""

    def __init__(self, n_points: int = 1000, n_ended: int = 0) -> None:
        self.asked = 0
        self.told: list[int] = []
        self._n_points, self._n_ended = n_points, n_ended

    def ask(self) -> tuple[int, Any]:
        self.asked += 1
        return self.asked - 1, None

    def started(self, config: Any, place: Any) -> None: ...

    def report(self, number: int, point: Any) -> None: ...

    def tell(self, number: int, result: TrialResult) -> bool:
        self.told.append(number)
        return result.outcome != "interrupted"

    def n_ended(self) -> int:
        return self._n_ended

    def is_exhausted(self) -> bool:
        return self.asked >= self._n_points

    def gpu_seconds(self) -> float:
        return 600.0 * self.asked

    def is_flat(self, n_trials: int) -> bool:
        return len(self.told) >= n_trials


class Slots:
    """A runner whose trials end in the order in which they began."""

    def __init__(self, slots: int, on_wait: Callable[[], None] = lambda: None) -> None:
        self.slots = slots
        self.running: list[int] = []
        self.most = 0
        self._on_wait = on_wait

    def start(self, number: int, config: Any) -> None:
        self.running.append(number)
        self.most = max(self.most, len(self.running))

    def wait(self, until: Callable[[], bool]) -> tuple[int, TrialResult] | None:
        self._on_wait()
        return None if until() else (self.running.pop(0), DONE)


def test_every_slot_is_busy_and_every_trial_ends_once() -> None:
    sweep, runner = Asking(), Slots(3)
    run(sweep, runner, Budget(7, None))
    assert runner.most == 3
    assert sweep.told == list(range(7))


def test_trials_of_an_earlier_run_count() -> None:
    sweep = Asking(n_ended=5)
    run(sweep, Slots(2), Budget(7, None))
    assert sweep.asked == 2


def test_a_space_without_further_points_ends_the_sweep() -> None:
    sweep = Asking(n_points=4)
    run(sweep, Slots(3), Budget(None, None))
    assert sweep.told == [0, 1, 2, 3]


def test_when_the_time_is_over_running_trials_are_left_to_the_caller() -> None:
    now = [0.0]

    def an_hour_later() -> None:
        now[0] += 3600

    sweep, runner = Asking(), Slots(2, an_hour_later)
    run(sweep, runner, Budget(None, 1.5, clock=lambda: now[0]))
    assert (sweep.told, runner.running) == ([0], [1, 2])


def test_a_stop_from_outside_starts_nothing_more() -> None:
    budget = Budget(100, None)
    sweep, runner = Asking(), Slots(2, budget.stop.set)
    run(sweep, runner, budget)
    assert (sweep.asked, sweep.told) == (2, [])


@pytest.mark.parametrize(("hours", "left"), [(None, None), (1.0, 3600.0)])
def test_the_budget_knows_the_seconds_left(hours: float | None, left: float | None) -> None:
    assert Budget(1, hours, clock=lambda: 0.0).seconds_left == left
