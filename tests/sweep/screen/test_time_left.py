"""What the rest of a sweep is expected to take."""

from __future__ import annotations

import random

import pytest

from sweep.screen.time_left import GO_ON, WEIGHT, Pace, Rest, Rungs, seconds_until_all_end
from sweep.workers.usage import Usage


def test_without_early_ends_a_trial_has_its_whole_run_ahead() -> None:
    pace = Pace(4)
    pace.ended(4, 1.0, 100.0)
    assert pace.shares_ahead([2]) == [1.0, 0.75, 0.5, 0.25, 0.0, 1.0]


def test_half_that_end_at_the_first_evaluation_halve_the_rest() -> None:
    pace = Pace(4)
    pace.ended(1, 1.0, 25.0)
    pace.ended(4, 1.0, 100.0)
    assert pace.shares_ahead([])[-1] == 0.25 + 0.5 * 0.75


def test_trials_that_run_on_count_against_early_ends() -> None:
    """Those that end early end first: alone they would make every trial short."""
    pace = Pace(4)
    pace.ended(1, 1.0, 25.0)
    assert pace.shares_ahead([])[-1] == 0.25
    assert pace.shares_ahead([1, 1, 1])[-1] == 0.25 + 0.75 * 0.75


def test_the_estimate_agrees_with_a_simulation() -> None:
    chance, k = random.Random(0), 20
    pace, lengths = Pace(k), []
    for _ in range(4000):
        last = next((i for i in (1, 4, 16) if chance.random() < 0.5), k)
        lengths.append(last / k)
        pace.ended(last, 1.0, last)
    assert pace.shares_ahead([])[-1] == pytest.approx(sum(lengths) / len(lengths))


def test_seconds_of_a_run_are_those_of_ended_and_running_trials() -> None:
    pace = Pace(4)
    assert pace.seconds_of_run([]) is None
    pace.ended(0, 3.0, 9.0)  # failed before its first evaluation: it says nothing of the pace
    assert pace.seconds_of_run([]) is None
    pace.ended(2, 2.0, 10.0)
    of_run = pace.seconds_of_run([(2, 2.0, 20.0)])
    assert of_run is not None
    assert of_run(2.0) == 30.0


def test_evaluations_take_their_time_however_short_a_run_is() -> None:
    """20 s for the evaluations and 10 s for each epoch."""
    pace = Pace(4)
    pace.ended(4, 1.0, 30.0)
    pace.ended(2, 8.0, 50.0)
    pace.ended(1, 3.0, 12.5)
    of_run = pace.seconds_of_run([])
    assert of_run is not None
    assert [of_run(epochs) for epochs in (1.0, 3.0, 5.0)] == pytest.approx([30.0, 50.0, 70.0])


def test_a_trial_that_waits_has_not_ended_early() -> None:
    pace = Pace(4, Rungs([1]))
    for number in range(4):
        pace.rungs.heard(number, 1)
        pace.ended(1, 1.0, 25.0, waits=True)
    waiting_all = pace.shares_ahead([])[-1]
    assert waiting_all == 0.25 + WEIGHT * GO_ON / (4 + WEIGHT) * 0.75
    pace.goes_on(1, 1.0, 25.0)
    pace.rungs.heard(0, 2)
    assert pace.shares_ahead([2])[-1] > waiting_all


def test_those_that_wait_are_expected_to_go_on_as_others_did() -> None:
    rungs = Rungs([3], factor=3)
    for number in range(9):
        rungs.heard(number, 3)
    assert rungs.still_to_go_on(3, [], is_last=False) == pytest.approx(9 * rungs.share_on(3))
    assert rungs.still_to_go_on(3, [], is_last=True) == 3.0
    rungs.heard(0, 4)
    assert rungs.still_to_go_on(3, [1, 2], is_last=True) == 0.0


def test_too_few_to_be_compared_all_go_on_in_the_end() -> None:
    rungs = Rungs([3], factor=3, min_peers=4)
    for number in range(4):
        rungs.heard(number, 3)
    assert rungs.still_to_go_on(3, [], is_last=True) == 4.0


def test_the_rest_is_never_below_that_of_the_longest_running_trial() -> None:
    pace = Pace(4)
    for _ in range(9):
        pace.ended(1, 1.0, 25.0)  # nearly all end early
    of_run = pace.seconds_of_run([])
    assert of_run is not None
    left = pace.left([Rest(9, 1, 100.0, 5.0)], [100.0], of_run, 2)
    assert left.expected == 70.0
    assert (left.most, left.is_sure) == (100.0, False)


@pytest.mark.parametrize(
    ("running", "waiting", "n", "seconds"),
    [
        ([], [], 2, 0.0),
        ([10.0, 30.0], [], 2, 30.0),
        ([10.0, 30.0], [5.0, 5.0, 20.0], 2, 40.0),
        ([10.0], [10.0], 2, 10.0),  # one slot is free
        ([0.0], [10.0] * 100, 4, 250.0),
    ],
)
def test_waiting_trials_go_where_a_slot_is_free_first(
    running: list[float], waiting: list[float], n: int, seconds: float
) -> None:
    assert seconds_until_all_end(running, waiting, n) == seconds


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
