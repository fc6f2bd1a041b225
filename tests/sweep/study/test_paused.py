"""Halving that pauses: who waits, who goes on later, what survives a crash, what noise excuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sweep.driver.loop import run
from sweep.events import Place
from sweep.pruners.asha import Halving, rung_indices
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage.attributes import PAUSED, is_paused
from sweep.storage.patient import storage_url
from sweep.study.budget import Budget, Enough
from sweep.study.opening import open_study
from sweep.study.sweep import Sweep
from tests.inline_runner import InlineRunner
from tests.sweep.study.test_sweep import point, replaying, resolve
from trials.config import BY_EVAL_LOSS, EvalPoint, Report, TrialConfig, TrialResult
from trials.evaluation.row_nlls import as_text, from_text, standard_error, thinned
from trials.evaluation.row_nlls import rows_of as losses_of

GOOD, BAD = [1.5, 1.4, 1.3, 1.2], [1.9, 1.8, 1.7, 1.6]


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "rows.jsonl").write_text("{}")
    path = tmp_path / "space.yaml"
    path.write_text(
        "base_model: none\n"
        "data: {train: rows.jsonl, eval: 0.1}\n"
        "search: {rank: [8, 16, 32], learning_rate: {min: 1e-5, max: 1e-2, log: true}}\n"
        "evaluate: {times: 4}\n"
        "pruning: {outclassed: {rungs: [0.25], min_peers: 2, factor: 3}}\n"
    )
    return load_space(path)


class Listener:
    """What trackers are told."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self.heard.append((config.number, "started"))

    def trial_reported(self, number: int, point: EvalPoint) -> None: ...

    def trial_ended(self, number: int, result: TrialResult) -> None:
        self.heard.append((number, result.outcome))


def swept(space: Space, *curves: Sequence[float], n_trials: int) -> tuple[Sweep, Listener]:
    sweep, listener = Sweep(space, open_study(space, "sqlite:///:memory:"), resolve), Listener()
    sweep.trackers = [listener]
    run(sweep, InlineRunner(replaying(*curves)), Budget(n_trials, None))
    return sweep, listener


def outcomes(sweep: Sweep) -> list[str]:
    return [trial.outcome for trial in sweep.ended()]


def test_the_first_trials_wait_for_peers_and_the_best_goes_on(space: Space) -> None:
    sweep, listener = swept(space, BAD, GOOD, BAD, n_trials=3)
    assert listener.heard[:5] == [
        (0, "started"), (0, "paused"), (1, "started"), (1, "paused"), (2, "started"),
    ]  # fmt: skip
    assert (1, "completed") in listener.heard
    assert outcomes(sweep) == ["outclassed", "completed", "outclassed"]
    assert sweep.n_paused() == 0


def test_a_trial_goes_on_once_it_belongs_to_the_best_third(space: Space) -> None:
    middling = [1.6, 1.5, 1.4, 1.3]
    sweep, listener = swept(space, GOOD, middling, BAD, BAD, BAD, BAD, n_trials=6)
    paused_at, completed_at = (listener.heard.index((1, o)) for o in ("paused", "completed"))
    assert listener.heard.index((5, "started")) < completed_at
    assert paused_at < listener.heard.index((2, "started"))
    assert outcomes(sweep) == ["completed"] * 2 + ["outclassed"] * 4
    assert sweep.ended()[2].reason == (
        "Never resumed. Eval loss 1.9000 at 25% of its run (1 step): 3rd of 6; "
        "the top 2 go on, down to trial 1 with 1.6000 (1 step)."
    )


def test_so_few_that_none_can_be_compared_all_go_on_in_the_end(space: Space) -> None:
    sweep, _ = swept(space, GOOD, BAD, n_trials=2)
    assert outcomes(sweep) == ["completed", "completed"]


def test_a_trial_that_was_lost_later_stands_in_nobody_s_way(space: Space) -> None:
    lost = [1.0, math.nan]
    sweep, _ = swept(space, lost, GOOD, BAD, n_trials=3)
    assert outcomes(sweep) == ["diverged", "completed", "outclassed"]


def test_samplers_see_a_paused_trial_as_pruned(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    sweep = Sweep(space, study, resolve)
    number, config = sweep.ask()
    sweep.started(config, Place("here", "this process"))
    verdict = sweep.report(number, point(1, 2.0))
    assert verdict is not None and verdict.outcome == "paused"
    words = "Paused at 25%, step 1 (eval loss 2.0000), until 2 more trials get there."
    assert verdict.reason == words
    assert not sweep.tell(number, TrialResult(outcome="paused", reason=verdict.reason))
    seen = sweep._view.as_searched().trials[0]
    assert (seen.state, seen.intermediate_values) == (TrialState.PRUNED, {1: 2.0})
    assert study.trials[0].state is TrialState.RUNNING


def pause_all(sweep: Sweep, losses: Sequence[float]) -> None:
    for loss in losses:
        number, config = sweep.ask()
        sweep.started(config, Place("here", "this process"))
        verdict = sweep.report(number, point(1, loss))
        assert verdict is not None
        sweep.tell(number, TrialResult(outcome="paused", reason=verdict.reason))


def test_paused_trials_survive_a_crash(space: Space, tmp_path: Path) -> None:
    pause_all(Sweep(space, open_study(space, storage_url(tmp_path)), resolve), [1.9, 1.5])

    study = open_study(space, storage_url(tmp_path))
    assert [is_paused(trial) for trial in study.trials[:2]] == [True, True]
    again, listener = Sweep(space, study, resolve), Listener()
    again.trackers = [listener]
    assert (again.n_paused(), again.n_waiting()) == (2, 0)
    again.catch_up()
    assert listener.heard == [(0, "started"), (0, "paused"), (1, "started"), (1, "paused")]
    listener.heard.clear()
    run(again, InlineRunner(replaying(BAD, GOOD, BAD)), Budget(3, None))
    assert outcomes(again) == ["outclassed", "completed", "outclassed"]
    assert not any(trial.user_attrs.get(PAUSED) for trial in study.trials)


def test_one_that_had_been_taken_up_when_the_process_died_runs_again(
    space: Space, tmp_path: Path
) -> None:
    dead = Sweep(space, open_study(space, storage_url(tmp_path)), resolve)
    pause_all(dead, [1.9, 1.5])
    assert dead.promising(is_last=True) == 1
    dead.ask(1)
    again = Sweep(space, open_study(space, storage_url(tmp_path)), resolve)
    assert (again.n_paused(), again.n_waiting()) == (1, 1)
    number, _ = again.ask()
    assert number == 1
    assert again.report(1, point(1, 1.5)) is None  # what it reports once more is not judged again


def test_when_the_time_is_over_paused_trials_stay_paused(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    sweep = Sweep(space, study, resolve)
    now = [0.0]
    trial = replaying(BAD)

    def slow(config: TrialConfig, report: Report) -> TrialResult:
        now[0] += 3600.0
        return trial(config, report)

    why = run(sweep, InlineRunner(slow), Budget(None, 1.5, clock=lambda: now[0]))
    assert why is Enough.HOURS
    assert (sweep.n_paused(), sweep.n_ended()) == (2, 0)


def test_a_paused_trial_that_its_user_ends_does_not_go_on(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    wanted: set[int] = set()
    sweep = Sweep(space, study, resolve, lambda number: number in wanted)
    pause_all(sweep, [1.5, 1.9])
    wanted.add(0)
    assert sweep.promising(is_last=True) == 1
    sweep.end_paused()
    assert outcomes(sweep) == ["stopped", "outclassed"]


def test_pausing_may_be_switched_off_between_two_runs(space: Space, tmp_path: Path) -> None:
    pause_all(Sweep(space, open_study(space, storage_url(tmp_path)), resolve), [1.9, 1.5])
    pruning = space.settings.pruning.model_copy(update={"outclassed": False})
    settings = space.settings.model_copy(update={"pruning": pruning})
    off = dataclasses.replace(space, settings=settings)
    again = Sweep(off, open_study(off, storage_url(tmp_path)), resolve)
    run(again, InlineRunner(replaying(BAD, GOOD)), Budget(2, None))
    assert outcomes(again) == ["completed", "completed"]


def measured(nlls: Any, index: int = 1) -> EvalPoint:
    """Of rows of 10 tokens."""
    loss = float(np.mean(nlls)) / 10
    return dataclasses.replace(point(index, loss), row_nlls=as_text(np.asarray(nlls)))


def rows_of(seed: int, n: int = 128) -> Any:
    return np.random.default_rng(seed).normal(20.0, 4.0, n)


def test_the_losses_of_rows_come_back_from_their_text() -> None:
    nlls = rows_of(0)
    assert np.allclose(from_text(as_text(nlls)), nlls, rtol=5e-4)
    assert len(as_text(rows_of(0, 256))) == 684
    assert np.isinf(from_text(as_text(np.array([1e9])))).all()


def between(one: EvalPoint, other: EvalPoint) -> float | None:
    mine, theirs = losses_of(one), losses_of(other)
    return standard_error(mine, theirs) if mine and theirs else None


def test_the_standard_error_is_that_of_paired_rows() -> None:
    difficulty, noise = rows_of(0), np.random.default_rng(1).normal(0.0, 1.0, 128)
    one, other = measured(difficulty), measured(difficulty + noise)
    error = between(one, other)
    assert error is not None
    assert error == pytest.approx(noise.std(ddof=1) / math.sqrt(128) / 10, rel=0.01)
    unpaired = between(one, measured(rows_of(2)))
    assert unpaired is not None and unpaired > 4 * error


@pytest.mark.parametrize("other", [point(1, 2.0), measured(rows_of(0, 64))])
def test_without_the_same_rows_no_error_is_known(other: EvalPoint) -> None:
    assert between(measured(rows_of(0)), other) is None


def halving(standard_errors: float) -> Halving:
    return Halving(
        BY_EVAL_LOSS,
        rungs=(1,),
        n_evaluations=10,
        factor=3,
        min_peers=2,
        standard_errors=standard_errors,
    )


def test_a_pause_names_no_more_trials_than_are_to_come() -> None:
    rungs = Halving(
        BY_EVAL_LOSS,
        rungs=(1,),
        n_evaluations=10,
        factor=3,
        min_peers=4,
        standard_errors=0.0,
        n_trials=4,
    )
    said = []
    for number in range(2):
        rungs.hear(number, [point(1, 2.0)])
        said.append(rungs.reason(number, 1))
    rungs.lost(2)  # before it got there
    rungs.hear(3, [point(1, 2.0)])
    assert [words and words.rpartition("until ")[2] for words in said] == [
        "3 more trials get there.",
        "2 more trials get there.",
    ]
    assert rungs.reason(3, 1) is None  # it would go on the moment it had been paused


@pytest.mark.parametrize(("standard_errors", "waits"), [(2.0, False), (0.0, True)])
def test_nobody_waits_for_a_difference_that_the_rows_cannot_resolve(
    standard_errors: float, waits: bool
) -> None:
    rungs, difficulty = halving(standard_errors), rows_of(0)
    noise = np.random.default_rng(1).normal(0.0, 1.0, 128)
    rungs.hear(0, [measured(difficulty)])
    rungs.hear(1, [measured(difficulty + 5.0)])
    rungs.hear(2, [measured(difficulty + noise - noise.mean() + 0.05)])
    assert (rungs.reason(2, 1) is not None) is waits
    assert rungs.reason(1, 1) is not None


def test_in_the_end_nobody_is_given_up_for_a_difference_that_the_rows_cannot_resolve() -> None:
    for standard_errors, goes_on in ((2.0, 2), (0.0, None)):
        rungs, difficulty = halving(standard_errors), rows_of(0)
        noise = np.random.default_rng(1).normal(0.0, 1.0, 128)
        for number, nlls in enumerate(
            (difficulty, difficulty + 5.0, difficulty + noise - noise.mean() + 0.05)
        ):
            rungs.hear(number, [measured(nlls)])
        assert rungs.promising({1: 1, 2: 1}, is_last=False) is None
        assert rungs.promising({1: 1, 2: 1}, is_last=True) == goes_on


def test_rungs_are_evaluations_of_a_whole_run() -> None:
    assert rung_indices([0.05, 0.2, 0.8], 20) == (1, 4, 16)
    assert rung_indices([0.01, 0.1, 0.99], 4) == (1,)


def test_a_short_run_is_compared_at_its_first_evaluation_from_a_rung_on() -> None:
    rungs = Halving(
        BY_EVAL_LOSS, rungs=(4, 6), n_evaluations=20, factor=3, min_peers=2, standard_errors=2.0
    )
    assert rungs.hear(0, [point(2, 2.0)]) is None
    assert rungs.hear(0, [point(2, 2.0), point(7, 1.9)]) == 6
    assert rungs.rung_of(0) == 6
    assert rungs.hear(0, [point(2, 2.0), point(7, 1.9), point(10, 1.8)]) is None


def test_of_a_trial_the_best_so_far_counts() -> None:
    rungs = halving(0.0)
    for number, losses in enumerate(([1.2, 1.9], [1.5, 1.4], [1.6, 1.5])):
        curve = [point(index, loss) for index, loss in enumerate(losses, start=1)]
        for n in (1, 2):
            rungs.hear(number, curve[:n])
    assert rungs.promising({0: 1, 1: 1, 2: 1}, is_last=False) == 0


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_every_sampler_draws_beside_paused_trials(space: Space, sampler: str) -> None:
    settings = space.settings.model_copy(update={"sampler": sampler})
    space = dataclasses.replace(space, settings=settings)
    curves = [[1.5 + n / 20, 1.4 + n / 20, 1.3, 1.2 + n / 20] for n in range(16)]
    sweep, _ = swept(space, *curves, n_trials=16)
    assert outcomes(sweep).count("completed") >= 5
    assert len(sweep.ended()) == 16


def test_a_study_of_optuna_s_own_keeps_working(space: Space) -> None:
    sweep, _ = swept(space, GOOD, BAD, BAD, n_trials=3)
    states: Mapping[str, TrialState] = {
        t.user_attrs["outcome"]: t.state for t in sweep._study.trials
    }
    assert states == {"completed": TrialState.COMPLETE, "outclassed": TrialState.PRUNED}
    assert isinstance(sweep._study, optuna.Study)


def test_rows_are_kept_of_the_base_model_the_best_and_where_peers_are_compared() -> None:
    losses = [3.0, 2.0, 1.5, 1.2, 1.4, 1.3]
    curve = [dataclasses.replace(point(n, loss), row_nlls="x") for n, loss in enumerate(losses)]
    kept = thinned(curve, BY_EVAL_LOSS, (2,))
    assert [p.index for p in kept if p.row_nlls] == [0, 2, 3]
    assert [p.eval_loss for p in kept] == losses
