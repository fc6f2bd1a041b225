"""Train and eval loss of a trial over its epochs, and from where on it overfits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial

RISE = 0.001
"""Of the eval loss that was kept; what rises by less is level."""


@dataclass(frozen=True, slots=True)
class Losses:
    """The evaluations of a trial, in order: losses in nats per supervised token."""

    epochs: Sequence[float]
    eval: Sequence[float | None]
    """None: it was not finite."""
    train: Sequence[float | None]
    """None: not measured, not finite, or not known before the trial's end."""
    kept: int | None
    """The place of the evaluation whose adapter was kept; None: it has none."""

    @property
    def overfits(self) -> bool:
        """Whether train loss fell after the evaluation that was kept, and eval loss rose."""
        if self.kept is None or (best := self.eval[self.kept]) is None:
            return False
        until = self.kept + 1
        evals, trains = known(self.eval[until:]), known(self.train[until:])
        if not evals or not trains or not (before := known(self.train[:until])):
            return False
        return fmean(evals) > (1 + RISE) * best and fmean(trains) < min(before)


def known(losses: Iterable[float | None]) -> list[float]:
    """Return those that are numbers."""
    return [loss for loss in losses if loss is not None]


def losses_of(sweep: StoredSweep, trial: StoredTrial) -> Losses | None:
    """Return a trial's losses; None: no evaluation of it is known."""
    points: Sequence[Mapping[str, Any]] = trial.points
    if not points and trial.values and sweep.objective.is_eval_loss:  # it has not ended
        epochs = trial.hyperparameters["epochs"] / sweep.n_evaluations
        points = [
            {"index": index, "epoch": index * epochs, "eval_loss": loss}
            for index, loss in sorted(trial.values.items())
        ]
    if not points:
        return None
    evals = [_finite(point.get("eval_loss")) for point in points]
    best = (trial.result.get("best") or {}).get("index")
    return Losses(
        epochs=[float(point["epoch"]) for point in points],
        eval=evals,
        train=[_finite(point.get("train_loss")) for point in points],
        kept=next((i for i, point in enumerate(points) if point["index"] == best), None),
    )


def _finite(loss: object) -> float | None:
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else None
