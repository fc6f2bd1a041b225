"""The study: what is told to Optuna, who hears of it, what happens to a trial that was cut off."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweep.clock import WorkClock
from sweep.driver.loop import run
from sweep.errors import SweepFailed
from sweep.events import Place
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage.patient import storage_url
from sweep.study.budget import Budget
from sweep.study.opening import open_study
from sweep.study.sweep import Sweep
from tests.inline_runner import InlineRunner
from trials.config import EvalPoint, ModelConfig, Outcome, Report, Stop, TrialConfig, TrialResult

MODEL = ModelConfig(
    name="none",
    revision=None,
    quantization="nf4",
    compute_dtype="auto",
    backend="transformers",
    max_length=64,
    trust_remote_code=False,
)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "rows.jsonl").write_text("{}")
    path = tmp_path / "space.yaml"
    path.write_text(
        "base_model: none\n"
        "data: {train: rows.jsonl, eval: 0.1}\n"
        "search:\n"
        "  rank: [8, 16, 32]\n"
        "  learning_rate: {min: 1e-5, max: 1e-2, log: true}\n"
        "evaluate: {times: 4}\n"
        "budget: {trials: 6}\n"
        "pruning: {outclassed: {pruner: successive_halving}}\n"
    )
    return load_space(path)


def resolve(number: int, values: Mapping[str, Any], evaluate_base: bool) -> TrialConfig:
    return TrialConfig(
        number=number,
        model=MODEL,
        data_dir="",
        output_dir="",
        gpus_per_trial=1,
        micro_batch_size=1,
        optimizer="adamw",
        n_evaluations=4,
        eval_batch_size=1,
        evaluate_base=evaluate_base,
        checkpoint_minutes=10.0,
        stall_minutes=10.0,
        seed=0,
        **values,
    )


def point(index: int, eval_loss: float, train_loss: float | None = 1.0) -> EvalPoint:
    return EvalPoint(
        index=index,
        step=index,
        epoch=index / 4,
        eval_loss=eval_loss,
        train_loss=train_loss,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=1.0,
        gpu_memory_gib=None,
        seconds=float(index),
    )


def replaying(*curves: Sequence[float]) -> Callable[[TrialConfig, Report], TrialResult]:
    """A trial whose eval losses are given; the train loss falls all the while."""

    def trial(config: TrialConfig, report: Report) -> TrialResult:
        best: EvalPoint | None = None
        verdict: Stop | None = None
        for index, loss in enumerate(curves[config.number % len(curves)], start=1):
            latest = point(index, loss, 2.0 - index / 10)
            if math.isfinite(loss) and (best is None or loss < best.eval_loss):
                best = latest
            verdict = report(latest)
            if verdict is not None:
                break
        return TrialResult(
            outcome=verdict.outcome if verdict else "completed",
            reason=verdict.reason if verdict else "Ran to its end.",
            best=best,
        )

    return trial


def swept(space: Space, trial: Any, n_trials: int = 1) -> tuple[Sweep, optuna.Study]:
    study = open_study(space, "sqlite:///:memory:")
    sweep = Sweep(space, study, resolve)
    run(sweep, InlineRunner(trial), Budget(n_trials, None))
    return sweep, study


def test_a_completed_trial_is_worth_its_lowest_eval_loss_not_its_last(space: Space) -> None:
    _, study = swept(space, replaying([2.0, 1.5, 1.52, 1.51]))
    assert study.trials[0].state is TrialState.COMPLETE
    assert study.trials[0].value == 1.5


def test_an_overfit_trial_is_complete_with_its_best(space: Space) -> None:
    longer = dataclasses.replace(
        space,
        settings=space.settings.model_copy(
            update={"evaluate": space.settings.evaluate.model_copy(update={"times": 8})}
        ),
    )
    _, study = swept(longer, replaying([2.0, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1]))
    assert study.trials[0].state is TrialState.COMPLETE
    assert study.trials[0].value == 1.5
    assert study.trials[0].user_attrs["outcome"] == "overfit"
    assert max(study.trials[0].intermediate_values) == 6


@pytest.mark.parametrize("first", [math.nan, math.inf])
def test_a_diverged_trial_is_pruned_even_when_it_is_the_first(space: Space, first: float) -> None:
    _, study = swept(space, replaying([first, 1.0]))
    assert study.trials[0].state is TrialState.PRUNED
    assert study.trials[0].user_attrs["outcome"] == "diverged"


def test_a_trial_that_its_user_ends_is_told_apart_and_does_not_count(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    sweep = Sweep(space, study, resolve, is_asked_to_prune=lambda number: number == 1)
    curves = replaying([2.0, 1.9, 1.8, 1.7], [1.0, 0.9, 0.8, 0.7])
    run(sweep, InlineRunner(curves), Budget(2, None))
    stopped = study.trials[1]
    assert (stopped.state, stopped.user_attrs["outcome"]) == (TrialState.PRUNED, "stopped")
    assert stopped.user_attrs["outcome_reason"].startswith("Stopped by hand at ")
    assert len(stopped.user_attrs["curve"]) == 1
    assert [trial.number for trial in sweep.ranked()] == [0]


def test_nothing_is_left_to_stop_at_the_last_evaluation(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    asked: list[int] = []

    def is_asked(number: int) -> bool:
        asked.append(number)
        return len(asked) == space.settings.evaluate.times

    sweep = Sweep(space, study, resolve, is_asked)
    losses = [2.0 - 0.01 * i for i in range(space.settings.evaluate.times)]
    run(sweep, InlineRunner(replaying(losses)), Budget(1, None))
    assert study.trials[0].user_attrs["outcome"] == "completed"


def test_trials_that_wait_are_known_by_their_epochs(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    sweep = Sweep(space, study, resolve)
    number, config = sweep.ask()
    sweep.interrupt()
    assert sweep.queued()[number] == config.epochs


def test_a_hopeless_trial_is_outclassed_after_enough_peers(space: Space) -> None:
    good = [2.0, 1.9, 1.8, 1.7]
    _, study = swept(space, replaying(good, good, good, good, [2.9, 2.8, 2.7, 2.6]), 5)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4 + [
        TrialState.PRUNED
    ]
    assert study.trials[4].user_attrs["outcome"] == "outclassed"
    assert list(study.trials[4].intermediate_values) == [1]


def test_out_of_memory_is_infeasible_for_the_sampler(space: Space) -> None:
    result = TrialResult(outcome="out_of_memory", reason="One row does not fit.")
    _, study = swept(space, lambda config, report: result)
    assert study.trials[0].state is TrialState.PRUNED
    assert study.trials[0].constraints["memory"] > 0


def test_a_run_without_a_finite_eval_loss_has_failed(space: Space) -> None:
    result = TrialResult(outcome="completed", reason="Ran to its end.", best=None)
    _, study = swept(space, lambda config, report: result)
    assert study.trials[0].state is TrialState.FAIL
    assert "No evaluation had a finite eval loss" in study.trials[0].user_attrs["outcome_reason"]


def test_five_failures_with_one_cause_end_the_sweep_with_that_cause(space: Space) -> None:
    result = TrialResult(outcome="failed", reason="KeyError: 'x'", cause="KeyError: 'x'")
    with pytest.raises(SweepFailed, match="5 trials in a row failed .* KeyError: 'x'"):
        swept(space, lambda config, report: result, 20)


def test_failures_with_different_causes_do_not_end_the_sweep(space: Space) -> None:
    def failing(config: TrialConfig, report: Report) -> TrialResult:
        return TrialResult(outcome="failed", reason="", cause=f"cause {config.number % 2}")

    _, study = swept(space, failing, 12)
    assert len(study.trials) == 12


def test_start_with_comes_first(space: Space) -> None:
    sweep, _ = swept(space, replaying([1.0, 1.0, 1.0, 1.0]), 2)
    first = sweep.ended()[0].hyperparameters
    assert (first["rank"], first["alpha"], first["learning_rate"]) == (16, 16.0, 2e-4)


def test_point_0_is_the_base_models_own_loss_and_no_report(space: Space) -> None:
    def trial(config: TrialConfig, report: Report) -> TrialResult:
        report(point(0, 3.25, None))
        return replaying([2.0, 1.0, 1.0, 1.0])(config, report)

    sweep, study = swept(space, trial)
    assert sweep.base.eval_loss == 3.25
    assert list(study.trials[0].intermediate_values) == [1, 2, 3, 4]


def test_one_trial_measures_the_base_model_and_another_when_it_dies(space: Space) -> None:
    sweep = Sweep(space, open_study(space, "sqlite:///:memory:"), resolve)
    assert [sweep.ask()[1].evaluate_base for _ in range(2)] == [True, False]
    sweep.tell(0, TrialResult(outcome="failed", reason="", cause=""))
    assert sweep.ask()[1].evaluate_base
    sweep.report(2, point(0, 3.0, None))
    assert not sweep.ask()[1].evaluate_base


class Listener:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.outcomes: list[Outcome] = []

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self.heard.append(("started", config.number))

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        self.heard.append(("reported", point.index))

    def trial_ended(self, number: int, result: TrialResult) -> None:
        self.heard.append(("ended", number))
        self.outcomes.append(result.outcome)


def test_a_tracker_hears_of_everything_in_order(space: Space) -> None:
    study = open_study(space, "sqlite:///:memory:")
    sweep, listener = Sweep(space, study, resolve), Listener()
    sweep.trackers = [listener]
    trial = replaying([2.0, 1.0, 1.0, 1.0])
    run(sweep, InlineRunner(trial), Budget(1, None))
    reports = [("reported", index) for index in (1, 2, 3, 4)]
    assert listener.heard == [("started", 0), *reports, ("ended", 0)]


def test_an_interrupted_trial_runs_again_under_its_number_and_parameters(
    space: Space, tmp_path: Path
) -> None:
    study = open_study(space, storage_url(tmp_path))
    sweep = Sweep(space, study, resolve)
    sweep.ask()
    number, before = sweep.ask()
    sweep.report(1, point(1, 2.0))
    sweep.report(1, point(2, 1.0))
    sweep.interrupt()
    again = Sweep(space, open_study(space, storage_url(tmp_path)), resolve)
    assert again.n_waiting() == 2
    numbers_and_configs = [again.ask(), again.ask(), again.ask()]
    assert [n for n, _ in numbers_and_configs] == [0, 1, 2]
    assert dataclasses.replace(numbers_and_configs[1][1]) == before
    assert number == 1


def test_a_trial_that_a_dead_driver_left_running_is_put_back(space: Space, tmp_path: Path) -> None:
    dead = Sweep(space, open_study(space, storage_url(tmp_path)), resolve)
    _, before = dead.ask()
    after = Sweep(space, open_study(space, storage_url(tmp_path)), resolve)
    assert after.ask() == (0, before)


def test_points_that_the_study_has_already_are_not_judged_by_peers_again(
    space: Space, tmp_path: Path
) -> None:
    study = open_study(space, storage_url(tmp_path))
    sweep = Sweep(space, study, resolve)
    sweep.ask()
    sweep.report(0, point(1, 2.0))
    sweep.interrupt()
    sweep.ask()
    assert sweep.report(0, point(1, 2.0)) is None
    sweep.report(0, point(2, 1.9))
    assert study.trials[0].intermediate_values == {1: 2.0, 2: 1.9}


def test_the_ranking_leaves_out_what_was_pruned(space: Space) -> None:
    sweep, _ = swept(space, replaying([2.0, 1.6, 1.7, 1.8], [math.nan], [2.0, 1.4, 1.5, 1.5]), 3)
    assert [trial.number for trial in sweep.ranked()] == [2, 0]


def test_a_finite_space_ends_when_every_point_was_tried(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    path = tmp_path / "small.yaml"
    path.write_text(
        "base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\n"
        "search: {rank: [8, 16], epochs: [1, 2]}\nevaluate: {times: 4}\n"
        "pruning: {outclassed: false}\nbudget: {trials: 50}\n"
    )
    sweep, _ = swept(load_space(path), replaying([2.0, 1.0, 1.0, 1.0]), 50)
    tried = {(t.hyperparameters["rank"], t.hyperparameters["epochs"]) for t in sweep.ended()}
    assert len(sweep.ended()) == 4
    assert len(tried) == 4


LOST = TrialResult(
    outcome="failed", reason="The worker died.\nlog", cause="x", fault="machine_lost"
)


def asked(space: Space, tmp_path: Path) -> tuple[Sweep, optuna.Study, Listener]:
    study = open_study(space, storage_url(tmp_path))
    sweep, listener = Sweep(space, study, resolve), Listener()
    sweep.trackers = [listener]
    return sweep, study, listener


def start_again(sweep: Sweep) -> tuple[int, TrialConfig]:
    number, config = sweep.ask()
    sweep.started(config, Place("host", "GPU 0"))
    return number, config


def test_a_trial_whose_process_was_lost_runs_again_twice_at_most(
    space: Space, tmp_path: Path
) -> None:
    sweep, study, listener = asked(space, tmp_path)
    first = start_again(sweep)
    assert [sweep.tell(0, LOST), start_again(sweep) == first] == [False, True]
    assert [sweep.tell(0, LOST), start_again(sweep) == first] == [False, True]
    assert sweep.tell(0, LOST)
    assert listener.outcomes == ["interrupted", "interrupted", "failed"]
    assert (
        study.trials[0].user_attrs["outcome_reason"].startswith("Given up after being lost 3 times")
    )
    began = [trial.number for trial in study.trials if trial.user_attrs]
    assert (began, study.trials[0].state) == ([0], TrialState.FAIL)


@pytest.mark.parametrize("fault", ["disk_full", "not_begun"])
def test_what_is_never_a_trials_own_doing_is_not_counted(
    space: Space, tmp_path: Path, fault: Any
) -> None:
    sweep, study, _ = asked(space, tmp_path)
    for _ in range(5):
        start_again(sweep)
        assert not sweep.tell(0, dataclasses.replace(LOST, fault=fault))
    assert "n_lost" not in study.trials[0].user_attrs


def test_a_trial_whose_rows_were_changed_runs_again_and_the_sweep_ends(
    space: Space, tmp_path: Path
) -> None:
    sweep, study, listener = asked(space, tmp_path)
    start_again(sweep)
    with pytest.raises(SweepFailed, match="The rows changed"):
        sweep.tell(0, dataclasses.replace(LOST, reason="The rows changed.", fault="rows_changed"))
    assert listener.outcomes == ["interrupted"]
    assert study.trials[0].state is TrialState.WAITING


def test_a_bug_is_not_tried_again(space: Space, tmp_path: Path) -> None:
    sweep, study, _ = asked(space, tmp_path)
    start_again(sweep)
    assert sweep.tell(0, dataclasses.replace(LOST, fault=None))
    assert study.trials[0].state is TrialState.FAIL


def test_an_end_that_nobody_lived_to_hear_of_is_told_and_passed_on(
    space: Space, tmp_path: Path
) -> None:
    dead = Sweep(space, open_study(space, storage_url(tmp_path)), resolve)
    dead.ask()
    dead.report(0, point(1, 2.0))
    written = TrialResult(outcome="completed", reason="Done.", best=point(2, 1.5))
    points = [point(0, 3.0, None), point(1, 2.0), point(2, 1.5)]

    study = open_study(space, storage_url(tmp_path), lambda number: (written, points))
    sweep, listener = Sweep(space, study, resolve), Listener()
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 1.5)
    assert sweep.has_untold()
    sweep.trackers = [listener]
    for _ in range(2):  # the second time there is nothing more to say
        sweep.catch_up()
    reported = [("reported", 1), ("reported", 2)]
    assert listener.heard == [("started", 0), *reported, ("ended", 0)]
    assert listener.outcomes == ["completed"]


def test_trackers_are_not_told_twice_of_what_they_have_heard(space: Space, tmp_path: Path) -> None:
    sweep, _, listener = asked(space, tmp_path)
    run(sweep, InlineRunner(replaying([2.0, 1.0, 1.0, 1.0])), Budget(2, None))
    listener.heard.clear()
    sweep.catch_up()
    assert listener.heard == []


def test_gpu_seconds_are_those_of_all_runs(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("sweep.study.sweep.WORK", WorkClock(lambda: now[0]))
    sweep, _, _ = asked(space, tmp_path)
    for _ in range(2):
        start_again(sweep)
    now[0] += 10
    assert sweep.gpu_seconds() == 20
    sweep.report(0, point(1, 2.0))
    now[0] += 5
    sweep.interrupt()
    now[0] += 1000
    assert sweep.gpu_seconds() == 30
    again, _, _ = asked(space, tmp_path)
    assert again.gpu_seconds() == 30


@pytest.mark.parametrize("found", [2.002, 1.6])
def test_the_base_model_of_an_earlier_version_is_measured_again(
    space: Space, tmp_path: Path, found: float
) -> None:
    study = open_study(space, f"sqlite:///{tmp_path}/study.db")
    study.set_user_attr("base_eval_loss", 2.0)
    sweep = Sweep(space, study, resolve)
    number, config = sweep.ask()
    assert config.evaluate_base
    if found == 1.6:
        with pytest.raises(SweepFailed, match=r"is 1\.6000, but an earlier version measured 2\.0"):
            sweep.report(number, point(0, found))
        return
    sweep.report(number, point(0, found))
    assert sweep.base.eval_loss == 2.0
    assert not sweep.ask()[1].evaluate_base
    assert not Sweep(space, study, resolve).ask()[1].evaluate_base


def test_the_base_model_is_measured_once(space: Space, tmp_path: Path) -> None:
    study = open_study(space, f"sqlite:///{tmp_path}/study.db")
    sweep = Sweep(space, study, resolve)
    number, config = sweep.ask()
    assert config.evaluate_base
    sweep.report(number, point(0, 2.0))
    assert not Sweep(space, study, resolve).ask()[1].evaluate_base
