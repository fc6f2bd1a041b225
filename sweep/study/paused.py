"""Trials that are paused: kept in the study, so that they survive whatever happens to the sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from trials.config import EvalPoint, TrialResult
from trials.trial_folder import result_of

PAUSED = "paused"
"""The user attribute of a paused trial. To Optuna it still runs: its value is not known, and
nobody but the sweep decides when it goes on."""


@dataclass(frozen=True, slots=True)
class Paused:
    """A trial that waits, its checkpoint on disk."""

    trial: optuna.Trial
    curve: list[EvalPoint]
    result: TrialResult
    """Of its run so far."""


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial of a study is paused."""
    return trial.state is TrialState.RUNNING and bool(trial.user_attrs.get(PAUSED))


def curve_of(trial: FrozenTrial) -> Sequence[Mapping[str, Any]]:
    """Return the evaluations of an ended or paused trial, as JSON has them; of others none."""
    known = trial.user_attrs
    if is_paused(trial):
        known = known[PAUSED]
    return list(known.get("curve", []))


class PausedTrials(Mapping[int, Paused]):
    """All paused trials of a study, by number."""

    def __init__(self, study: optuna.Study) -> None:
        self._trials = {
            trial.number: _read(study, trial)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if is_paused(trial)
        }

    def __getitem__(self, number: int) -> Paused:
        return self._trials[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def add(self, trial: optuna.Trial, curve: list[EvalPoint], result: TrialResult) -> None:
        """Note that a trial waits."""
        known = {"result": asdict(result), "curve": [asdict(point) for point in curve]}
        trial.set_user_attr(PAUSED, known)
        self._trials[trial.number] = Paused(trial, curve, result)

    def take_up(self, number: int) -> optuna.Trial:
        """Note that a trial goes on, or ends."""
        trial = self._trials.pop(number).trial
        trial.set_user_attr(PAUSED, None)
        return trial


def _read(study: optuna.Study, trial: FrozenTrial) -> Paused:
    known: dict[str, Any] = trial.user_attrs[PAUSED]
    curve = [EvalPoint(**point) for point in known["curve"]]
    return Paused(optuna.Trial(study, trial._trial_id), curve, result_of(known["result"]))
