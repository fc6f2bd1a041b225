"""One question each: has a trial diverged? does it overfit? They need no other trial."""

from __future__ import annotations

from collections.abc import Sequence

from sweep.pruners.diverged import Diverged
from sweep.pruners.overfit import Overfit
from sweep.space.settings import Pruning
from sweep.space.space import Space
from sweep.text.trials import seen
from trials.config import BY_EVAL_LOSS, EvalPoint, Objective, Stop


class ByItself:
    """The verdict on a trial that needs no other trial: diverged, or overfit.

    Args:
        objective: Of the study.
        n_evaluations: Of a whole run; after the last nothing is left to save.
    """

    def __init__(
        self, pruning: Pruning, objective: Objective = BY_EVAL_LOSS, *, n_evaluations: int
    ) -> None:
        self._n_evaluations = n_evaluations
        self._diverged = Diverged(factor=pruning.diverged.factor)
        self._overfit = (
            Overfit(**pruning.overfit.model_dump(), objective=objective)
            if pruning.overfit
            else None
        )

    @classmethod
    def of(cls, space: Space) -> ByItself:
        """As the space says."""
        settings = space.settings
        return cls(settings.pruning, space.objective, n_evaluations=settings.evaluate.times)

    def verdict(
        self, curve: Sequence[EvalPoint], base_eval_loss: float | None, lr_scheduler: str
    ) -> Stop | None:
        """Judge a trial by its evaluations after step 0, latest last; None to go on.

        Args:
            lr_scheduler: Of the trial. With warmup_stable_decay eval loss falls as the rate does,
                at the very end: whatever it does before, none is overfit.
        """
        if reason := self._diverged.reason(curve, base_eval_loss):
            return Stop(outcome="diverged", reason=reason)
        is_over = curve[-1].index == self._n_evaluations
        if self._overfit is None or is_over or lr_scheduler == "warmup_stable_decay":
            return None
        if reason := self._overfit.reason(curve):
            return Stop(outcome="overfit", reason=reason)
        return None


def stopped_by_hand(point: EvalPoint, n_evaluations: int) -> Stop:
    """The verdict on a trial that its user wants to end."""
    share = point.index / n_evaluations
    return Stop(
        outcome="stopped",
        reason=(
            f"Stopped by hand at {share:.0%} of its run ({seen(point)}), with eval loss "
            f"{point.eval_loss:.4f}."
        ),
    )
