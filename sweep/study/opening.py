"""Create or open the study, and put right what a killed process left."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import optuna
from optuna.trial import TrialState

from sweep.space.space import Space
from sweep.storage.attributes import COUNTS, POINT, SWEEP_ID, is_paused
from sweep.storage.mirror import Mirror
from sweep.storage.optuna_private import going_on, put_back
from sweep.storage.patient import Patience, PatientStorage
from sweep.study.ended import tell_ended
from trials.config import EvalPoint, TrialResult


def open_study(
    space: Space,
    storage: str | PatientStorage,
    written: Callable[[int], Written | None] = lambda number: None,
    sweep_id: str | None = None,
) -> optuna.Study:
    """Create the study of a space, or open the one that is there.

    Trials that a dead process left running are put back in the queue: they run again under the
    same number, with the same parameters and seed. Those that had ended, and nobody was there to
    hear of it, are told. Paused ones stay paused.

    Args:
        written: What trial `number` has written when it ended, if it has.
        sweep_id: Of the sweep that the study is for, where it lies among those of others.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stored = PatientStorage(storage, Patience()) if isinstance(storage, str) else storage
    optuna.create_study(
        study_name=space.name,
        storage=stored,
        direction=space.objective.direction,
        load_if_exists=True,
    )
    study = optuna.load_study(
        study_name=space.name,
        storage=Mirror(stored, space.name),
        # Verdicts are ours (`Sweep.report`); Optuna's own is never asked.
        pruner=optuna.pruners.NopPruner(),
    )
    if sweep_id is not None and SWEEP_ID not in study.user_attrs:
        study.set_user_attr(SWEEP_ID, sweep_id)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_paused(trial):
            continue
        found = written(trial.number) if POINT in trial.user_attrs else None
        if found is None:
            put_back(study, trial)
        else:
            result, points = found
            curve = [point for point in points if point.index > 0]
            tell_ended(going_on(study, trial), curve, checked_result(result))
    return study


def name_objective(study: optuna.Study, name: str) -> None:
    """Let Optuna's dashboard write `eval_loss`, not `Objective 0`; of studies of before, too."""
    if study.metric_names != [name]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([name])


Written = tuple[TrialResult, list[EvalPoint]]
"""What a trial has written when it ended."""


def checked_result(result: TrialResult) -> TrialResult:
    """A run that ended without one finite eval loss has no value: it failed, and says so."""
    if result.outcome in COUNTS and result.best is None:
        reason = f"No evaluation had a finite eval loss. {result.reason}"
        return replace(result, outcome="failed", reason=reason, cause="no finite eval loss")
    return result
