"""In which order trials were paused and ended: the same whenever a study is opened again."""

import math

import optuna
from optuna.trial import FrozenTrial

from sweep.storage.attributes import OUTCOME, RESULT, TOLD
from trials.config import TrialResult
from trials.trial_folder import result_of


def told_now(trial: optuna.Trial) -> list[int]:
    """`TOLD` of a trial that is paused now, or ends."""
    known = (other.user_attrs.get(TOLD) for other in trial.study.get_trials(deepcopy=False))
    n_told = max((told[-1] for told in known if told), default=0)
    return [*trial.user_attrs.get(TOLD, []), n_told + 1]


def first_told(trial: FrozenTrial) -> tuple[float, ...]:
    """What trials sort by to be as they were told; earlier versions wrote down a time alone."""
    told, ended = trial.user_attrs.get(TOLD, [0]), trial.datetime_complete
    return told[0], ended.timestamp() if ended else math.inf, trial.number


def causes_in_a_row(study: optuna.Study) -> list[str]:
    """Causes of the trials that have failed since the last one that did not, in order."""
    told = [
        (when, trial.state.is_finished() and when == trial.user_attrs[TOLD][-1], trial)
        for trial in study.get_trials(deepcopy=False)
        for when in trial.user_attrs.get(TOLD, [])
    ]
    causes: list[str] = []
    for _, is_end, trial in sorted(told, key=lambda event: event[0], reverse=True):
        if not is_end or trial.user_attrs[OUTCOME] != "failed":
            break
        causes.append(cause_of(result_of(trial.user_attrs[RESULT])))
    return causes[::-1]


def cause_of(result: TrialResult) -> str:
    """What failed trials are told apart by."""
    return result.cause or result.reason
