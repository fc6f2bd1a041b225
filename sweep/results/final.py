"""What the final evaluation has measured, read from the sweep's folder."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweep.study.ended import StoredTrial
from sweep.study.final import Part, output_dir, read_plan
from trials.config import EvalPoint, Quantization
from trials.evaluation.row_nlls import RowLosses, rows_of
from trials.trial_folder import read_result


@dataclass(frozen=True, slots=True)
class Figure:
    """What one adapter, or the base model, has on the rows of a part."""

    losses: RowLosses
    error: float | None
    """Standard error of the loss by the choice of rows, in nats."""

    @property
    def value(self) -> float:
        return self.losses.loss

    @property
    def n_rows(self) -> int:
        return self.losses.n_rows


@dataclass(slots=True)
class Figures:
    """Of one part."""

    trials: dict[int, Figure] = field(default_factory=dict)
    """By number."""
    base: Figure | None = None
    quantization: Quantization | None = None
    """Of the base model; None: nothing was measured."""

    def add(self, trial: int | None, point: EvalPoint | None) -> None:
        losses = None if point is None else rows_of(point)
        if point is None or losses is None:
            return
        figure = Figure(losses, point.eval_loss_error)
        if trial is None:
            self.base = figure
        else:
            self.trials[trial] = figure


@dataclass(frozen=True, slots=True)
class Headline:
    """The figure that tells best how good a trial is."""

    where: str
    """`on all 64 eval rows`."""
    trial: Figure
    base: Figure
    figures: Figures
    """Of the same rows."""


@dataclass(frozen=True, slots=True)
class Final:
    """All that was measured, by part."""

    parts: Mapping[Part, Figures] = field(
        default_factory=lambda: {"all": Figures(), "test": Figures(), "16-bit": Figures()}
    )
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a part was not measured."""

    @property
    def all(self) -> Figures:
        """On all eval rows, which decides."""
        return self.parts["all"]

    @property
    def test(self) -> Figures:
        """On rows that decide nothing."""
        return self.parts["test"]

    @property
    def in_16_bits(self) -> Figures:
        """On all eval rows, where another precision decides."""
        return self.parts["16-bit"]

    def headline(self, number: int) -> Headline | None:
        """Return a trial's figure, on rows that decided nothing where there are some; None: it was
        not measured."""
        for where, found in (("on {} test rows", self.test), ("on all {} eval rows", self.all)):
            trial, base = found.trials.get(number), found.base
            if trial is not None and base is not None:
                return Headline(where.format(trial.n_rows), trial, base, found)
        return None

    def decided(self, ranked: Sequence[StoredTrial]) -> list[StoredTrial]:
        """Return trials in the order of their losses on all eval rows, those first that have them.

        It decides among the best of the sample that it has measured: a trial that has come since
        may be better than any of them.

        Args:
            ranked: By the sample, the best first.
        """
        figures = self.all.trials
        measured = list(itertools.takewhile(lambda trial: trial.number in figures, ranked))
        rest = ranked[len(measured) :]
        return [*sorted(measured, key=lambda trial: figures[trial.number].value), *rest]


def read_final(folder: Path) -> Final:
    """Return what has been measured of a sweep so far."""
    plan = read_plan(folder)
    found = Final(left_out=plan.left_out)
    for number, entry in enumerate(plan.measurements):
        if entry is None:
            continue
        measured = read_result(output_dir(folder, number))
        part = found.parts[entry.part]
        part.quantization = entry.quantization
        part.add(entry.trial, measured[0].best if measured else None)
    return found
