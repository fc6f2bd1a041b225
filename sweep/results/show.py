"""`sweep show`: all trials of a sweep as a table, or all that is known of one."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.results.best import hyperparameters
from sweep.results.losses import known, losses_of
from sweep.results.reading import StoredSweep
from sweep.results.status import as_json, trial_as_json
from sweep.results.trial_record import Record
from sweep.screen.json_events import finite
from sweep.screen.loss_plot import loss_plot
from sweep.space.domains import in_words
from sweep.study.ended import StoredTrial
from sweep.text.numbers import counted, duration
from sweep.text.trials import COLOURS, SHOWN, where_differs
from trials.config import EvalPoint
from trials.trial_folder import log_tail

Sort = Literal["objective", "eval_loss", "number", "seconds"]

KEYS: dict[Sort, Callable[[StoredTrial], tuple[float, ...]]] = {
    "number": lambda t: (t.number, t.number),
    "seconds": lambda t: (math.inf if t.seconds is None else t.seconds, t.number),
}


def ordered(sweep: StoredSweep, sort: Sort) -> list[StoredTrial]:
    """All trials, the smallest value first, or the best objective; those without one last."""

    def by_loss(trial: StoredTrial) -> tuple[float, ...]:
        loss = sweep.columns.eval_loss(trial)  # of more rows where the final evaluation has some
        is_of_sample = trial.number not in sweep.columns.measured
        return is_of_sample, math.inf if loss is None else loss, trial.number

    return sorted(sweep.trials, key=by_loss if sort == "eval_loss" else KEYS.get(sort, sweep.place))


def all_in_words(sweep: StoredSweep, sort: Sort) -> RenderableType:
    # One space between columns, and none for what did not happen: 80 columns hold all of it.
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    objective, values = sweep.objective, sweep.columns.headings
    lost = ("lost",) if any(trial.n_lost for trial in sweep.trials) else ()
    where = where_differs(trial.hyperparameters for trial in sweep.trials)
    names = (*SHOWN.values(), *where.values())
    for heading in ("trial", *values, "outcome", "done", *names, "time", *lost):
        right, folds = heading in (*values, "done", "time"), heading in where.values()
        table.add_column(heading, no_wrap=not folds, justify="right" if right else "left")
    for trial in ordered(sweep, sort):
        table.add_row(
            f"{trial.number:03d}",
            *sweep.columns.of(trial),
            Text(trial.outcome, style=COLOURS.get(trial.outcome, "")),
            f"{sweep.done(trial):.0%}",
            *(f"{trial.hyperparameters[name]:.3g}" for name in SHOWN),
            *(Text(in_words(trial.hyperparameters.get(name, ""))) for name in where),
            "" if trial.seconds is None else duration(trial.seconds),
            *(f"{trial.n_lost} ×" if trial.n_lost else "" for _ in lost),
            style="bold" if trial.number == sweep.best else "",
        )
    title = Text(f"{sweep.name} {sweep.state}: ", style="bold")
    title.append(counted(len(sweep.trials), "trial"), style="not bold")
    losses = "Losses" if objective.is_eval_loss else "Scores"
    words = (
        f"{objective.opening}: a trial's {objective.extreme}. {losses} of outclassed, diverged "
        f"and stopped trials are not ranked."
    )
    if sweep.columns.measured:
        words += " The first have theirs from the final evaluation, on all eval rows."
    return Group(title, table, Text(words, style="dim"))


def one_in_words(record: Record) -> RenderableType:
    """All that is known of a trial: outcome, hyperparameters, curve, files, the end of its log."""
    trial = record.trial
    parts = _heading(record)
    if trial.seconds is not None:
        parts.append(Text(f"Took {duration(trial.seconds)}.", style="dim"))
    parts.append(hyperparameters(trial.hyperparameters))
    if record.curve:
        parts.append(_curve(record))
    elif trial.values:
        parts.append(_values(record))
    else:
        parts.append(Text("No evaluation yet." if record.result is None else "No curve."))
    files = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    files.add_column()
    files.add_column(overflow="fold")
    files.add_row("folder", str(record.folder))
    files.add_row("adapter", str(record.adapter or "none on this disk"))
    files.add_row("log", str(record.log) if record.log.exists() else "none on this disk")
    parts.append(files)
    if trial.outcome == "failed" and (tail := log_tail(record.folder, n_lines=20)):
        parts += [Text("End of its log:", style="dim"), Text(tail)]
    return Group(*parts)


def _heading(record: Record) -> list[RenderableType]:
    """Which trial, how it ended, and why."""
    trial = record.trial
    heading = Text(f"{record.sweep.name}, trial {trial.number}: ", style="bold")
    heading.append(trial.outcome, style=COLOURS.get(trial.outcome, ""))
    # A failure's reason ends with its log.
    return [heading, *(Text(line) for line in trial.reason.splitlines()[:1])]


def plotted(record: Record, width: int) -> RenderableType:
    """A trial's train and eval loss over its epochs, in plain characters."""
    losses = losses_of(record.sweep, record.trial)
    if losses is None or not known(losses.eval):
        return Group(*_heading(record), Text("No evaluation yet, so no plot."))
    lines = loss_plot(
        losses.epochs,
        losses.eval,
        losses.train,
        kept=losses.kept,
        overfits=losses.overfits,
        width=width,
    )
    return Group(*_heading(record), *(Text(line, no_wrap=True) for line in lines))


def _curve(record: Record) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    objective = record.sweep.objective
    score = [] if objective.is_eval_loss else [objective.name]
    losses = ("eval loss", "train loss")
    for heading in ("step", "epoch", *score, *losses, "lr", "grad norm", "tokens/s"):
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
        *([] if point.score is None else [f"{point.score:.4f}"]),
        f"{point.eval_loss:.4f}",
        shown(point.train_loss, ".4f"),
        shown(point.learning_rate, ".2e"),
        shown(point.grad_norm, ".3g"),
        shown(point.tokens_per_second, ",.0f"),
    ]


def _values(record: Record) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for heading in ("evaluation", record.sweep.objective.heading):
        table.add_column(heading, justify="right")
    for index, value in sorted(record.trial.values.items()):
        table.add_row(str(index), f"{value:.4f}")
    return table


def all_as_json(sweep: StoredSweep, sort: Sort) -> dict[str, Any]:
    trials = [trial_as_json(sweep, trial) for trial in ordered(sweep, sort)]
    return {**as_json(sweep), "trials": trials}


def one_as_json(record: Record) -> dict[str, Any]:
    """A trial for programs. A loss that is not a number is null."""
    curve = [asdict(point) for point in record.curve]
    objective = record.sweep.objective
    values = {str(index): value for index, value in sorted(record.trial.values.items())}
    losses = {str(point.index): point.eval_loss for point in record.curve}
    found: dict[str, Any] = {
        "sweep": record.sweep.name,
        **trial_as_json(record.sweep, record.trial),
        "config": None if record.config is None else asdict(record.config),
        "result": None if record.result is None else asdict(record.result),
        "curve": curve,
        "objective": asdict(objective),
        "values": values,
        "eval_losses": values if objective.is_eval_loss else losses,
        "folder": str(record.folder.resolve()),
        "adapter": None if record.adapter is None else str(record.adapter.resolve()),
        "log": str(record.log.resolve()) if record.log.exists() else None,
    }
    return finite(found)  # type: ignore[no-any-return]


def all_as_csv(sweep: StoredSweep, sort: Sort) -> str:
    """The trials for a spreadsheet, a line each: losses in nats, seconds, hyperparameters."""
    rows = []
    for trial in ordered(sweep, sort):
        known = trial_as_json(sweep, trial)
        point = known.pop("hyperparameters")
        known["reason"] = trial.reason.partition("\n")[0]
        rows.append({**known, **point})
    return _csv(rows)


def one_as_csv(record: Record) -> str:
    """The evaluations of a trial, a line each; of one that has not ended its objective alone."""
    found: Iterable[Mapping[str, Any]] = record.trial.points
    if not found:
        name = record.sweep.objective.name
        found = [{"index": i, name: value} for i, value in sorted(record.trial.values.items())]
    hidden = ("row_nlls", "step_losses", "score_draws")
    return _csv([{k: v for k, v in row.items() if k not in hidden} for row in found])


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
