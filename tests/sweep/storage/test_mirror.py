"""The study in memory is the study of the database, whatever is done to it."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from sweep.storage.mirror import Mirror
from sweep.storage.optuna_private import begin, put_back, storage_of, trial_id_of
from sweep.storage.patient import Patience, PatientStorage, storage_url
from sweep.study.ended import tell_ended
from trials.config import EvalPoint, TrialResult

POINT = EvalPoint(
    index=1, step=5, epoch=0.5, eval_loss=1.25, train_loss=1.0, learning_rate=1e-4, grad_norm=1.0,
    tokens_per_second=10.0, gpu_memory_gib=None, seconds=2.0,
)  # fmt: skip
COMPLETED = TrialResult(outcome="completed", reason="Ran to its end.", best=POINT)
OUT_OF_MEMORY = TrialResult(outcome="out_of_memory", reason="No micro-batch fits.")


def opened(folder: Path) -> optuna.Study:
    storage = PatientStorage(storage_url(folder), Patience())
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
    study = opened(tmp_path)
    study.set_user_attr("ranges", ((0, 3),))
    study.enqueue_trial({"x": 0.25})
    for number in range(4):
        trial = study.ask({"x": FloatDistribution(0, 1), "c": CategoricalDistribution(("a", "b"))})
        trial.set_user_attr("curve", [{"loss": 1.5}])
        trial.report(float("nan"), 1)
        trial.set_constraint("memory", 1.0)
        if number == 1:
            study.tell(trial, float(number))
        elif number != 2:
            tell_ended(trial, [], OUT_OF_MEMORY if number else COMPLETED)
    put_back(study, study.trials[2])
    point = create_trial(state=TrialState.RUNNING, user_attrs={"point": {"x": 1}})
    begin(study, point)
    assert len(study.trials) == 5
    for other in (stored(tmp_path), opened(tmp_path)):
        assert told(other) == told(study)
        assert other.user_attrs == study.user_attrs == {"ranges": [[0, 3]]}
    assert study.ask().number == 2


def test_an_end_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    study = opened(tmp_path)
    trial = study.ask()
    trial.set_user_attr("outcome", "of an older version, which died between two writes")
    unwritable = create_trial(
        state=TrialState.COMPLETE, value=1.0, user_attrs={"result": 1, "outcome": {1, 2}}
    )
    storage = storage_of(study)
    assert isinstance(storage, Mirror)
    with pytest.raises(TypeError, match="not JSON serializable"):
        storage.end_trial(trial_id_of(trial), unwritable)
    assert told(stored(tmp_path)) == told(study)
    tell_ended(trial, [], COMPLETED)
    assert told(stored(tmp_path)) == told(study)
    (ended,) = study.trials
    assert ended.value == 1.25
    assert ended.user_attrs["outcome"] == "completed"
    assert ended.constraints == {"memory": -1.0}


def test_a_trial_that_is_put_back_twice_is_asked_again(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for _ in range(3):
        study.ask()
    for _ in range(2):
        put_back(study, study.trials[1])
        assert study.ask().number == 1
        assert study.ask().number > 2


def test_what_has_ended_stays_as_it_is(tmp_path: Path) -> None:
    study = opened(tmp_path)
    trial = study.ask()
    study.tell(trial, 1.5)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("outcome", "failed")
    assert study.trials[0].user_attrs == {}
