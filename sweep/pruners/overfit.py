"""Does a trial overfit? Its eval loss rises while its train loss falls."""

from collections.abc import Sequence
from statistics import fmean

from sweep.text.trials import seen
from trials.config import BY_EVAL_LOSS, EvalPoint, Objective

CLEARLY = 0.9
"""Of the best eval loss: by the recorded landscape, `tests.benchmarks.simulator --what overfit`."""


class Overfit:
    """Does the trial learn its training rows by heart? Needs no other trial.

    It does when the eval loss has been above the trial's own best by more than `min_rise` for
    `patience` evaluations in a row while the train loss kept falling: the mean train loss of
    those evaluations is below every one until the best. A data set that is harder than its training
    rows from the start is not overfitting: only the trial's own best counts.

    Too high a rate looks alike for a while: eval loss jumps up, and falls again with the rate. Then
    the best is mostly the first evaluation, whose train loss still holds the way down from the base
    model, so that any later one is below it. There it takes more: the train loss is below the
    next one and clearly below the best eval loss, and the eval loss is at its highest.

    Where the objective is a metric, the trial goes on as long as that gets better, whatever the
    eval loss does: answers often get better for a while after the loss has turned. By itself a
    metric never ends a trial: on 64 rows it moves in steps of 1.6 %, and what looks like a fall may
    be one row. It takes the eval loss to have risen as above, and no better score meanwhile.

    Args:
        objective: Of the study.
        min_rise: Relative; must be above 0. A small overfit rises by 2 to 4 %.
        patience: Evaluations in a row; at least 1.
    """

    def __init__(
        self, *, min_rise: float, patience: int, objective: Objective = BY_EVAL_LOSS
    ) -> None:
        if not min_rise > 0.0:
            raise ValueError(f"min_rise must be above 0, got {min_rise}: at 0, noise prunes.")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}.")
        self._min_rise = min_rise
        self._patience = patience
        self._objective = objective

    def reason(self, curve: Sequence[EvalPoint]) -> str | None:
        """Say why the trial overfits, or None. `curve` holds its evaluations, latest last."""
        best = min(curve, key=lambda point: point.eval_loss)
        since = [point for point in curve if point.index > best.index][-self._patience :]
        if len(since) < self._patience or best.train_loss is None:
            return None
        if any(point.eval_loss <= best.eval_loss * (1 + self._min_rise) for point in since):
            return None
        train_loss = fmean(point.train_loss for point in since if point.train_loss is not None)
        if not self._has_learnt_more(curve, best, train_loss):
            return None
        if not self._objective.is_eval_loss and self._gets_better(curve):
            return None
        latest = curve[-1]
        rise = latest.eval_loss / best.eval_loss - 1
        return (
            f"Eval loss {latest.eval_loss:.4f} ({seen(latest)}) is {rise:.1%} above its best "
            f"({best.eval_loss:.4f} at step {best.step}), and over {self._min_rise:.1%} above it "
            f"{self._patience} times in a row, while train loss fell from {best.train_loss:.4f} to "
            f"{train_loss:.4f}{self._score_in_words(curve)}."
        )

    def _has_learnt_more(
        self, curve: Sequence[EvalPoint], best: EvalPoint, train_loss: float
    ) -> bool:
        """Whether the train loss has fallen since the best, and not only the rate been too high."""
        if best is not curve[0]:
            until_best = [p.train_loss for p in curve if p.index <= best.index]
            return train_loss < min(loss for loss in until_best if loss is not None)
        after = curve[1].train_loss
        return (
            after is not None
            and train_loss < after
            and train_loss < CLEARLY * best.eval_loss
            and curve[-1].eval_loss >= max(point.eval_loss for point in curve)
        )

    def _gets_better(self, curve: Sequence[EvalPoint]) -> bool:
        """Whether one of the last `patience` evaluations has the best score so far."""
        keys = [self._objective.key(point.value) for point in curve]
        before, latest = keys[: -self._patience], keys[-self._patience :]
        return not before or min(latest) < min(before)

    def _score_in_words(self, curve: Sequence[EvalPoint]) -> str:
        if self._objective.is_eval_loss:
            return ""
        best = min(curve, key=lambda point: self._objective.key(point.value))
        since = f"since {best.value:.4f} at step {best.step}"
        return f"; {self._objective.name} has not improved {since}"
