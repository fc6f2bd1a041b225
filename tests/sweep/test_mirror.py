"""The study in memory is the study of the database, whatever is done to it."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from sweep.mirror import Mirror
from sweep.storage import storage_url


def opened(storage: RDBStorage) -> optuna.Study:
    optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    return optuna.load_study(study_name="s", storage=Mirror(storage, "s"))


def stored(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=storage_url(folder))


def told(study: optuna.Study) -> list[str]:
    """All that a study knows of its trials, the time of day apart; as text, where NaN is NaN."""
    return [
        json.dumps(
            {name: value for name, value in vars(trial).items() if "datetime" not in name},
            sort_keys=True,
            default=repr,
        )
        for trial in study.trials
    ]


def test_what_is_done_to_a_study_is_in_both(tmp_path: Path) -> None:
    study = opened(RDBStorage(storage_url(tmp_path)))
    study.set_user_attr("ranges", ((0, 3),))
    study.enqueue_trial({"x": 0.25})
    for number in range(4):
        trial = study.ask({"x": FloatDistribution(0, 1), "c": CategoricalDistribution(("a", "b"))})
        trial.set_user_attr("curve", [{"loss": 1.5}])
        trial.report(float("nan"), 1)
        trial.set_constraint("memory", 1.0)
        if number != 2:
            study.tell(trial, float(number))
    study._storage.set_trial_state_values(study.trials[2]._trial_id, TrialState.WAITING)
    point = create_trial(state=TrialState.RUNNING, user_attrs={"point": {"x": 1}})
    study._storage.create_new_trial(study._study_id, point)
    assert len(study.trials) == 5
    for other in (stored(tmp_path), opened(RDBStorage(storage_url(tmp_path)))):
        assert told(other) == told(study)
        assert other.user_attrs == study.user_attrs == {"ranges": [[0, 3]]}
    assert study.ask().number == 2


def test_a_trial_that_is_put_back_twice_is_asked_again(tmp_path: Path) -> None:
    study = opened(RDBStorage(storage_url(tmp_path)))
    for _ in range(3):
        study.ask()
    for _ in range(2):
        study._storage.set_trial_state_values(study.trials[1]._trial_id, TrialState.WAITING)
        assert study.ask().number == 1
        assert study.ask().number > 2


def test_what_has_ended_stays_as_it_is(tmp_path: Path) -> None:
    study = opened(RDBStorage(storage_url(tmp_path)))
    trial = study.ask()
    study.tell(trial, 1.5)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("outcome", "failed")
    assert study.trials[0].user_attrs == {}
