"""What the rest of a sweep is expected to take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sweep.screen.pace import EARLY, Expected, Pace, Rungs
from sweep.screen.time_left import Left, Rest, seconds_until_all_end, time_left
from sweep.workers.usage import Usage


def left(
    pace: Pace, running: list[Rest], waiting: Sequence[float | None], n_slots: int = 2
) -> Left:
    of_run = pace.seconds_of_run([])
    assert of_run is not None
    return time_left(pace, running, waiting, of_run, n_slots)


def paced(expected: Expected | None = None) -> Pace:
    """100 s an epoch."""
    pace = Pace(4, expected)
    pace.ended(4, 1.0, 100.0)
    return pace


def test_where_all_run_through_one_figure_says_it() -> None:
    found = left(paced(), [Rest(1, 2, 100.0, 10.0)], [2.0, 1.0])
    assert found.expected == 200.0  # 40 s, then 100 s in the one slot, 200 s in the other
    assert found.is_narrow


def test_whether_trials_go_on_makes_a_range() -> None:
    expected = Expected(Rungs([1]), epochs=[1.0])
    waits = [None] * 8
    found = left(paced(expected), [], waits)
    # To the rung all take 100 s; if all went on, as long as these, 400 s.
    assert 100.0 < found.low < found.expected < found.high < 700.0
    assert not found.is_narrow
    assert left(paced(expected), [], waits) == found  # the same chance each time


def test_neither_figure_nor_end_is_below_what_the_longest_running_trial_needs() -> None:
    pace = Pace(4)
    for _ in range(9):
        pace.ended(1, 1.0, 25.0)  # nearly all end early
    found = left(pace, [Rest(9, 1, 100.0, 5.0)], [1.0])
    assert found.low < 70.0
    assert found.expected == 70.0
    assert found.high > 70.0


def test_a_running_trial_may_end_early_where_trials_are_stopped() -> None:
    running = [Rest(9, 1, 100.0, 0.0)]
    assert left(paced(), running, []).low > 70.0
    assert left(paced(Expected(early=10 * EARLY)), running, []).low < 60.0


def test_thousands_of_trials_are_summed_up() -> None:
    found = left(paced(), [], [1.0] * 10_000, n_slots=100)
    assert found.expected == pytest.approx(10_000.0)


@pytest.mark.parametrize(
    ("running", "waiting", "n", "seconds"),
    [
        ([], [], 2, 0.0),
        ([10.0, 30.0], [], 2, 30.0),
        ([10.0, 30.0], [5.0, 5.0, 20.0], 2, 40.0),
        ([10.0], [10.0], 2, 10.0),  # one slot is free
        ([0.0], [10.0] * 100, 4, 250.0),
        ([90.0], [10.0] * 10, 40, 90.0),
    ],
)
def test_waiting_trials_go_where_a_slot_is_free_first(
    running: list[float], waiting: list[float], n: int, seconds: float
) -> None:
    drawn = [np.array(each)[:, None] * [1.0, 2.0] for each in (running, waiting)]
    assert list(seconds_until_all_end(drawn[0], drawn[1], n)) == [seconds, 2 * seconds]


def test_usage_counts_slots_from_when_they_are_there() -> None:
    now = 0.0
    usage = Usage(clock=lambda: now)
    assert usage.busy_share is None
    now = 100.0
    usage.count(1, 0)  # the first slot is there, and loads
    now = 110.0
    usage.count(2, 1)
    now = 120.0
    usage.count(2, 2)
    assert usage.busy_share == 10.0 / 30.0
    assert usage.seconds == {"slot_seconds": 30.0, "busy_seconds": 10.0}
