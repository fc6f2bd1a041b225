"""`sweep compare`: two sweeps, or two trials, side by side; and whether their losses compare."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.errors import NoWinner, SpaceError
from sweep.folder import layout
from sweep.results.certainty import Judge, Lead
from sweep.results.confirmed import Confirmed, read_confirmed
from sweep.results.confirmed_words import FEW_SEEDS
from sweep.results.paired_test import CONFIDENCE, difference
from sweep.results.reading import NOT_ENDED, StoredSweep
from sweep.results.trial_record import Record, record_of
from sweep.space.domains import in_words
from sweep.space.yaml_file import read
from sweep.study.task import changes
from sweep.text.numbers import counted, duration
from sweep.text.trials import as_loss
from sweep.tracking.run_data import judged_by


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two."""

    sweep: StoredSweep
    record: Record | None
    """The trial that stands for it: the winner, or the one that was named; None: there is none."""
    confirmed: Confirmed | None
    """The trial's runs with other seeds."""
    settings: Mapping[str, str]
    """Dotted keys of its space and their values, as written."""

    @property
    def name(self) -> str:
        """As a heading."""
        number = "" if self.record is None else f", trial {self.record.trial.number}"
        return f"{self.sweep.title}{number}"

    @property
    def value(self) -> float | None:
        """Its trial's best objective: the eval loss in nats per supervised token, or the score."""
        return None if self.record is None else self.record.trial.value

    @property
    def on_all_rows(self) -> float | None:
        """The same by the final evaluation; None: that has not measured it."""
        figures = self.sweep.final.all.trials
        found = None if self.record is None else figures.get(self.record.trial.number)
        return None if found is None else found.value

    @property
    def base_on_all_rows(self) -> float | None:
        """The base model's objective there."""
        found = self.sweep.final.all.base
        return None if found is None else found.value


def side_of(sweep: StoredSweep, trial: int | None = None) -> Side:
    """Read one side.

    Args:
        trial: None: the winner.

    Raises:
        StudyError: There is no such trial.
    """
    try:
        record = record_of(sweep, trial)
    except NoWinner:
        record = None
    number = record.trial.number if record else None
    return Side(
        sweep=sweep,
        record=record,
        confirmed=next((each for each in read_confirmed(sweep) if each.trial == number), None),
        settings=_settings(sweep.folder),
    )


def _settings(folder: Path) -> dict[str, str]:
    try:
        return dict(_flat(read(folder / layout.SPACE, {}).plain))
    except (SpaceError, FileNotFoundError):
        return {}


def _flat(value: Mapping[str, Any], parent: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, each in value.items():
        if isinstance(each, Mapping):
            found += _flat(each, f"{parent}{key}.")
        else:
            found.append((f"{parent}{key}", str(each)))
    return found


def why_not_comparable(one: Side, other: Side) -> str | None:
    """Why the values of two sides say nothing of each other; None: they do."""
    if not one.sweep.task or not other.sweep.task:
        return "Nothing to compare: one of them has no trial yet."
    judged = judged_by(one.sweep.task), judged_by(other.sweep.task)
    if judged[0] != judged[1]:
        differing = "; ".join(changes(*judged)) or "task"
        return f"Not comparable: different {differing.replace('eval: ', 'eval data: ')}."
    cut = [words for side in (one, other) if (words := _cut_short(side))]
    return f"Not comparable: {' '.join(cut)}" if cut else None


def _cut_short(side: Side) -> str:
    """How far a trial has come whose value says nothing of its whole run; empty: it does."""
    if side.record is None or side.record.trial.counts:
        return ""
    trial = side.record.trial
    verb = "is" if trial.outcome in NOT_ENDED else "ended as"
    return (
        f"{side.name} {verb} {trial.outcome} at {side.sweep.done(trial):.0%} of its run, so its "
        f"{side.sweep.objective.heading} is not that of a whole one."
    )


def verdict(one: Side, other: Side) -> str:
    """What their difference says, in words."""
    if why := why_not_comparable(one, other):
        return why
    if one.value is None or other.value is None:
        return "Nothing to compare: one of them has no value that counts yet."
    if words := _by_seeds(one, other):
        return words
    better, found = _led(one, other)
    objective = one.sweep.objective
    apart = objective.key(other.value) - objective.key(one.value)
    if (apart if found is None else found.mean) == 0:
        return f"No clear winner: both have the same {objective.heading}."
    if found is None:
        lead = f"{abs(apart):.4f}{' nats' if objective.is_eval_loss else ''}"
        return (
            f"{better.name} has the better {objective.heading} by {lead}; whether that is chance "
            f"is not known. Each has one seed; sweep confirm adds more."
        )
    if found.certainty == "probable":
        return (
            f"{better.name} is probably better, by {found.on_rows} ({found.how}). To be sure, run "
            f"sweep confirm."
        )
    return (
        f"No clear winner: {better.name} leads by {found.on_rows} ({found.how}). To settle it, "
        f"run sweep confirm."
    )


def _led(one: Side, other: Side) -> tuple[Side, Lead | None]:
    """Return the better one and its lead; None: chance is unknown.

    Which is the better is told by the rows that the lead is of: on the search's sample, which is
    smaller, it may be the other.
    """
    assert one.record is not None and other.record is not None
    objective, ours, theirs = one.sweep.objective, one.record.trial, other.record.trial
    found = Judge(one.sweep).lead(ours, theirs, other.sweep.final)
    values = (objective.key(trial.value) for trial in (ours, theirs) if trial.value is not None)
    is_worse = operator.gt(*values) if found is None else found.mean < 0
    if not is_worse:
        return one, found
    return other, Judge(other.sweep).lead(theirs, ours, one.sweep.final)


def _by_seeds(one: Side, other: Side) -> str | None:
    """What their runs with other seeds say, if both have enough of them: more than one seed can."""
    if one.confirmed is None or other.confirmed is None or one.name == other.name:
        return None
    apart = difference(one.confirmed.values, other.confirmed.values)
    if apart is None or apart.n < FEW_SEEDS or apart.half_width is None:
        return None
    better = one if one.sweep.objective.key(apart.mean) < 0 else other
    interval = f"{abs(apart.mean):.4f} ± {apart.half_width:.4f}, {CONFIDENCE:.0%} interval"
    how = f"{interval} of {counted(apart.n, 'other seed')} on all eval rows"
    if apart.is_beyond_noise:
        return f"{better.name} is better beyond noise ({how})."
    return f"No clear winner: the seeds do not agree ({how})."


def comparison(one: Side, other: Side) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("", one.name, other.name):
        table.add_column(heading, overflow="fold")
    for label, *cells in _rows(one, other):
        table.add_row(Text(label, style="dim"), *(Text(cell) for cell in cells))
    parts: list[RenderableType] = [table, Text()]
    differing = [row for row in _settings_rows(one, other) if row[1] != row[2]]
    if differing:
        settings = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("settings that differ", one.sweep.name, other.sweep.name):
            settings.add_column(heading, overflow="fold")
        for row in differing:
            settings.add_row(*(Text(cell) for cell in row))
        parts += [settings, Text()]
    return Group(*parts, Text(verdict(one, other), style="bold"))


def _rows(one: Side, other: Side) -> list[tuple[str, str, str]]:
    def both(label: str, of: Any) -> tuple[str, str, str]:
        return label, of(one), of(other)

    def outcomes(side: Side) -> str:
        return ", ".join(f"{n} {outcome}" for outcome, n in side.sweep.outcomes.items())

    def seconds(side: Side) -> str:
        found = None if side.record is None else side.record.trial.seconds
        return "" if found is None else duration(found)

    objective = one.sweep.objective
    is_measured = any(side.on_all_rows is not None for side in (one, other))
    on_all = [
        both("on all eval rows", lambda s: as_loss(s.on_all_rows)),
        both("the base model's", lambda s: as_loss(s.base_on_all_rows)),
    ]
    rows = [
        *([] if objective.is_eval_loss else [both(objective.heading, lambda s: as_loss(s.value))]),
        both("eval loss", lambda s: as_loss(s.record.trial.eval_loss if s.record else None)),
        both("base model's loss", lambda s: as_loss(s.sweep.base_eval_loss)),
        *(on_all if is_measured else []),
        both("outcome", lambda s: s.record.trial.outcome if s.record else ""),
        both("trial time", seconds),
        both("sweep", lambda s: f"{s.sweep.state}, {counted(len(s.sweep.trials), 'trial')}"),
        both("", outcomes),
        both("GPU hours", lambda s: f"{s.sweep.gpu_hours:.2f}"),
    ]
    values = [side.record.trial.hyperparameters if side.record else {} for side in (one, other)]
    for name in dict.fromkeys([*values[0], *values[1]]):
        shown = [_value(value.get(name)) for value in values]
        if shown[0] != shown[1]:
            rows.append((name, shown[0], shown[1]))
    return rows


def _value(value: object) -> str:
    return "" if value is None else in_words(value)


def _settings_rows(one: Side, other: Side) -> list[tuple[str, str, str]]:
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [(key, one.settings.get(key, ""), other.settings.get(key, "")) for key in keys]


def as_json(one: Side, other: Side) -> dict[str, Any]:
    sides = [
        {
            "sweep": side.sweep.name,
            "trial": side.record and side.record.trial.number,
            "value": side.value,
            "value_on_all_eval_rows": side.on_all_rows,
            "eval_loss": None if side.record is None else side.record.trial.eval_loss,
            "base_eval_loss": side.sweep.base_eval_loss,
            "hyperparameters": side.record.trial.hyperparameters if side.record else None,
            "outcomes": side.sweep.outcomes,
            "gpu_hours": side.sweep.gpu_hours,
        }
        for side in (one, other)
    ]
    differing = {k: [a, b] for k, a, b in _settings_rows(one, other) if a != b}
    why = why_not_comparable(one, other)
    return {
        "sides": sides,
        "settings": differing,
        "comparable": why is None,
        "verdict": verdict(one, other),
    }
