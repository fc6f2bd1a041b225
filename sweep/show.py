"""`sweep show`: all trials of a sweep as a table, or all that is known of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.best import hyperparameters
from sweep.events import finite
from sweep.record import Record
from sweep.report import SHOWN
from sweep.screen import COLOURS
from sweep.status import Status, Trial
from sweep.words import counted, duration
from trials.config import EvalPoint
from trials.worker import log_tail

Sort = Literal["eval_loss", "number", "seconds"]

KEYS: dict[Sort, Callable[[Trial], tuple[float, int]]] = {
    "eval_loss": lambda t: (math.inf if t.eval_loss is None else t.eval_loss, t.number),
    "number": lambda t: (t.number, t.number),
    "seconds": lambda t: (math.inf if t.seconds is None else t.seconds, t.number),
}


def ordered(status: Status, sort: Sort) -> list[Trial]:
    """All trials, the smallest value first; those without one last."""
    return sorted(status.trials, key=KEYS[sort])


def all_in_words(status: Status, sort: Sort) -> RenderableType:
    """All trials of a sweep as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("trial", "eval loss", "outcome", "done", *SHOWN.values(), "time", "lost"):
        right = heading in ("eval loss", "done", "time")
        table.add_column(heading, no_wrap=True, justify="right" if right else "left")
    for trial in ordered(status, sort):
        table.add_row(
            f"{trial.number:03d}",
            "" if trial.eval_loss is None else f"{trial.eval_loss:.4f}",
            Text(trial.outcome, style=COLOURS.get(trial.outcome, "")),  # type: ignore[call-overload]
            f"{trial.done:.0%}",
            *(f"{trial.hyperparameters[name]:.3g}" for name in SHOWN),
            "" if trial.seconds is None else duration(trial.seconds),
            f"{trial.n_lost} ×" if trial.n_lost else "",
            style="bold" if trial.number == status.best else "",
        )
    title = Text(f"{status.name} {status.state}: ", style="bold")
    title.append(counted(len(status.trials), "trial"), style="not bold")
    words = "Eval loss: a trial's lowest. Of outclassed, diverged, stopped ones it does not count."
    return Group(title, table, Text(words, style="dim"))


def one_in_words(record: Record) -> RenderableType:
    """All that is known of a trial: outcome, hyperparameters, curve, files, the end of its log."""
    trial = record.trial
    heading = Text(f"{record.sweep.name}, trial {trial.number}: ", style="bold")
    heading.append(trial.outcome, style=COLOURS.get(trial.outcome, ""))  # type: ignore[call-overload]
    parts: list[RenderableType] = [heading]
    if trial.reason:
        # A failure's reason ends with the log, which comes below.
        parts.append(Text(trial.reason.splitlines()[0]))
    if trial.seconds is not None:
        parts.append(Text(f"It took {duration(trial.seconds)}.", style="dim"))
    parts.append(hyperparameters(trial.hyperparameters))
    if record.curve:
        parts.append(_curve(record))
    elif record.eval_losses:
        parts.append(_losses(record.eval_losses))
    else:
        parts.append(Text("It has not evaluated yet." if record.result is None else "No curve."))
    files = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    files.add_row("folder", str(record.folder))
    files.add_row("adapter", str(record.adapter or "none on this disk"))
    files.add_row("log", str(record.log) if record.log.exists() else "none on this disk")
    parts.append(files)
    if trial.outcome == "failed" and (tail := log_tail(record.folder, n_lines=20)):
        parts += [Text("The end of its log:", style="dim"), Text(tail)]
    return Group(*parts)


def _curve(record: Record) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for heading in ("step", "epoch", "eval loss", "train loss", "lr", "grad norm", "tokens/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for point in record.curve:
        is_best = record.best is not None and point.index == record.best.index
        table.add_row(*_cells(point), "best" if is_best else "", style="bold" if is_best else "")
    return table


def _cells(point: EvalPoint) -> list[str]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        str(point.step),
        f"{point.epoch:.2f}",
        f"{point.eval_loss:.4f}",
        shown(point.train_loss, ".4f"),
        shown(point.learning_rate, ".2e"),
        shown(point.grad_norm, ".3g"),
        shown(point.tokens_per_second, ",.0f"),
    ]


def _losses(losses: dict[int, float]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for heading in ("evaluation", "eval loss"):
        table.add_column(heading, justify="right")
    for index, loss in sorted(losses.items()):
        table.add_row(str(index), f"{loss:.4f}")
    return table


def all_as_json(status: Status, sort: Sort) -> dict[str, Any]:
    """All trials for programs."""
    return {**asdict(status), "trials": [asdict(trial) for trial in ordered(status, sort)]}


def one_as_json(record: Record) -> dict[str, Any]:
    """A trial for programs. A loss that is not a number is null."""
    curve = [asdict(point) for point in record.curve]
    losses = {str(index): loss for index, loss in sorted(record.eval_losses.items())}
    found: dict[str, Any] = {
        "sweep": record.sweep.name,
        **asdict(record.trial),
        "config": None if record.config is None else asdict(record.config),
        "result": None if record.result is None else asdict(record.result),
        "curve": curve,
        "eval_losses": losses,
        "folder": str(record.folder.resolve()),
        "adapter": None if record.adapter is None else str(record.adapter.resolve()),
        "log": str(record.log.resolve()) if record.log.exists() else None,
    }
    return finite(found)  # type: ignore[no-any-return]
