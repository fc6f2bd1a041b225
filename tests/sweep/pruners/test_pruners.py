"""Made-up curves: each pruner says what it should, and nothing where it should not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
import pytest

from sweep.pruners.diverged import Diverged
from sweep.pruners.overfit import Overfit
from sweep.pruners.own_curve import ByItself
from sweep.pruners.peers import OptunaPruner
from sweep.space.settings import OutclassedSettings, Pruning
from trials.config import EvalPoint


def curve(eval_losses: Sequence[float], train_losses: Sequence[float]) -> list[EvalPoint]:
    return [
        EvalPoint(
            index=index,
            step=10 * index,
            epoch=0.1 * index,
            eval_loss=eval_loss,
            train_loss=train_loss,
            learning_rate=1e-4,
            grad_norm=1.0,
            tokens_per_second=100.0,
            gpu_memory_gib=None,
            seconds=1.0 * index,
        )
        for index, (eval_loss, train_loss) in enumerate(
            zip(eval_losses, train_losses, strict=True), start=1
        )
    ]


def falling(n: int) -> list[float]:
    return [2.0 - 0.1 * i for i in range(n)]


OVERFIT = Overfit(min_rise=0.02, patience=3)
DIVERGED = Diverged(factor=1.5)

NOT_OVERFIT = {
    "noise": ([2.0, 1.8, 1.83, 1.79, 1.84, 1.8, 1.78], falling(7)),
    "a plateau": ([2.0, 1.8, 1.8, 1.801, 1.8, 1.802, 1.8], falling(7)),
    "a rise below the tolerance": ([2.0, 1.8, 1.82, 1.83, 1.83, 1.835, 1.834], falling(7)),
    "too short a rise": ([2.0, 1.8, 1.7, 1.9, 1.9], falling(5)),
    "a rise with one relapse": ([2.0, 1.7, 1.9, 1.9, 1.72, 1.9, 1.9], falling(7)),
    "train loss rises too": ([2.0, 1.7, 1.9, 2.0, 2.1], [2.0, 1.7, 1.8, 1.9, 2.0]),
    # its train loss is half its eval loss from the start: the data set is just harder
    "eval harder from the start": (
        [3.0, 2.9, 2.8, 2.75, 2.72, 2.7],
        [1.5, 1.4, 1.3, 1.2, 1.1, 1.0],
    ),
    "still learning": (falling(6), falling(6)),
    "the first evaluation": ([2.0], [2.0]),
}


@pytest.mark.parametrize("losses", NOT_OVERFIT.values(), ids=NOT_OVERFIT.keys())
def test_what_is_not_overfit_goes_on(losses: tuple[list[float], list[float]]) -> None:
    whole = curve(*losses)
    assert [OVERFIT.reason(whole[: n + 1]) for n in range(len(whole))] == [None] * len(whole)


def test_a_late_rise_is_overfit_at_the_third_evaluation_above_the_best() -> None:
    whole = curve([2.0, 1.8, 1.6, 1.5, 1.52, 1.55, 1.58, 1.6], falling(8))
    verdicts = [OVERFIT.reason(whole[: n + 1]) for n in range(len(whole))]
    assert verdicts[:-1] == [None] * 7
    assert verdicts[-1] is not None


def test_overfit_says_its_numbers() -> None:
    reason = OVERFIT.reason(curve([2.0, 1.5, 1.6, 1.65, 1.7], falling(5)))
    assert reason is not None
    assert "1.7000 (50 steps) is 13.3% above its best (1.5000 at step 20)" in reason
    assert "train loss fell from 1.9000 to 1.7000" in reason


def test_the_rise_may_come_with_noise_in_the_train_loss() -> None:
    noisy = [2.0, 1.6, 1.65, 1.4, 1.3]
    assert OVERFIT.reason(curve([2.0, 1.5, 1.6, 1.6, 1.6], noisy)) is not None


def test_too_high_a_rate_is_not_overfitting() -> None:
    # Of the recorded landscape: rank 32 at 1e-2 and 8 epochs, which came to 2.35 in the end. The
    # first train loss holds the way down from the base model.
    eval_losses = [2.55, 2.83, 2.68, 2.71, 2.77, 2.70, 2.61, 2.67, 2.63]
    train_losses = [2.56, 2.37, 2.56, 2.21, 2.48, 2.24, 2.45, 2.35, 2.13]
    whole = curve(eval_losses, train_losses)
    assert [OVERFIT.reason(whole[: n + 1]) for n in range(len(whole))] == [None] * len(whole)


def test_a_trial_may_be_overfit_from_its_first_evaluation_on() -> None:
    whole = curve([2.0, 2.1, 2.2, 2.3, 2.4], [2.2, 1.6, 1.4, 1.2, 1.0])
    assert OVERFIT.reason(whole[:4]) is not None
    reason = OVERFIT.reason(curve([2.0, 2.1, 2.2, 2.3], [2.2, 1.9, 1.9, 1.9]))
    assert reason is None


def test_before_the_rate_falls_at_the_end_of_a_run_nothing_is_overfit() -> None:
    whole = curve([2.0, 1.5, 1.6, 1.65, 1.7, 1.8], falling(6))
    by_itself = ByItself(Pruning(), n_evaluations=20)
    assert by_itself.verdict(whole, None, "warmup_stable_decay") is None
    stop = by_itself.verdict(whole, None, "constant")
    assert stop is not None and stop.outcome == "overfit"


@pytest.mark.parametrize(
    "settings", [{"min_rise": 0.0, "patience": 3}, {"min_rise": 0.1, "patience": 0}]
)
def test_overfit_refuses_settings_that_would_prune_noise(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Overfit(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_at_the_first_evaluation_has_diverged(loss: float) -> None:
    assert DIVERGED.reason(curve([loss], [2.0]), base_eval_loss=None) is not None
    assert DIVERGED.reason(curve([2.0], [loss]), base_eval_loss=None) is not None


def test_an_eval_loss_far_above_the_base_models_has_diverged() -> None:
    reason = DIVERGED.reason(curve([3.1], [2.0]), base_eval_loss=2.0)
    assert reason == "Eval loss 3.1000 (10 steps) is above 1.5 × the base model's 2.0000."


def test_both_losses_shooting_up_have_diverged() -> None:
    # Measured on a tiny model: rank 32 at a rate of 1e-2.
    whole = curve([0.55, 0.52, 0.6, 0.91], [0.56, 0.5, 0.55, 0.85])
    assert DIVERGED.reason(whole[:3], base_eval_loss=0.8) is None
    reason = DIVERGED.reason(whole, base_eval_loss=0.8)
    assert reason is not None
    assert "Both losses, after 40 steps, are above 1.5 × their lowest" in reason


def test_a_strong_overfit_has_not_diverged() -> None:
    whole = curve([1.0, 0.5, 0.7, 0.9], [1.0, 0.5, 0.3, 0.1])
    assert DIVERGED.reason(whole, base_eval_loss=1.2) is None


def test_a_curve_that_only_falls_has_not_diverged() -> None:
    assert DIVERGED.reason(curve(falling(6), falling(6)), base_eval_loss=2.1) is None


def test_divergence_needs_a_factor_above_1() -> None:
    with pytest.raises(ValueError, match="factor must be above 1, got 1.0"):
        Diverged(factor=1.0)


def outclassed_at(
    losses: Sequence[float], pruner: OptunaPruner, step: int = 1
) -> tuple[str | None, optuna.Study]:
    """Report one loss a trial at the same step; the verdict on the last one."""
    study = optuna.create_study()
    verdict = None
    for loss in losses:
        trial = study.ask()
        trial.report(loss, step)
        verdict = pruner.reason(study, trial, curve([loss] * step, [1.0] * step)[-1])
    return verdict, study


HALVING = OptunaPruner(OutclassedSettings(pruner="successive_halving"), n_evaluations=20)


def test_too_few_peers_are_no_class_to_be_last_of() -> None:
    assert outclassed_at([1.0, 1.1, 1.2, 9.0], HALVING)[0] is None


def test_the_worst_of_five_is_outclassed_and_hears_its_rank() -> None:
    reason, _ = outclassed_at([1.0, 1.1, 1.2, 1.3, 9.0], HALVING)
    assert reason is not None
    assert ": 5th of 5 at this share of a run; " in reason
    assert "the best had 1.0000" in reason


def test_the_best_of_five_goes_on() -> None:
    assert outclassed_at([1.0, 1.1, 1.2, 1.3, 0.9], HALVING)[0] is None


def test_a_failed_trial_is_no_peer() -> None:
    pruner = OptunaPruner(OutclassedSettings(pruner="successive_halving"), n_evaluations=20)
    study = optuna.create_study()
    for loss in (1.0, 1.1, 1.2, 1.3):
        trial = study.ask()
        trial.report(loss, 1)
        pruner.reason(study, trial, curve([loss], [1.0])[-1])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    trial = study.ask()
    trial.report(9.0, 1)
    assert pruner.reason(study, trial, curve([9.0], [1.0])[-1]) is None


@pytest.mark.parametrize("name", ["successive_halving", "median", "percentile"])
def test_every_pruner_by_name_stops_a_hopeless_trial(name: str) -> None:
    pruner = OptunaPruner(OutclassedSettings(pruner=name), n_evaluations=20)  # type: ignore[arg-type]
    study = optuna.create_study()
    for loss in (1.0, 1.1, 1.2, 1.3):
        trial = study.ask()
        trial.report(loss, 1)
        pruner.reason(study, trial, curve([loss], [1.0])[-1])
        study.tell(trial, loss)
    trial = study.ask()
    trial.report(9.0, 1)
    assert pruner.reason(study, trial, curve([9.0], [1.0])[-1]) is not None


def test_with_20_evaluations_halving_cuts_at_5_20_and_80_percent() -> None:
    study = optuna.create_study()
    pruner = OptunaPruner(OutclassedSettings(pruner="successive_halving"), n_evaluations=20)
    for loss in (1.0, 1.1, 1.2, 1.3, 1.05):
        trial = study.ask()
        cuts = []
        for step in range(1, 21):
            trial.report(loss, step)
            if pruner._inner.prune(study, study.get_trials(deepcopy=False)[trial.number]):
                cuts.append(step)
                break
    rungs = [k for k in study.trials[0].system_attrs if "rung" in k]
    assert sorted(rungs) == ["completed_rung_0", "completed_rung_1", "completed_rung_2"]
    assert cuts == [1]
