"""`sweep status`: how a sweep is, whether it runs, was stopped, or died. Reads, never writes."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.folder import layout
from sweep.folder.lock import Holder, holder, runner
from sweep.results.reading import open_to_read
from sweep.storage import attributes
from sweep.storage.attributes import COUNTS, POINT, is_paused, objective_in, value_best
from sweep.text.numbers import counted, duration
from sweep.text.trials import COLOURS, SHOWN, judged_against_base
from sweep.tracking.journal import Journal
from trials.config import Objective, trial_name

IN_WORDS = {
    "running": "runs",
    "finished": "has finished",
    "failed": "has failed",
    "stopped": "was stopped; the same command goes on",
    "broken off": "was broken off: its process died; the same command goes on",
    "not begun": "has not begun a trial",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A trial as its study knows it."""

    number: int
    name: str
    outcome: str
    """Of an ended trial; `running`, `paused` until it belongs to the best, or `waiting` to be
    continued."""
    reason: str
    hyperparameters: dict[str, Any]
    done: float
    """Share of its run."""
    eval_loss: float | None
    """The lowest so far; where the objective is a metric, at its best, and None before the end."""
    value: float | None
    """The best objective so far: the eval loss, or the score."""
    n_lost: int
    """Times that its process or machine was lost."""
    seconds: float | None
    """Of training and evaluation; None before its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """All that the folder of a sweep says."""

    name: str
    folder: str
    state: str
    reason: str
    since: float | None
    """Seconds of the epoch: when its process began, or when it ended; broken off: when it began."""
    process: dict[str, Any] | None
    """pid and host of the process that runs it."""
    confirmed_by: dict[str, Any] | None
    """The same of `sweep confirm`, while that runs."""
    trials: list[Trial]
    outcomes: dict[str, int]
    base_eval_loss: float | None
    objective: Objective
    """What trials are judged by."""
    base_value: float | None
    """The base model's own objective."""
    best: int | None
    """Number of the trial with the best objective."""
    gpu_hours: float
    unsent: int
    """Writes that MLflow does not have yet."""

    @property
    def ranked(self) -> list[Trial]:
        """Trials whose value counts, the best first."""
        valued = [(t.value, t) for t in self.trials if t.outcome in COUNTS and t.value is not None]
        return [t for _, t in sorted(valued, key=lambda v: (self.objective.key(v[0]), v[1].number))]


def read_status(folder: Path) -> Status:
    """Read how the sweep of a folder is.

    Raises:
        StudyError: There is none, or it cannot be read.
    """
    held_by, running_in = holder(folder), runner(folder)
    study = open_to_read(folder)
    known = study.user_attrs
    trials = [
        _trial(trial, known, objective_in(study), lives=running_in is not None)
        for trial in study.get_trials(deepcopy=False)
        if POINT in trial.user_attrs
    ]
    state, reason, since = _state(known, running_in)
    status = Status(
        name=study.study_name,
        folder=str(folder),
        state=state,
        reason=reason,
        since=since,
        process=_process(running_in),
        confirmed_by=_process(held_by) if running_in is None else None,
        trials=trials,
        outcomes=dict(Counter(trial.outcome for trial in trials)),
        base_eval_loss=known.get(attributes.BASE_EVAL_LOSS),
        objective=objective_in(study),
        base_value=known.get(attributes.BASE_VALUE, known.get(attributes.BASE_EVAL_LOSS)),
        best=None,
        gpu_hours=float(known.get(attributes.GPU_SECONDS, 0.0)) / 3600,
        unsent=len(Journal(folder / layout.JOURNAL)),
    )
    return replace(status, best=next((trial.number for trial in status.ranked), None))


def _process(found: Holder | None) -> dict[str, Any] | None:
    return None if found is None else {"pid": found.pid, "host": found.host}


def _state(known: dict[str, Any], running_in: Holder | None) -> tuple[str, str, float | None]:
    state, reason, when = known.get(attributes.STATE, ["not begun", "", None])
    if running_in is not None:
        return "running", "", running_in.since
    if state == "running":  # it wrote no end
        return "broken off", reason, when
    return state, reason, when


def _trial(
    trial: FrozenTrial, known: dict[str, Any], objective: Objective, *, lives: bool
) -> Trial:
    own, is_over = trial.user_attrs, trial.state.is_finished()
    values = own[POINT]
    so_far = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
    best = value_best(own)
    if best is None:
        best = min(so_far, key=objective.key, default=None)
    at_best = own.get(attributes.EVAL_LOSS_BEST)
    outcome = own.get(attributes.OUTCOME, "failed")
    if not is_over:
        is_running = lives and trial.state is TrialState.RUNNING
        outcome = "running" if is_running else "waiting"
        if is_paused(trial):
            outcome = "paused"
    result = own.get(attributes.RESULT) if is_over else None
    n_evaluations = (known.get(attributes.TASK) or {}).get("evaluations") or 1
    return Trial(
        number=trial.number,
        name=trial_name(trial.number, values),
        outcome=outcome,
        reason=own.get(attributes.OUTCOME_REASON, "") if is_over else "",
        hyperparameters=values,
        done=max(trial.intermediate_values, default=0) / n_evaluations,
        eval_loss=best if objective.is_eval_loss else at_best,
        value=best,
        n_lost=int(own.get(attributes.N_LOST, 0)),
        seconds=result and result["training_seconds"] + result["evaluation_seconds"],
    )


def as_json(status: Status) -> dict[str, Any]:
    return asdict(status)


def in_words(status: Status) -> RenderableType:
    line = Text(status.name, style="bold")
    line.append(f" {IN_WORDS.get(status.state, status.state)}", style="not bold")
    if status.process is not None:
        line.append(f", as process {status.process['pid']} on {status.process['host']}")
    if status.since is not None:
        line.append(f", {ago(status)}", style="not bold dim")
    parts: list[RenderableType] = [line]
    if (by := status.confirmed_by) is not None:
        parts.append(Text(f"Its best trials are being confirmed, by process {by['pid']}."))
    if status.reason:
        parts.append(Text(status.reason, style="red"))
    counts = Text(f"{counted(len(status.trials), 'trial')}: ")
    counts.append(", ".join(f"{n} {outcome}" for outcome, n in status.outcomes.items()))
    counts.append(f"; {status.gpu_hours:.2f} GPU hours", style="dim")
    parts.append(counts)
    going = [t for t in status.trials if t.outcome in ("running", "paused", "waiting")]
    if going:
        parts.append(_table("now", going, status.objective))
    if status.ranked:
        parts.append(_table("best", status.ranked[:5], status.objective))
        parts.append(Text(best_in_words(status)))
    if status.unsent:
        words = f"{counted(status.unsent, 'write')} not in MLflow yet: sweep sync {status.name}"
        parts.append(Text(words, style="yellow"))
    return Group(*parts)


def ago(status: Status) -> str:
    """How long a sweep has run, or how long ago it ended."""
    assert status.since is not None
    seconds = max(0.0, time.time() - status.since)
    if status.state == "running":
        return f"for {duration(seconds)}"
    begun = "begun " if status.state == "broken off" else ""  # nobody wrote when it died
    return f"{begun}{duration(seconds)} ago"


def best_in_words(status: Status) -> str:
    """The best trial beside the base model, by the objective and by eval loss."""
    best = status.ranked[0]
    assert best.value is not None
    return judged_against_base(
        status.objective, best.value, status.base_value, best.eval_loss, status.base_eval_loss
    )


def _table(heading: str, trials: list[Trial], objective: Objective) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    losses = [] if objective.is_eval_loss else ["eval loss"]
    for name in (heading, "done", objective.heading, *losses, *SHOWN.values(), "lost"):
        table.add_column(name, no_wrap=True)
    for trial in trials:
        shown = [trial.value] if objective.is_eval_loss else [trial.value, trial.eval_loss]
        table.add_row(
            Text(f"{trial.number:03d} {trial.outcome}", style=COLOURS.get(trial.outcome, "")),  # type: ignore[call-overload]
            f"{trial.done:.0%}",
            *("" if value is None else f"{value:.4f}" for value in shown),
            *(f"{trial.hyperparameters[name]:.3g}" for name in SHOWN),
            f"{trial.n_lost} ×" if trial.n_lost else "",
        )
    return table
