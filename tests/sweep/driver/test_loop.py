"""The loop: slots stay busy, budgets are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sweep.driver.interrupt import StopSignals
from sweep.driver.loop import run
from sweep.events import Ended, Reported, RunnerEvent
from sweep.study.ask_tell import AskTell
from sweep.study.budget import Budget, Enough
from tests.sweep.reviewed import point
from trials.config import Objective, Stop, TrialResult

DONE = TrialResult(outcome="completed", reason="")


class Asking(AskTell):
    """A study that only counts."""

    def __init__(self, n_points: int = 1000, n_ended: int = 0) -> None:
        self.asked = 0
        self.told: list[int] = []
        self._n_points, self._n_ended = n_points, n_ended

    def ask(self, paused: int | None = None) -> tuple[int, Any]:
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
        self._slots = slots
        self.running: list[int] = []
        self.most = 0
        self._on_wait = on_wait

    @property
    def n_free(self) -> int:
        return self._slots - len(self.running)

    def start(self, number: int, config: Any) -> None:
        self.running.append(number)
        self.most = max(self.most, len(self.running))

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        if until():
            return
        self._on_wait()
        if not until():
            yield Ended(self.running.pop(0), DONE)


def test_every_slot_is_busy_and_every_trial_ends_once() -> None:
    sweep, runner = Asking(), Slots(3)
    run(sweep, runner, Budget(7, None))
    assert runner.most == 3
    assert sweep.told == list(range(7))


def test_a_word_to_end_is_heard_while_trials_still_begin() -> None:
    sweep, runner = Asking(), Slots(1000)
    why = run(sweep, runner, Budget(None, None), is_stopped=lambda: sweep.asked == 5)
    assert why is Enough.STOPPED
    assert sweep.asked == 5


def test_trials_that_run_are_heard_while_others_begin() -> None:
    class Heard(Slots):
        def __init__(self) -> None:
            super().__init__(3)
            self.n_running_when_heard: list[int] = []

        def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
            self.n_running_when_heard.append(len(self.running))
            return super().wait(until)

    runner = Heard()
    run(Asking(), runner, Budget(3, None))
    assert runner.n_running_when_heard == [1, 2, 3, 3, 2, 1]


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
    stop = StopSignals()
    sweep, runner = Asking(), Slots(2, stop.heard.set)
    run(sweep, runner, Budget(100, None), stop.is_given)
    assert (sweep.asked, sweep.told) == (2, [])


@pytest.mark.parametrize(("hours", "left"), [(None, None), (1.0, 3600.0)])
def test_the_budget_knows_the_seconds_left(hours: float | None, left: float | None) -> None:
    assert Budget(1, hours, clock=lambda: 0.0).seconds_left == left


def test_gpu_hours_of_all_runs_cut_running_trials_off() -> None:
    sweep, runner = Asking(), Slots(2)  # ten minutes for each trial that was asked for
    assert run(sweep, runner, Budget(None, None, gpu_hours=0.5)) is Enough.GPU_HOURS
    assert (sweep.asked, sweep.told, runner.running) == (3, [0], [1, 2])


def test_a_flat_sweep_lets_running_trials_end() -> None:
    sweep, runner = Asking(), Slots(2)
    assert run(sweep, runner, Budget(100, None, stop_when_flat=3)) is Enough.FLAT
    assert sweep.told == [0, 1, 2, 3]


def test_word_that_was_left_in_the_folder_is_a_stop() -> None:
    sweep, runner = Asking(), Slots(2)
    asked = iter([False] * 4)
    stop = StopSignals(is_asked=lambda: next(asked, True))
    assert run(sweep, runner, Budget(100, None), stop.is_given) is Enough.STOPPED
    assert stop.heard.is_set()


def test_what_has_not_become_better_is_named_by_the_objective() -> None:
    budget = Budget(None, None, stop_when_flat=3, objective=Objective(name="exact_match"))
    assert budget.in_words(Enough.FLAT) == "no better exact_match in 3 trials (stop_when_flat)"


def test_slots_that_come_later_get_trials_and_lost_ones_none() -> None:
    class Cluster(Slots):
        """None at first, then two, then one."""

        def __init__(self) -> None:
            super().__init__(0)
            self.seen = iter([2, 2, 1, 1, 1, 1, 1])

        def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
            if until():
                return
            self._slots, before = next(self.seen), self._slots
            if self._slots <= before:
                yield from super().wait(until)

    sweep, runner = Asking(), Cluster()
    run(sweep, runner, Budget(5, None))
    assert sweep.told == [0, 1, 2, 3, 4]
    assert runner.most == 2


def test_a_full_disk_pauses_and_the_sweep_goes_on_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweep.driver.loop.WAIT_SECONDS", 0.0)
    sweep, is_full = Asking(), iter([True] * 7)
    run(sweep, Slots(2), Budget(4, None), has_room=lambda: not next(is_full, False))
    assert sweep.told == [0, 1, 2, 3]


def test_a_trial_that_found_no_room_is_not_an_end() -> None:
    class OnceFull(Slots):
        def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
            number = self.running.pop(0)
            no_room = TrialResult(outcome="interrupted", reason="", fault="disk_full")
            yield Ended(number, DONE if number else no_room)

    sweep = Asking()
    run(sweep, OnceFull(1), Budget(2, None))
    assert sweep.told == [0, 1, 2]  # three were asked for: the first did not count


def test_an_evaluation_is_answered_before_the_next_event_is_asked_for() -> None:
    answered: list[Stop | None] = []

    class Reporting(Slots):
        def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
            for n in (1, 2):
                yield Reported(0, point(n, 1.0), answered.append)
                assert len(answered) == n
            yield Ended(self.running.pop(), DONE)

    run(Asking(), Reporting(1), Budget(1, None))
    assert len(answered) == 2
