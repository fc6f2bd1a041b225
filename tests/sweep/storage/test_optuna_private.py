"""Each private name of Optuna is what it was taken for."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState, create_trial

from sweep.storage.mirror import InMemory
from sweep.storage.optuna_private import (
    begin,
    give_number,
    going_on,
    put_back,
    storage_of,
    study_id_of,
    trial_id_of,
)


def test_a_study_says_where_it_is_stored_and_under_which_id() -> None:
    storage = InMemory()
    optuna.create_study(study_name="another", storage=storage)
    study = optuna.create_study(study_name="mine", storage=storage)
    assert storage_of(study) is storage
    assert study_id_of(study) == storage.get_study_id_from_name("mine")


def test_a_trial_has_one_id_alive_and_frozen() -> None:
    study = optuna.create_study()
    study.ask()
    trial = study.ask()
    found = storage_of(study).get_trial_id_from_study_id_trial_number(study_id_of(study), 1)
    assert trial_id_of(trial) == trial_id_of(study.trials[1]) == found


def test_a_number_given_is_the_id_too() -> None:
    made = create_trial(value=1.0)
    give_number(made, 7)
    assert (made.number, trial_id_of(made)) == (7, 7)


def test_a_trial_that_another_process_began_goes_on() -> None:
    study = optuna.create_study()
    study.ask()
    going_on(study, study.trials[0]).report(1.5, 1)
    assert study.trials[0].intermediate_values == {1: 1.5}


def test_a_trial_begins_with_all_that_it_has() -> None:
    study = optuna.create_study()
    study.ask()
    trial = begin(study, create_trial(state=TrialState.RUNNING, user_attrs={"point": 8}))
    assert (trial.number, trial.user_attrs) == (1, {"point": 8})
    study.tell(trial, 1.0)
    assert study.best_trial.number == 1


def test_a_trial_that_is_put_back_is_asked_for_next() -> None:
    study = optuna.create_study(storage=InMemory())
    trials = [study.ask() for _ in range(3)]
    put_back(study, trials[1])
    assert study.trials[1].state is TrialState.WAITING
    assert (study.ask().number, study.ask().number) == (1, 3)
