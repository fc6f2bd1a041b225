"""Whenever a sweep is killed, the same command goes on as if nothing had been."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sweep.space.space import Space
from sweep.storage import attributes
from tests.faults.resumed import PRUNINGS, SAMPLERS, Process, resumed, space_of

SHORT = [("tpe", pruning) for pruning in PRUNINGS] + [(s, "asha") for s in ("qmc", "grid")]


def moments(n_writes: int, n: int) -> list[int]:
    """So many moments of a sweep, drawn by a seed of its own."""
    return sorted(random.Random(n_writes).sample(range(1, n_writes), n))


def see_one_worker(space: Space, n_moments: int) -> None:
    alone = Process(space)
    why = alone.run()
    for moment in moments(alone.n_writes, n_moments):
        again = resumed(space, moment, n_slots=1)
        assert again.found() == alone.found(), moment
        assert again.run() == why or why not in ("FLAT", "TRIALS"), moment


def see_two_workers(space: Space, n_moments: int) -> None:
    alone = Process(space, n_slots=2)
    alone.run()
    for moment in moments(alone.n_writes, n_moments):
        again = resumed(space, moment, n_slots=2)
        found = again.found()
        assert len(found) <= (space.settings.budget.trials or 0)
        assert {trial["outcome"] for trial in found.values()}.isdisjoint({"None", repr("paused")})
        for (number, index), verdicts in again.verdicts.items():
            is_stopped = [stop is not None for stop in verdicts]
            # Once stopped it may be told so again, and goes on later; never the other way round.
            assert is_stopped == sorted(is_stopped, reverse=True), (moment, number, index)


@pytest.mark.parametrize(("sampler", "pruning"), SHORT)
def test_with_one_worker_a_resumed_sweep_is_the_undisturbed_one(
    tmp_path: Path, sampler: str, pruning: str
) -> None:
    see_one_worker(space_of(tmp_path, sampler, pruning, n_trials=14), 2)


@pytest.mark.parametrize("pruning", ["asha", "successive_halving"])
def test_with_two_workers_no_trial_is_lost_or_judged_twice(tmp_path: Path, pruning: str) -> None:
    see_two_workers(space_of(tmp_path, "tpe", pruning, n_trials=14), 3)


@pytest.mark.long
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pruning", PRUNINGS)
def test_at_many_moments(tmp_path: Path, sampler: str, pruning: str) -> None:
    space = space_of(tmp_path, sampler, pruning)
    see_one_worker(space, 10)
    see_two_workers(space, 10)


def test_trials_paused_at_other_rungs_than_todays_go_on(tmp_path: Path) -> None:
    process = Process(space_of(tmp_path, "tpe", "asha"))
    process.run(kill_at=200)
    paused = [n for n, trial in process.found().items() if trial["paused"] is not None]
    process.space = space_of(tmp_path, "tpe", "asha", rungs="[0.8]")
    process.run()
    ended = process.found()
    assert paused
    assert all(len(ended[number]["evaluations"]) >= 8 for number in paused)


def test_failures_in_a_row_are_counted_over_both_runs(tmp_path: Path) -> None:
    space = space_of(tmp_path, "random", "none")
    alone = Process(space, fails=True)
    why = alone.run()
    assert why is not None and "5 trials in a row failed" in why
    again = resumed(space, alone.n_writes - 3, n_slots=1, fails=True)
    assert again.found() == alone.found()
    assert len(again.found()) == 5


def test_a_verdict_is_stored_with_its_evaluation(tmp_path: Path) -> None:
    process = Process(space_of(tmp_path, "tpe", "asha"))
    process.run(kill_at=120)
    for trial in process.stored():
        at, stop = trial.user_attrs.get(attributes.STOP) or (None, None)
        assert stop is None or at in trial.intermediate_values
