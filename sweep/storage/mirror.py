"""The study in memory, its database behind it: reads cost nothing, writes are in both.

One process alone writes a study (its folder has a lock), so what is in memory is what the database
holds. Optuna's own storage asks the database for all running trials whenever it is asked for any.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from sweep.storage.optuna_private import storage_of, trial_id_of
from sweep.storage.patient import TOGETHER, PatientStorage


class InMemory(InMemoryStorage):
    """Optuna's storage in memory, in which a trial can be put as it is."""

    def put(self, study_id: int, trial: FrozenTrial) -> None:
        """Put a trial in the place of its number, which may be the next one; it is not copied."""
        trials = self._studies[study_id].trials
        trials[trial.number : trial.number + 1] = [trial]
        self._trial_id_to_study_id_and_number[trial_id_of(trial)] = (study_id, trial.number)
        self._max_trial_id = max(self._max_trial_id, trial_id_of(trial))
        if trial.state is TrialState.WAITING:
            self._look_for_waiting_from(study_id, trial.number)

    def take_out_last(self, study_id: int) -> None:
        trial = self._studies[study_id].trials.pop()
        del self._trial_id_to_study_id_and_number[trial_id_of(trial)]
        self._max_trial_id = trial_id_of(trial) - 1

    def end_trial(self, trial_id: int, ended: FrozenTrial) -> None:
        """Give a running trial its end.

        Args:
            ended: Its state and values, and the attributes that come to those it has.
        """
        for key, value in ended.user_attrs.items():
            InMemory.set_trial_user_attr(self, trial_id, *_as_read((key, value)))
        for key, value in ended.system_attrs.items():
            InMemory.set_trial_system_attr(self, trial_id, *_as_read((key, value)))
        InMemory.set_trial_state_values(self, trial_id, ended.state, ended.values)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's, which takes no trial back into the queue that has been taken from it."""
        is_set = super().set_trial_state_values(trial_id, state, values)
        if state is TrialState.WAITING:
            self._look_for_waiting_from(*self._trial_id_to_study_id_and_number[trial_id])
        return is_set

    def together(self) -> AbstractContextManager[None]:
        """Here nobody can die between two writes."""
        return nullcontext()

    def _look_for_waiting_from(self, study_id: int, number: int) -> None:
        first = self._prev_waiting_trial_number
        first[study_id] = min(first[study_id], number)


class Mirror(InMemory):
    """A study of a database, read once and held in memory; every write goes to the database first.

    Args:
        stored: The database; nobody else writes the study.
        name: Of the study, which is there.
    """

    def __init__(self, stored: PatientStorage, name: str) -> None:
        super().__init__()
        self._stored = stored
        self._held: list[tuple[str, Sequence[Any]]] | None = None
        """Writes that are made together, by name, with their arguments."""
        self._load(stored.get_study_id_from_name(name), name)
        for what in ("user_attr", "system_attr"):
            for of in ("study", "trial"):
                self._write_through(f"set_{of}_{what}", as_read=_as_read)
        self._write_through("set_trial_param")
        self._write_through("set_trial_intermediate_value")

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create it in the database; here it is as the database has it."""
        trial_id = self._stored.create_new_trial(study_id, template_trial)
        self.put(study_id, self._stored.get_trial(trial_id))
        return trial_id

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self._stored.set_trial_state_values(trial_id, state, values)
        return super().set_trial_state_values(trial_id, state, values)

    def end_trial(self, trial_id: int, ended: FrozenTrial) -> None:
        """Give a running trial its end, in the database in one transaction."""
        self._stored.end_trial(trial_id, ended)
        super().end_trial(trial_id, ended)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is set of trials meanwhile goes into the database in one transaction, at the end."""
        self._held = []
        try:
            yield
            self._stored.write_together(self._held)
        finally:
            self._held = None

    def _load(self, study_id: int, name: str) -> None:
        made = super().create_new_study(self._stored.get_study_directions(study_id), name)
        study = self._studies[study_id] = self._studies.pop(made)
        study.user_attrs = self._stored.get_study_user_attrs(study_id)
        study.system_attrs = self._stored.get_study_system_attrs(study_id)
        self._study_name_to_id[name] = study_id
        self._prev_waiting_trial_number[study_id] = 0
        for trial in self._stored.get_all_trials(study_id, deepcopy=False):
            self.put(study_id, trial)

    def _write_through(
        self, name: str, as_read: Callable[[Sequence[Any]], Sequence[Any]] = list
    ) -> None:
        store, keep = getattr(self._stored, name), getattr(self, name)

        @functools.wraps(keep)
        def in_both(*args: Any, **kwargs: Any) -> None:
            if self._held is not None and name in TOGETHER:
                self._held.append((name, args))
            else:
                store(*args, **kwargs)
            keep(*as_read(args), **kwargs)

        setattr(self, name, in_both)


def together(study: optuna.Study) -> AbstractContextManager[None]:
    """Write what is set of a study's trials meanwhile in one transaction (`Mirror.together`)."""
    storage = storage_of(study)
    assert isinstance(storage, InMemory), "opened by `open_study`"
    return storage.together()


def _as_read(args: Sequence[Any]) -> Sequence[Any]:
    """An attribute as it comes out of the database: JSON, and nobody else's object."""
    return [*args[:-1], json.loads(json.dumps(args[-1]))]
