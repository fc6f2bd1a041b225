"""Has a sweep stopped getting better? `budget.stop_when_flat` asks after each trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

LATE_SHARE = 0.25
"""Of a trial's evaluations: the last ones, where its learning rate has nearly gone to zero."""


@dataclass(frozen=True, slots=True)
class EndedCurve:
    """A trial that has ended."""

    best: float | None
    """Its eval loss, in nats; None where it has none that counts."""
    eval_losses: Sequence[float]
    """Of all its evaluations, in order."""


def is_flat(ended: Sequence[EndedCurve], n_trials: int) -> bool:
    """Whether the best eval loss has not fallen by more than noise over the last `n_trials`.

    Args:
        ended: In the order in which they ended.
    """
    if len(ended) <= n_trials:
        return False
    before = _lowest(ended[:-n_trials])
    if before is None:
        return False
    now = min(before, _lowest(ended[-n_trials:]) or math.inf)
    return before - now <= noise(ended)


def noise(ended: Sequence[EndedCurve]) -> float:
    """How far an eval loss moves between two evaluations late in a trial, in nats: the median.

    Nothing is learnt there any more, so what moves is chance: the last batches, and the rows that
    happened to be in the sample. 0 where no trial has two late evaluations.
    """
    moves = [abs(after - before) for trial in ended for before, after in pairwise(_late(trial))]
    return median(moves) if moves else 0.0


def _late(trial: EndedCurve) -> Sequence[float]:
    if trial.best is None:
        return []
    first = len(trial.eval_losses) - max(2, round(LATE_SHARE * len(trial.eval_losses)))
    return [loss for loss in trial.eval_losses[max(0, first) :] if math.isfinite(loss)]


def _lowest(ended: Sequence[EndedCurve]) -> float | None:
    return min((trial.best for trial in ended if trial.best is not None), default=None)
