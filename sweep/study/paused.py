"""Trials that are paused: kept in the study, to survive the sweep, and chosen to go on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweep.pruners.peers import Rivals
from sweep.storage.attributes import CURVE, PAUSED, RESULT, STOP, TOLD, is_paused
from sweep.storage.mirror import together
from sweep.storage.optuna_private import going_on
from sweep.study.told import told_now
from trials.config import EvalPoint, TrialResult
from trials.trial_folder import result_of


@dataclass(frozen=True, slots=True)
class Paused:
    """A trial that waits, its checkpoint on disk."""

    trial: optuna.Trial
    curve: list[EvalPoint]
    result: TrialResult
    """Of its run so far."""


class PausedTrials(Mapping[int, Paused]):
    """All paused trials of a study, by number."""

    def __init__(self, study: optuna.Study) -> None:
        self._trials = {
            trial.number: _read(study, trial)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if is_paused(trial)
        }
        self.unwanted: set[int] = set()
        """Those that a person wants to end."""

    def __getitem__(self, number: int) -> Paused:
        return self._trials[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def add(self, trial: optuna.Trial, curve: list[EvalPoint], result: TrialResult) -> None:
        known = {RESULT: asdict(result), CURVE: [asdict(point) for point in curve]}
        with together(trial.study):
            trial.set_user_attr(PAUSED, known)
            trial.set_user_attr(TOLD, told_now(trial))
            if trial.user_attrs.get(STOP):
                trial.set_user_attr(STOP, None)
        self._trials[trial.number] = Paused(trial, curve, result)

    def promising(
        self, rivals: Rivals, is_asked_to_prune: Callable[[int], bool], *, is_last: bool
    ) -> int | None:
        """Choose the trial that goes on, by its rank among all (`AshaPruner`); None: none does.

        Args:
            is_last: Whether no further trial comes.
        """
        while waiting := self._trials.keys() - self.unwanted:
            number = rivals.promising(waiting, is_last=is_last)
            if number is None or not is_asked_to_prune(number):
                return number
            self.unwanted.add(number)
        return None

    def take_up(self, number: int) -> optuna.Trial:
        """Let a trial go on."""
        trial = self.take_out(number)
        trial.set_user_attr(PAUSED, None)
        return trial

    def take_out(self, number: int) -> optuna.Trial:
        """Let a trial end: its end is one write, before which it is paused."""
        return self._trials.pop(number).trial


def _read(study: optuna.Study, trial: FrozenTrial) -> Paused:
    known: dict[str, Any] = trial.user_attrs[PAUSED]
    curve = [EvalPoint(**point) for point in known[CURVE]]
    return Paused(going_on(study, trial), curve, result_of(known[RESULT]))
