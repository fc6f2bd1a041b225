"""`sweep status`: how a sweep is, whether it runs, was stopped, or died. Reads, never writes."""

import time
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.folder.lock import Holder
from sweep.results.reading import NOT_ENDED, StoredSweep
from sweep.study.ended import StoredTrial
from sweep.text.numbers import counted, gpu_hours, roughly
from sweep.text.trials import COLOURS, SHOWN

IN_WORDS = {
    "running": "is running",
    "finished": "has finished",
    "failed": "has failed",
    "stopped": "was stopped",
    "broken off": "was broken off",
    "not begun": "has no trial yet",
}
HINTS = {
    "stopped": "the same sweep run resumes it",
    "broken off": "its process died; the same sweep run resumes it",
}


def as_json(sweep: StoredSweep) -> dict[str, Any]:
    return {
        "name": sweep.name,
        "folder": str(sweep.folder),
        "state": sweep.state,
        "reason": sweep.reason,
        "since": sweep.since,
        "process": _process(sweep.runner),
        "confirmed_by": _process(sweep.confirmed_by),
        "trials": [trial_as_json(sweep, trial) for trial in sweep.trials],
        "outcomes": sweep.outcomes,
        "base_eval_loss": sweep.base_eval_loss,
        "objective": asdict(sweep.objective),
        "base_value": sweep.base_value,
        "best": sweep.best,
        "gpu_hours": sweep.gpu_hours,
        "price_per_gpu_hour": sweep.price_per_gpu_hour,
        "unsent": sweep.unsent,
    }


def _process(found: Holder | None) -> dict[str, Any] | None:
    return {"pid": found.pid, "host": found.host} if found and found.pid else None


def trial_as_json(sweep: StoredSweep, trial: StoredTrial) -> dict[str, Any]:
    measured = sweep.columns.measured.get(trial.number)
    return {
        "number": trial.number,
        "name": trial.name,
        "outcome": trial.outcome,
        "reason": trial.reason,
        "hyperparameters": trial.hyperparameters,
        "done": sweep.done(trial),
        "eval_loss": trial.eval_loss,
        "value": trial.value,
        "value_on_all_rows": None if measured is None else measured.value,
        "n_lost": trial.n_lost,
        "seconds": trial.seconds,
    }


def status_text(sweep: StoredSweep) -> RenderableType:
    line = Text(sweep.title, style="bold")
    line.append(f" {IN_WORDS.get(sweep.state, sweep.state)}", style="not bold")
    if (by := sweep.runner) is not None:
        line.append(f", as {by}")
    if sweep.since is not None:
        line.append(f", {ago(sweep)}", style="not bold dim")
    if (hint := HINTS.get(sweep.state)) is not None:
        line.append(f"; {hint}", style="not bold")
    parts: list[RenderableType] = [line]
    if (by := sweep.confirmed_by) is not None:
        parts.append(Text(f"Process {by.pid} is confirming its best trials."))
    if sweep.reason:
        parts.append(Text(sweep.reason, style="red"))
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sweep.outcomes.items())
    counts = Text(": ".join(filter(None, [counted(len(sweep.trials), "trial"), outcomes])))
    spent = gpu_hours([sweep.gpu_hours], sweep.price_per_gpu_hour)
    counts.append(f"; {spent}", style="dim")
    parts.append(counts)
    going = [t for t in sweep.trials if t.outcome in NOT_ENDED]
    if going:
        parts.append(_table("now", going, sweep))
    if sweep.ranked:
        parts.append(_table("best", sweep.decided[:5], sweep))
        parts.append(Text(against_base(sweep, sweep.decided[0])))
    if sweep.unsent:
        n_unsent = counted(sweep.unsent, "write")
        words = f"{n_unsent} not in MLflow yet: sweep sync {sweep.folder.name}"
        parts.append(Text(words, style="yellow"))
    return Group(*parts)


def ago(sweep: StoredSweep) -> str:
    """How long a sweep has run, or how long ago it ended."""
    assert sweep.since is not None
    seconds = max(0.0, time.time() - sweep.since)
    if sweep.state == "running":
        return f"for {roughly(seconds)}"
    begun = "begun " if sweep.state == "broken off" else ""  # nobody wrote when it died
    return f"{begun}{roughly(seconds)} ago"


def against_base(sweep: StoredSweep, trial: StoredTrial) -> str:
    """A trial that has a value beside the base model, by the objective and by eval loss."""
    return sweep.judged(trial).in_words(sweep.objective)


def _table(heading: str, trials: list[StoredTrial], sweep: StoredSweep) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    lost = ["lost"] if any(trial.n_lost for trial in trials) else []
    for name in (heading, "done", *sweep.columns.headings, *SHOWN.values(), *lost):
        table.add_column(name, no_wrap=True)
    for trial in trials:
        table.add_row(
            Text(f"{trial.number:03d} {trial.outcome}", style=COLOURS.get(trial.outcome, "")),
            f"{sweep.done(trial):.0%}",
            *sweep.columns.of(trial),
            *(f"{trial.hyperparameters[name]:.3g}" for name in SHOWN),
            *(f"{trial.n_lost} ×" if trial.n_lost else "" for _ in lost),
        )
    return table
