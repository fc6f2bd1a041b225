"""The study's database: it waits where it cannot be used now, and loses and doubles nothing."""

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweep.clock import WORK
from sweep.errors import StudyAway, StudyError
from sweep.folder import layout
from sweep.storage.sqlite import address_of

RETRY_SECONDS = 1.0
_READS = (
    "get_all_studies",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "_get_trials",
)
_WRITES = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)
"""Each is one transaction that says what shall be there, so that it may come twice: whoever loses
the answer to a commit cannot know whether it was done. (A second `create_new_study` is refused,
and then the study is loaded.) The other three writes are written out below."""

TOGETHER: Mapping[str, Any] = {
    "set_trial_user_attr": models.TrialUserAttributeModel,
    "set_trial_system_attr": models.TrialSystemAttributeModel,
    "set_trial_intermediate_value": None,
}
"""Writes that can be made in one transaction, and where attributes lie."""


# It would log SQL in the middle of the screen for each read that fails and is made again.
logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
# And a traceback where Ctrl-C cuts a read short.
logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)


T = TypeVar("T")


@dataclass
class Patience:
    """What happens while the database cannot be used."""

    say: Callable[[str], None] = lambda _: None
    """Hears why once, and once when it goes on."""
    is_over: Callable[[], bool] = lambda: True
    """Whether nobody wants to wait any longer; by default nobody does."""
    seconds: float = 0.0
    """So long it is waited all the same."""


class PatientStorage(RDBStorage):
    """Optuna's storage, asked again until it answers: a full disk, a server that was restarted.

    Training goes on meanwhile until its next evaluation. It must be the only writer of its studies.

    Args:
        patience: May be changed at any time.
        options: As Optuna's.
    """

    def __init__(self, url: str, patience: Patience, **options: Any) -> None:
        super().__init__(url, **options)
        self.patience = patience
        for verb, names in (("read", _READS), ("written", _WRITES)):
            for name in names:
                setattr(self, name, self._patient(verb, getattr(self, name)))

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        """Make the trial of the next number; it is looked for before it is made again."""
        number: int | None = None

        def make() -> None:
            nonlocal number
            with _create_scoped_session(self.scoped_session) as session:
                study = models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                n_there = models.TrialModel.count(session, study)
                if number is None:
                    number = n_there
                if number != n_there:
                    return  # the answer to an earlier attempt was lost
                if template_trial is None or template_trial.state.is_finished():
                    self._get_prepared_new_trial(study_id, template_trial, session)
                else:
                    session.add(_rows_of(template_trial, study_id, number))

        self._until_done("written", make)
        assert number is not None
        return self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's, which would refuse a change that was made and whose answer was lost."""
        is_repeated = False
        write = super().set_trial_state_values

        def change() -> bool:
            nonlocal is_repeated
            if is_repeated and self.get_trial(trial_id).state is state:
                return True
            is_repeated = True
            return write(trial_id, state, values)

        return self._until_done("written", change)

    def end_trial(self, trial_id: int, ended: FrozenTrial) -> None:
        """Write all that is known of a trial's end in one transaction: there is no half of it.

        Args:
            ended: Its state and values, and the attributes that come to those it has.
        """

        def end() -> None:
            with _create_scoped_session(self.scoped_session) as session:
                trial: Any = models.TrialModel.find_or_raise_by_id(
                    trial_id, session, for_update=True
                )
                if trial.state is ended.state:
                    return  # the answer to an earlier attempt was lost
                for model, attributes in (
                    (models.TrialUserAttributeModel, ended.user_attrs),
                    (models.TrialSystemAttributeModel, ended.system_attrs),
                ):
                    for key, value in attributes.items():
                        self._set_trial_attr_without_commit(session, model, trial_id, key, value)
                for objective, value in enumerate(ended.values or ()):
                    self._set_trial_value_without_commit(session, trial, objective, value)
                trial.state = ended.state
                # The clock may have been set back since.
                trial.datetime_complete = max(datetime.now(), trial.datetime_start)

        self._until_done("written", end)

    def write_together(self, writes: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Write several facts about running trials in one transaction: all are there, or none.

        Args:
            writes: Names of `TOGETHER`, with the arguments of each.
        """

        def write() -> None:
            with _create_scoped_session(self.scoped_session) as session:
                for name, (trial_id, key, value) in writes:
                    if model := TOGETHER[name]:
                        self._set_trial_attr_without_commit(session, model, trial_id, key, value)
                    else:
                        self._set_trial_intermediate_value_without_commit(
                            session, trial_id, key, value
                        )

        self._until_done("written", write)

    def _patient(self, verb: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(ask)
        def patient(*args: Any, **kwargs: Any) -> Any:
            return self._until_done(verb, lambda: ask(*args, **kwargs))

        return patient

    def _until_done(self, verb: str, ask: Callable[[], T]) -> T:
        has_failed, began = False, WORK.now()
        while True:
            try:
                answer = ask()
            except StorageInternalError as error:
                cause = cause_of(error)
                waited = WORK.now() - began
                if waited >= self.patience.seconds and self.patience.is_over():
                    raise StudyAway(
                        f"The study cannot be {verb}: {cause} Its data is safe; run the same "
                        f"command once it works."
                    ) from None
                if not has_failed:
                    self.patience.say(f"The study cannot be {verb}: {cause} Waiting …")
                has_failed = True
                time.sleep(RETRY_SECONDS)
            else:
                if has_failed:
                    self.patience.say(f"The study can be {verb} again.")
                return answer


def _rows_of(trial: FrozenTrial, study_id: int, number: int) -> models.TrialModel:
    """A trial that has reported nothing yet, in as few statements as there are tables.

    Optuna's way asks the database thrice about each parameter: whether the trial may be changed,
    whether it has one, and whether other processes gave the study another distribution of its name.
    """
    return models.TrialModel(
        study_id=study_id,
        number=number,
        state=trial.state,
        datetime_start=trial.datetime_start,
        params=[
            models.TrialParamModel(
                param_name=name,
                param_value=trial.distributions[name].to_internal_repr(value),
                distribution_json=distribution_to_json(trial.distributions[name]),
            )
            for name, value in trial.params.items()
        ],
        user_attributes=[
            models.TrialUserAttributeModel(key=key, value_json=json.dumps(value))
            for key, value in trial.user_attrs.items()
        ],
        system_attributes=[
            models.TrialSystemAttributeModel(key=key, value_json=json.dumps(value))
            for key, value in trial.system_attrs.items()
        ],
    )


def cause_of(error: BaseException) -> str:
    """The database's own words as a sentence, without SQL and parameters."""
    cause = error.__cause__ or error
    said = getattr(cause, "orig", None) or getattr(cause, "strerror", None)
    words = str(said or cause).strip().splitlines()[0].rstrip(".")
    return f"{words.removeprefix('connection failed: ')}."


def own_storage(output_dir: Path, patience: Patience) -> PatientStorage:
    """Open, or begin, the study's own database in the sweep's folder.

    Raises:
        StudyAway: It cannot be: the disk is full, say.
        StudyError: Another version of Optuna wrote it.
    """
    try:
        return PatientStorage(storage_url(output_dir), patience)
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StudyAway(
            f"{output_dir / layout.STUDY}: cannot be used: {cause_of(error)} Free disk space or "
            f"make it writable, and run the same command again."
        ) from None
    except RuntimeError as error:
        raise StudyError(f"{output_dir / layout.STUDY}: cannot be used: {error}") from None


def storage_url(output_dir: Path) -> str:
    """The study's own sqlite file in the sweep's folder."""
    return address_of(output_dir / layout.STUDY)
