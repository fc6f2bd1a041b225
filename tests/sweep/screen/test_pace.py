"""What the trials of a sweep have shown of those to come."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sweep.screen.pace import EARLY, GO_ON, WEIGHT, Draws, Expected, Pace, Rungs

CHANCE = 20_000
"""Draws: enough to compare means to a hundredth."""


def of(epochs: float) -> Draws:
    return np.array(epochs)


def mean_share(pace: Pace, begin: int | None, running: list[int] | None = None) -> float:
    """Of a whole run, that a trial is expected to have taken at its end."""
    chance = np.random.default_rng(1)
    shares_on = pace.rungs.shares_on(chance, CHANCE)
    ends = pace.ends(begin, pace.survival(running or []), shares_on, chance, (1, CHANCE))
    return float(ends.mean()) / pace.n_evaluations


def test_without_early_ends_a_trial_runs_through() -> None:
    pace = Pace(4)
    pace.ended(4, 1.0, 100.0)
    assert [mean_share(pace, begin, [2]) for begin in (None, 0, 3, 4)] == [1.0] * 4


def test_trials_that_run_on_count_against_early_ends() -> None:
    """Those that end early end first: alone they would make every trial short."""
    pace = Pace(4)
    pace.ended(1, 1.0, 25.0)
    assert mean_share(pace, None) == 0.25
    assert mean_share(pace, None, [1, 1, 1]) == pytest.approx(0.25 + 0.75 * 0.75, abs=0.01)


def test_the_ends_that_are_drawn_are_those_that_came() -> None:
    chance, k = random.Random(0), 20
    pace, lengths = Pace(k), []
    for _ in range(4000):
        last = next((i for i in (1, 4, 16) if chance.random() < 0.5), k)
        lengths.append(last / k)
        pace.ended(last, 1.0, last)
    assert mean_share(pace, None) == pytest.approx(sum(lengths) / len(lengths), abs=0.01)
    long = [share for share in lengths if share > 4 / k]
    assert mean_share(pace, 4) == pytest.approx(sum(long) / len(long), abs=0.01)


def test_where_overfit_trials_are_stopped_some_are_before_any_was_seen() -> None:
    pace = Pace(20, Expected(early=EARLY))
    assert list(pace.survival([])) == pytest.approx([(1 - EARLY) ** min(i, 19) for i in range(21)])
    for _ in range(1000):
        pace.ended(20, 1.0, 100.0)
    assert mean_share(pace, None) == pytest.approx(1.0, abs=0.01)


def test_seconds_of_a_run_are_those_of_ended_and_running_trials() -> None:
    pace = Pace(4)
    assert pace.seconds_of_run([]) is None
    pace.ended(0, 3.0, 9.0)  # failed before its first evaluation: it says nothing of the pace
    assert pace.seconds_of_run([]) is None
    pace.ended(2, 2.0, 10.0)
    of_run = pace.seconds_of_run([(2, 2.0, 20.0)])
    assert of_run is not None
    assert of_run(of(2.0)) == 30.0


def test_evaluations_take_their_time_however_short_a_run_is() -> None:
    """20 s for the evaluations and 10 s for each epoch."""
    pace = Pace(4)
    pace.ended(4, 1.0, 30.0)
    pace.ended(2, 8.0, 50.0)
    pace.ended(1, 3.0, 12.5)
    of_run = pace.seconds_of_run([])
    assert of_run is not None
    assert of_run(np.array([1.0, 3.0, 5.0])) == pytest.approx([30.0, 50.0, 70.0])


def test_the_latest_lengths_count_double() -> None:
    pace = Pace(4, Expected(epochs=[1.0, 3.0]))
    drawn = pace.epochs_to_come(np.random.default_rng(0), (10, 2000))
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    for _ in range(20):
        pace.planned(5.0)
    drawn = pace.epochs_to_come(np.random.default_rng(0), (10, 2000))
    assert float(drawn.mean()) == pytest.approx((6 * 2.0 + 8 * 5.0) / 14, abs=0.05)


def test_a_trial_that_waits_has_not_ended_early() -> None:
    pace = Pace(4, Expected(Rungs([1])))
    for number in range(4):
        pace.rungs.heard(number, 1)
        pace.ended(1, 1.0, 25.0, waits=True)
    waiting_all = mean_share(pace, None)
    go_on = WEIGHT * GO_ON / (4 + WEIGHT)
    assert waiting_all == pytest.approx(0.25 + go_on * 0.75, abs=0.01)
    pace.goes_on(1, 1.0, 25.0)
    pace.rungs.heard(0, 2)
    assert mean_share(pace, None, [2]) > waiting_all + 0.02
    assert mean_share(pace, 1, [2]) == 1.0  # it has its rung behind it


def test_those_that_wait_are_expected_to_go_on_as_others_did_or_as_the_best_do() -> None:
    rungs, share = Rungs([3], factor=3), np.full(5, 0.6)
    for number in range(9):
        rungs.heard(number, 3)
    go_on = rungs.still_to_go_on(3, [], share, is_last=False)
    assert list(go_on) == pytest.approx([3.0, 3.6, 4.2, 4.8, 5.4])
    assert list(rungs.still_to_go_on(3, [], share, is_last=True)) == [3.0] * 5
    rungs.heard(0, 4)
    assert list(rungs.still_to_go_on(3, [1, 2], share, is_last=True)) == [0.0] * 5


def test_too_few_to_be_compared_all_go_on_in_the_end() -> None:
    rungs = Rungs([3], factor=3, min_peers=4)
    for number in range(4):
        rungs.heard(number, 3)
    assert list(rungs.still_to_go_on(3, [], np.full(2, 0.6), is_last=True)) == [4.0, 4.0]
