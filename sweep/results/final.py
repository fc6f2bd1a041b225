"""What the final evaluation has measured, read from the sweep's folder."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sweep.study.ended import StoredTrial
from sweep.study.final import Part, output_dir, read_plan
from trials.config import EvalPoint, Objective, Quantization
from trials.evaluation.bootstrap import from_text
from trials.evaluation.row_nlls import RowLosses, rows_of
from trials.trial_folder import read_result


@dataclass(frozen=True, slots=True)
class Figure:
    """What one adapter, or the base model, has on the rows of a part."""

    losses: RowLosses
    point: EvalPoint

    @property
    def value(self) -> float:
        """The objective."""
        return self.point.value

    @property
    def n_rows(self) -> int:
        """That the objective is of."""
        return self.point.score_rows or self.losses.n_rows

    @property
    def draws(self) -> npt.NDArray[np.float64] | None:
        """A metric on rows drawn again; None: the objective is the loss."""
        return None if self.point.score_draws is None else from_text(self.point.score_draws)

    @property
    def error(self) -> float | None:
        """Standard error of the objective by the choice of rows; None: not known."""
        if self.point.score is None:
            return self.point.eval_loss_error
        error = math.nan if self.draws is None else float(np.nanstd(self.draws, ddof=1))
        return error if math.isfinite(error) else None


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
        if point is None or losses is None or math.isnan(point.value):
            return
        figure = Figure(losses, point)
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

    def decided(self, ranked: Sequence[StoredTrial], objective: Objective) -> list[StoredTrial]:
        """Return trials in their order on all eval rows, those first that it has put in order.

        Args:
            ranked: By the sample, the best first.
        """
        measured = self.measured(ranked, objective)
        return [*measured, *ranked[len(measured) :]]

    def measured(self, ranked: Sequence[StoredTrial], objective: Objective) -> list[StoredTrial]:
        """Return those that it has put in order, the best first.

        It decides among the best of the sample that it has measured: a trial that has come since
        may be better than any of them.
        """
        figures = self.all.trials
        measured = itertools.takewhile(lambda trial: trial.number in figures, ranked)

        def place(trial: StoredTrial) -> tuple[float, float]:
            found = figures[trial.number]
            return objective.key(found.value), found.losses.loss

        return sorted(measured, key=place)


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
