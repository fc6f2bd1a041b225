"""`sweep best`: the winner of a sweep, in words and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.results.answers import answers_text, as_records
from sweep.results.conclusion import conclude
from sweep.results.reading import StoredSweep
from sweep.results.status import against_base
from sweep.results.trial_record import Record
from sweep.space.domains import in_words
from sweep.space.hyperparameters import HYPERPARAMETERS
from sweep.study.ended import StoredTrial
from sweep.study.summary import SAMPLE
from sweep.text.emphasis import first_in_bold
from sweep.tracking.location import command

N_GOING = 3
"""Trials that have not ended, of which the best so far are told."""


def _so_far(sweep: StoredSweep, trial: StoredTrial) -> str:
    return (
        f"Trial {trial.number} is {trial.outcome} at {sweep.done(trial):.0%} of its run, with "
        f"{sweep.objective.heading} {trial.value:.4f} so far."
    )


def winner_text(record: Record) -> RenderableType:
    sweep, trial = record.sweep, record.trial
    line = Text(f"{sweep.title}: trial {trial.number}", style="bold")
    found = conclude(sweep)
    is_winner = found is not None and trial.number == found.winner.number
    if is_winner:
        line.append(" is the best")
        line.append(f" of {len(sweep.trials)}", style="not bold")
    line.append(f" ({trial.outcome})", style="not bold")
    if sweep.state == "running":
        line.append(", so far", style="not bold dim")
    parts: list[RenderableType] = [line, hyperparameters(trial.hyperparameters)]
    if trial.value is not None:
        parts.append(Text(against_base(sweep, trial)))
    if found is not None and is_winner:
        parts.append(first_in_bold(found.words))
        parts += [Text(_so_far(sweep, each), style="dim") for each in sweep.going[:N_GOING]]
    if record.best is not None and record.config is not None:
        done = record.best.index / record.config.n_evaluations
        words = f"Reached at {done:.0%} of its run: step {record.best.step}"
        parts.append(Text(f"{words}, epoch {record.best.epoch:.2f}."))
    parts.append(Text(f"Adapter:  {record.adapter or 'not on this disk'}"))
    if record.adapter is not None:
        # Without --trial it would be the winner that is exported.
        other = "" if is_winner else f" --trial {trial.number}"
        export = f"{command('export', sweep.folder)}{other}"
        parts.append(Text(f"Export it:  {export} --to {sweep.name}-adapter"))
    if is_winner and (answers := answers_text(sweep)) is not None:
        parts += [Text("\nAnswers to held-out prompts:\n", style="bold"), answers]
    return Group(*parts)


def hyperparameters(values: Mapping[str, Any]) -> Table:
    """Hyperparameters, one to a line, in the order of the table of keys."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name in HYPERPARAMETERS:
        if name in values:
            value = values[name]
            table.add_row(name, Text(in_words(value)))
    return table


def as_json(record: Record) -> dict[str, Any]:
    """The winner for programs: losses in nats per supervised token."""
    sweep, trial, best = record.sweep, record.trial, record.best
    judged, found = sweep.judged(trial), conclude(sweep)
    loss = judged.eval_loss
    return {
        "sweep": sweep.name,
        "trial": trial.number,
        "name": trial.name,
        "outcome": trial.outcome,
        "hyperparameters": trial.hyperparameters,
        "objective": asdict(sweep.objective),
        "value": judged.value,
        "base_value": judged.base_value,
        "eval_loss": loss,
        "base_eval_loss": judged.base_eval_loss,
        "measured": judged.where or SAMPLE,
        "conclusion": None if found is None else found.words,
        "certainty": None if found is None else found.certainty,
        "tied": [] if found is None else list(found.tied),
        "perplexity": None if loss is None else math.exp(loss),
        "step": best and best.step,
        "epoch": best and best.epoch,
        "answers": as_records(sweep),
        "adapter": None if record.adapter is None else str(record.adapter.resolve()),
        "log": str(record.log.resolve()) if record.log.exists() else None,
    }
