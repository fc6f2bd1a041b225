"""What report.html shows, read from a study: of a sweep that runs, has ended, or has died."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from sweep.folder.lock import runner
from sweep.results.confirmed import Confirmed, read_confirmed
from sweep.results.reading import open_to_read
from sweep.storage import attributes
from sweep.storage.attributes import COUNTS, POINT, is_paused, objective_in, value_best
from sweep.study.plateau import EndedCurve, Flatness
from trials.config import Objective


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A trial as the report shows it."""

    number: int
    outcome: str
    """Of an ended trial; `running`, `paused`, or `waiting` to be continued."""
    reason: str
    values: Mapping[str, Any]
    """Its hyperparameters."""
    curve: Sequence[tuple[int, float]]
    """Index of each evaluation and its objective: the eval loss in nats, or the score; finite ones
    only."""
    best: float | None
    """The best objective; None where there is none."""
    best_epoch: float | None
    """Passes over the training rows when it was best; None where that is not known."""
    done: float
    """Share of its run."""
    seconds: float | None
    """Of training and evaluation; None while it has not ended."""
    ended_at: float | None
    """Seconds of the epoch."""

    @property
    def counts(self) -> bool:
        """Whether its objective may win: completed and overfit trials."""
        return self.outcome in COUNTS and self.best is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """All that the report is made of."""

    name: str
    state: str
    trials: Sequence[Shown]
    base_eval_loss: float | None
    objective: Objective
    base_value: float | None
    """The base model's own objective."""
    noise: float
    """How far the objective moves late in a trial (`sweep.study.plateau`), of an exact match at
    least by one row; 0 where not known."""
    began_at: float | None
    """Seconds of the epoch."""
    gpu_hours: float | None
    """In which GPUs (or CPU workers) held trials, of the whole study."""
    frozen: Sequence[FrozenTrial]
    """The trials as Optuna has them, for the importance."""
    confirmed: Sequence[Confirmed] = ()
    """What `sweep confirm` has found, the best first."""

    @property
    def ranked(self) -> list[Shown]:
        """Those that count, the best objective first."""
        key = self.objective.key
        counted = [(trial.best, trial) for trial in self.trials if trial.counts]
        valued = [(key(best), trial) for best, trial in counted if best is not None]
        return [trial for _, trial in sorted(valued, key=lambda v: (v[0], v[1].number))]

    @property
    def searched(self) -> list[str]:
        """The hyperparameters that differ between trials."""
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.values))
        return [n for n in names if len({str(t.values.get(n)) for t in self.trials}) > 1]

    @property
    def n_like_the_winner(self) -> int:
        """The first so many of the ranked, the winner among them, differ by no more than noise."""
        keys = [self.objective.key(trial.best) for trial in self.ranked if trial.best is not None]
        return bisect.bisect_right(keys, keys[0] + self.noise) if keys else 0


def read_data(folder: Path, storage: BaseStorage | None = None) -> Data:
    """Read what there is of a sweep.

    Args:
        storage: The study's, where it is open; None: where the folder says.

    Raises:
        StudyError: There is none, or it cannot be read.
    """
    lives = runner(folder) is not None
    study = open_to_read(folder, storage)
    found, known = study.get_trials(deepcopy=False), study.user_attrs
    frozen = [trial for trial in found if POINT in trial.user_attrs]
    n_evaluations = (known.get(attributes.TASK) or {}).get("evaluations") or max(
        (max(trial.intermediate_values, default=1) for trial in frozen), default=1
    )
    objective = objective_in(study)
    trials = [_shown(trial, n_evaluations, objective, lives=lives) for trial in frozen]
    began = [t.datetime_start.timestamp() for t in frozen if t.datetime_start]
    gpu_seconds = known.get(attributes.GPU_SECONDS)
    state = str(known.get(attributes.STATE, ["not begun"])[0])
    if state == "running" and not lives:
        state = "broken off"
    return Data(
        name=study.study_name,
        state=state,
        trials=trials,
        base_eval_loss=known.get(attributes.BASE_EVAL_LOSS),
        objective=objective,
        base_value=known.get(attributes.BASE_VALUE, known.get(attributes.BASE_EVAL_LOSS)),
        noise=max(_noise(trials), _step(known, objective)),
        began_at=min(began, default=None),
        gpu_hours=None if gpu_seconds is None else float(gpu_seconds) / 3600,
        frozen=frozen,
        confirmed=read_confirmed(folder),
    )


def _step(known: Mapping[str, Any], objective: Objective) -> float:
    """What one row more or less moves an exact match by: it is never more certain than that."""
    n_rows = ((known.get(attributes.TASK) or {}).get("objective") or {}).get("rows")
    return 1 / n_rows if objective.name == "exact_match" and n_rows else 0.0


def _noise(trials: Sequence[Shown]) -> float:
    flatness = Flatness()
    for trial in trials:
        if trial.counts:
            flatness.add(EndedCurve(trial.best, [value for _, value in trial.curve]))
    return flatness.noise


def _shown(trial: FrozenTrial, n_evaluations: int, objective: Objective, *, lives: bool) -> Shown:
    known = trial.user_attrs
    curve = [
        (index, value)
        for index, value in sorted(trial.intermediate_values.items())
        if math.isfinite(value)
    ]
    outcome = known.get(attributes.OUTCOME, "failed")
    if not trial.state.is_finished():
        outcome = "running" if lives and trial.state is TrialState.RUNNING else "waiting"
        if is_paused(trial):
            outcome = "paused"
    result = known.get(attributes.RESULT) or {}
    best = value_best(known)
    if best is None:
        best = min((value for _, value in curve), key=objective.key, default=None)
    seconds = None
    if "training_seconds" in result:
        seconds = float(result["training_seconds"] + result["evaluation_seconds"])
    ended = trial.datetime_complete
    return Shown(
        number=trial.number,
        outcome=outcome,
        reason=known.get(attributes.OUTCOME_REASON, "") if trial.state.is_finished() else "",
        values=known[POINT],
        curve=curve,
        best=best if best is not None and math.isfinite(best) else None,
        best_epoch=(result.get("best") or {}).get("epoch"),
        done=max(trial.intermediate_values, default=0) / n_evaluations,
        seconds=seconds,
        ended_at=ended.timestamp() if ended else None,
    )
