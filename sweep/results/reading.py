"""A stored sweep, read once: whatever a command says of it comes from this one reading."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.lock import Holder, holder
from sweep.results.final import Final, read_final
from sweep.storage.attributes import (
    BASE_EVAL_LOSS,
    BASE_ROW_NLLS,
    BASE_VALUE,
    GPU_SECONDS,
    POINT,
    PRICE,
    STATE,
    TASK,
)
from sweep.storage.of_folder import has_study, server_of, study_name, study_reader
from sweep.storage.own_file import see_study
from sweep.storage.patient import cause_of
from sweep.study.ended import StoredTrial, place
from sweep.study.summary import Judged, Measured, ValueColumns
from sweep.text.numbers import counted
from sweep.tracking.journal import Journal
from trials.config import Objective
from trials.evaluation.row_nlls import RowLosses, row_losses

NOT_ENDED = ("running", "paused", "waiting")
"""Outcomes of trials of which more is to come."""


@dataclass(frozen=True, kw_only=True)
class StoredSweep:
    """The study of a sweep, and who held its folder, at one moment.

    Nothing of the study is read again, so no two numbers disagree, however the sweep goes on.
    """

    folder: Path
    name: str
    """Of the study."""
    held_by: Holder | None
    """The process that runs the sweep, or confirms its best trials."""
    attributes: Mapping[str, Any]
    """Of the study."""
    frozen: Sequence[FrozenTrial]
    """The trials that have a point, as Optuna has them."""

    @property
    def title(self) -> str:
        """The folder's name, and the study's where that is another: the folder was renamed."""
        here = self.folder.resolve().name
        return self.name if here == self.name else f"{here} (study {self.name})"

    @property
    def runner(self) -> Holder | None:
        """The process that runs it."""
        return self.held_by if self.held_by and self.held_by.work == "run" else None

    @property
    def confirmed_by(self) -> Holder | None:
        """The process of `sweep confirm`, while that runs."""
        return None if self.runner else self.held_by

    @cached_property
    def objective(self) -> Objective:
        """What trials are judged by."""
        known = self.task.get("objective") or {}
        fields = ("name", "direction", "python")
        return Objective(**{field: known[field] for field in fields if field in known})

    @property
    def task(self) -> Mapping[str, Any]:
        """What all its trials share (`sweep.study.task`); empty before the first."""
        return self.attributes.get(TASK) or {}

    @cached_property
    def trials(self) -> list[StoredTrial]:
        """By number."""
        lives = self.runner is not None
        return [StoredTrial.of(each, self.objective, lives=lives) for each in self.frozen]

    @cached_property
    def ranked(self) -> list[StoredTrial]:
        """Trials whose value counts, the best first."""
        counted = [trial for trial in self.trials if trial.counts]
        return sorted(counted, key=partial(place, self.objective))

    @cached_property
    def final(self) -> Final:
        """What the final evaluation has measured."""
        return read_final(self.folder)

    @cached_property
    def decided(self) -> list[StoredTrial]:
        """The ranked, in the order of the final evaluation as far as there was one."""
        return self.final.decided(self.ranked, self.objective)

    @cached_property
    def columns(self) -> ValueColumns:
        """What a table shows of the trials."""
        order = [trial.number for trial in self.final.measured(self.ranked, self.objective)]
        figures = {number: self.final.all.trials[number] for number in order}
        measured = {
            number: Measured(found.value, found.losses.loss, found.n_rows)
            for number, found in figures.items()
        }
        return ValueColumns(self.objective, measured, self._sample_rows)

    def place(self, trial: StoredTrial) -> tuple[float, ...]:
        """What all trials sort by: those of the final evaluation first, in its order; the rest by
        the sample."""
        places = {number: i for i, number in enumerate(self.columns.measured)}
        return places.get(trial.number, math.inf), *place(self.objective, trial)

    @property
    def best(self) -> int | None:
        """Number of the winner."""
        return self.decided[0].number if self.decided else None

    def judged(self, trial: StoredTrial) -> Judged:
        """How good a trial is: by the final evaluation where that has measured it."""
        if (found := self.final.headline(trial.number)) is not None:
            return Judged(
                value=found.trial.value,
                base_value=found.base.value,
                eval_loss=found.trial.losses.loss,
                base_eval_loss=found.base.losses.loss,
                where=found.where,
            )
        return Judged(
            value=trial.value,
            base_value=self.base_value,
            eval_loss=trial.eval_loss,
            base_eval_loss=self.base_eval_loss,
            where="",
            of_sample=self._of_sample,
        )

    @property
    def _sample_rows(self) -> int | None:
        """That its losses, or scores, are of where no final evaluation has measured more."""
        by_loss = self.objective.is_eval_loss
        decides = self.task if by_loss else self.task.get("objective") or {}
        known: int | None = decides.get("sample_rows" if by_loss else "rows")
        return known

    @property
    def _of_sample(self) -> str:
        return f"on {counted(self._sample_rows, 'eval row')}" if self._sample_rows else ""

    @property
    def going(self) -> list[StoredTrial]:
        """Trials that have not ended but have evaluated, the best so far first."""
        found = [t for t in self.trials if t.outcome in NOT_ENDED and t.value is not None]
        return sorted(found, key=partial(place, self.objective))

    @property
    def outcomes(self) -> dict[str, int]:
        """How many trials have each."""
        return dict(Counter(trial.outcome for trial in self.trials))

    @property
    def state(self) -> str:
        """`running`, `finished`, `failed`, `stopped`, `broken off` or `not begun`."""
        return self._state[0]

    @property
    def reason(self) -> str:
        """Why it ended."""
        return self._state[1]

    @property
    def since(self) -> float | None:
        """Seconds of the epoch: when its process began, or when it ended; broken off: began."""
        return self._state[2]

    @property
    def _state(self) -> tuple[str, str, float | None]:
        state, reason, when = self.attributes.get(STATE, ["not begun", "", None])
        if self.runner is not None:
            return "running", "", self.runner.since or when
        return "broken off" if state == "running" else state, reason, when  # it wrote no end

    @property
    def base_eval_loss(self) -> float | None:
        """The base model's own."""
        known: float | None = self.attributes.get(BASE_EVAL_LOSS)
        return known

    @property
    def base_value(self) -> float | None:
        """The base model's own objective."""
        known: float | None = self.attributes.get(BASE_VALUE, self.base_eval_loss)
        return known

    @cached_property
    def base_rows(self) -> RowLosses | None:
        """What it makes of each eval row; None: not known."""
        text, loss = self.attributes.get(BASE_ROW_NLLS), self.base_eval_loss
        return None if text is None or loss is None else row_losses(loss, text)

    @property
    def gpu_hours(self) -> float:
        """In which GPUs (or CPU workers) held trials."""
        return float(self.attributes.get(GPU_SECONDS, 0.0)) / 3600

    @property
    def price_per_gpu_hour(self) -> float | None:
        """None: the space names none."""
        known: float | None = self.attributes.get(PRICE)
        return known

    @property
    def began_at(self) -> float | None:
        """When the first trial did, in seconds of the epoch."""
        began = [t.datetime_start.timestamp() for t in self.frozen if t.datetime_start]
        return min(began, default=None)

    @cached_property
    def unsent(self) -> int:
        """Writes that MLflow does not have yet."""
        return len(Journal(self.folder / layout.JOURNAL))

    @cached_property
    def n_evaluations(self) -> int:
        """Of a whole trial."""
        longest = max((trial.last_index for trial in self.trials), default=1)
        return self.task.get("evaluations") or longest or 1

    def done(self, trial: StoredTrial) -> float:
        """The share of its run that a trial has done."""
        return trial.last_index / self.n_evaluations

    @cached_property
    def searched(self) -> list[str]:
        """The hyperparameters that differ between trials."""
        points = [trial.hyperparameters for trial in self.trials]
        names = dict.fromkeys(name for point in points for name in point)
        return [name for name in names if len({str(point.get(name)) for point in points}) > 1]


def read_sweep(folder: Path, storage: BaseStorage | None = None) -> StoredSweep:
    """Read the sweep of a folder.

    Args:
        storage: The study's, where it is open; None: where the folder says.

    Raises:
        StudyError: There is none, or it cannot be read.
    """
    while True:
        held_by = holder(folder)
        found = _read(folder, held_by, storage)
        # Else one that has just begun would seem broken off.
        if holder(folder) == held_by:
            return found


def _read(folder: Path, held_by: Holder | None, storage: BaseStorage | None) -> StoredSweep:
    server, name = server_of(folder), study_name(folder)
    if storage is None and server is None:
        see_study(folder, name, every_page=False)
    if storage is None and not has_study(folder):
        raise StudyError(f"{folder}: has no study.db, so no sweep has begun there.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if storage is None and server is None:
            see_study(folder, name, every_page=False)
        with nullcontext(storage) if storage else study_reader(folder) as opened:
            study = optuna.load_study(study_name=name, storage=opened)
            # In this order: the task of a trial that is there has been written before it.
            found = study.get_trials(deepcopy=False)
            attributes = study.user_attrs
    except StudyError:
        raise
    except KeyError:
        raise StudyError(f"{folder}: has no study yet, so no sweep has begun there.") from None
    except Exception as error:
        at = server or folder / layout.STUDY
        raise StudyError(f"{at}: the study cannot be read: {cause_of(error)}") from None
    return StoredSweep(
        folder=folder,
        name=name,
        held_by=held_by,
        attributes=attributes,
        frozen=[trial for trial in found if POINT in trial.user_attrs],
    )
