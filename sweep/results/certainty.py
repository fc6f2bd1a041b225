"""How sure is it that one trial is better than another? Rows and seeds both leave room for chance.

A lead was measured on some eval rows, which might have been others, and each trial had one seed,
which might have been another. The first is known from the losses of single rows (a paired standard
error, `trials.evaluation.row_nlls`). The second is known only where trials were run again: from
`sweep confirm` where that has run, else as measured on recorded sweeps of small models.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance
from typing import Literal

import numpy as np

from sweep.results.confirmed import Confirmed, read_confirmed
from sweep.results.final import Figure, Figures, Final
from sweep.results.paired_test import CONFIDENCE
from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial
from sweep.text.numbers import counted
from trials.config import Objective
from trials.evaluation.row_nlls import RowLosses, row_losses, standard_error

PROBABLY = 0.9
"""A lead that is right this often at least is called probable; one seed never gives more."""
SEED_SHARE = 0.15
"""How far other seeds move the difference of two trials, as a share of the standard deviation of
the rows' differences. 24 points with 30 seeds each have 0.15, the better half of them 0.09 (`python
-m tests.benchmarks.seeds --judge`); a tiny model that learns little has 0 to 0.09. A share of the
loss itself differs by a factor of 100 between the two."""
ENOUGH_RUNS = 4
"""Runs of `sweep confirm` beyond the first of each trial, that tell how far seeds scatter."""
STANDARD_ERRORS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""On either side of a mean, that hold the true one so often."""

Certainty = Literal["probable", "unclear"]


@dataclass(frozen=True, slots=True)
class Scatter:
    """How far another seed moves a trial's eval loss."""

    relative: float | None = None
    """Standard deviation, as a share of the loss; None: not measured, as in recorded sweeps."""
    n_runs: int | None = None
    """Of `sweep confirm`, that tell."""

    def of_difference(self, loss: float, of_rows: float, n_rows: int, n_trained: int) -> float:
        """Return its part in the standard deviation of a difference, in nats.

        Args:
            of_rows: Standard error of the difference by the choice of rows.
            n_trained: Of the two, that another seed would have changed.
        """
        if self.relative is not None:
            return math.sqrt(n_trained) * self.relative * loss
        return SEED_SHARE * math.sqrt(n_rows) * of_rows * math.sqrt(n_trained / 2)

    @property
    def source(self) -> str:
        if self.n_runs is None:
            return "the seeds' part of ± is that of recorded sweeps of small models"
        return f"the seeds' part of ± is that of the {counted(self.n_runs, 'run')} of sweep confirm"


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much one eval loss lies below another, and what chance has in it."""

    mean: float
    """In nats per supervised token; negative: it lies above."""
    n_rows: int
    of_rows: float
    """Standard error by the choice of eval rows, in nats."""
    of_seeds: float
    """Standard deviation by the seeds, in nats."""
    scatter: Scatter
    unit: str = "nats"

    @property
    def standard_error(self) -> float:
        return math.hypot(self.of_rows, self.of_seeds)

    @property
    def half_width(self) -> float:
        """Of the interval that holds the true lead in 95 % of such comparisons."""
        return STANDARD_ERRORS * self.standard_error

    @property
    def certainty(self) -> Certainty:
        """Whether it is more than chance; `probable` is the most that one seed can tell."""
        return "probable" if self.mean > 0 and self.is_clear else "unclear"

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance, in whichever direction."""
        error = self.standard_error
        return error > 0 and NormalDist().cdf(abs(self.mean) / error) >= PROBABLY

    def __str__(self) -> str:
        """`0.0231 ± 0.0690 nats`."""
        return f"{abs(self.mean):.4f} ± {self.half_width:.4f} {self.unit}".rstrip()

    @property
    def on_rows(self) -> str:
        """`0.0231 ± 0.0690 nats on 64 eval rows`."""
        return f"{self} on {counted(self.n_rows, 'eval row')}"

    @property
    def how(self) -> str:
        """What ± means, of whichever rows it is said."""
        return f"95 % interval over the rows and one seed each; {self.scatter.source}"


class Judge:
    """Compares the trials of one sweep.

    By all eval rows where the final evaluation has measured both, else by the rows of the sample.
    It knows no certainty where the losses of single rows were not kept: by earlier versions, and
    with Unsloth; nor of a metric that the final evaluation has not measured.
    """

    def __init__(self, sweep: StoredSweep) -> None:
        self._sweep = sweep
        self.confirmed = read_confirmed(sweep)
        self._scatter = scatter_of(self.confirmed)
        self.final = sweep.final

    @property
    def ranked(self) -> list[StoredTrial]:
        """Trials whose value counts, the best first, as the final evaluation decides."""
        return self._sweep.decided

    def lead(
        self, one: StoredTrial, other: StoredTrial, theirs: Final | None = None
    ) -> Lead | None:
        """Return by how much a trial's eval loss lies below another's; None: chance is unknown.

        Args:
            theirs: What was measured of the other's sweep; None: it is of this sweep too.
        """
        ours = self.final.all
        found = ours if theirs is None else theirs.all
        measured = None
        if ours.quantization == found.quantization:
            figures = ours.trials.get(one.number), found.trials.get(other.number)
            measured = self._lead_of_figures(*figures, n_trained=2)
        return measured or self._lead(best_rows(one), best_rows(other), n_trained=2)

    def lead_on(self, found: Figures, one: int, other: int | None) -> Lead | None:
        """Return the same on rows of the final evaluation.

        Args:
            other: None: the base model.
        """
        theirs, n_trained = (found.base, 1) if other is None else (found.trials.get(other), 2)
        return self._lead_of_figures(found.trials.get(one), theirs, n_trained=n_trained)

    def _lead_of_figures(
        self, ours: Figure | None, theirs: Figure | None, *, n_trained: int
    ) -> Lead | None:
        if ours is None or theirs is None:
            return None
        if self._sweep.objective.is_eval_loss:
            return self._lead(ours.losses, theirs.losses, n_trained=n_trained)
        return lead_of_scores(
            ours, theirs, self._sweep.objective, self._scatter, n_trained=n_trained
        )

    def lead_over_base(self, trial: StoredTrial) -> Lead | None:
        """Return by how much it lies below the base model's, which has no seed; None as above."""
        if (found := self.final.headline(trial.number)) is not None:
            return self.lead_on(found.figures, trial.number, None)
        return self._lead(best_rows(trial), self._sweep.base_rows, n_trained=1)

    def tied(self) -> list[StoredTrial]:
        """Return the winner and those after it, up to the first that is probably worse."""
        ranked = self.ranked
        found = itertools.takewhile(lambda other: self._may_be_as_good(ranked[0], other), ranked)
        return list(found)

    def _may_be_as_good(self, winner: StoredTrial, other: StoredTrial) -> bool:
        apart = self.lead(winner, other)
        return other is winner or apart is None or apart.certainty != "probable"

    def _lead(
        self, one: RowLosses | None, other: RowLosses | None, *, n_trained: int
    ) -> Lead | None:
        if one is None or other is None:
            return None
        return lead_between(one, other, self._scatter, n_trained=n_trained)


def lead_between(
    one: RowLosses, other: RowLosses, scatter: Scatter, *, n_trained: int
) -> Lead | None:
    """Return by how much one loss lies below another; None: not of the same rows, or equal in all.

    Args:
        n_trained: Of the two, that another seed would have changed: 2, or 1 beside the base model.
    """
    error = standard_error(one, other)
    if error is None:
        return None
    return Lead(
        mean=other.loss - one.loss,
        n_rows=one.n_rows,
        of_rows=error,
        of_seeds=scatter.of_difference(min(one.loss, other.loss), error, one.n_rows, n_trained),
        scatter=scatter,
    )


def lead_of_scores(
    one: Figure, other: Figure, objective: Objective, scatter: Scatter, *, n_trained: int
) -> Lead | None:
    """Return by how much one score is better than another, by the bootstrap's draws; None: there
    are none of the same rows."""
    if one.draws is None or other.draws is None or one.n_rows != other.n_rows:
        return None
    error = float(np.nanstd(one.draws - other.draws, ddof=1))
    if not math.isfinite(error):
        return None
    return Lead(
        mean=objective.key(other.value) - objective.key(one.value),
        n_rows=one.n_rows,
        of_rows=error,
        of_seeds=scatter.of_difference(abs(one.value), error, one.n_rows, n_trained),
        scatter=scatter,
        unit="",
    )


def best_rows(trial: StoredTrial) -> RowLosses | None:
    """Return the row losses at a trial's best evaluation; None: they were not kept."""
    best = trial.result.get("best") or {}
    if best.get("row_nlls") is None or best.get("score") is not None:
        return None
    return row_losses(best["eval_loss"], best["row_nlls"])


def scatter_of(found: Sequence[Confirmed]) -> Scatter:
    """Return how far seeds scatter, by a sweep's own runs with other seeds where it has them."""
    runs = [list(each.values.values()) for each in found]
    more_than_one = [values for values in runs if len(values) > 1]
    n_free = sum(len(values) - 1 for values in more_than_one)
    if n_free < ENOUGH_RUNS:
        return Scatter()
    pooled = sum((len(values) - 1) * variance(values) for values in more_than_one) / n_free
    mean = abs(fmean(value for values in more_than_one for value in values))
    relative = math.sqrt(pooled) / mean if mean else 0.0  # of scores that are all 0
    return Scatter(relative, sum(len(values) for values in more_than_one))
