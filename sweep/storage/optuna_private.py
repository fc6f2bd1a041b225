"""Optuna's private names: each stands here once, and a test fails when Optuna changes it.

Those of the classes that ours inherit from stand there: `mirror`, `patient`, `sweep.samplers`.
"""

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState


def storage_of(study: optuna.Study) -> BaseStorage:
    return study._storage


def study_id_of(study: optuna.Study) -> int:
    return study._study_id


def trial_id_of(trial: optuna.Trial | FrozenTrial) -> int:
    return trial._trial_id


def give_number(trial: FrozenTrial, number: int) -> None:
    """Give a trial that `create_trial` made its number, which is its id too."""
    trial.number = trial._trial_id = number


def going_on(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Return a trial of a study that runs, to report to and to tell."""
    return optuna.Trial(study, trial_id_of(trial))


def begin(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Add a running trial in one write, which a process that dies has made or has not."""
    return optuna.Trial(study, storage_of(study).create_new_trial(study_id_of(study), trial))


def put_back(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> None:
    """Put a trial that was cut off back in the queue, under its number and with its parameters.

    Optuna's queue is made of WAITING trials, and no public call makes one of a running trial.
    """
    storage_of(study).set_trial_state_values(trial_id_of(trial), TrialState.WAITING)
