"""Has a trial diverged? Its loss is not finite, or far above where it began."""

from collections.abc import Sequence

from sweep.text.trials import seen
from trials.config import EvalPoint


class Diverged:
    """Has the trial lost its way? Needs no other trial, so it guards the first one too.

    It has when a loss is not finite; when the eval loss is above `factor` times the eval loss
    before training; or when train and eval loss both are above `factor` times their own lowest
    (eval alone would be overfitting).

    Args:
        factor: Must be above 1: at 1 or below, noise prunes.
    """

    def __init__(self, *, factor: float) -> None:
        if not factor > 1.0:
            raise ValueError(f"factor must be above 1, got {factor}: at 1 or below, noise prunes.")
        self._factor = factor

    def reason(self, curve: Sequence[EvalPoint], base_eval_loss: float | None) -> str | None:
        """Say why the trial has diverged, or None. `curve` holds its evaluations, latest last."""
        latest = curve[-1]
        if not latest.is_finite:
            return (
                f"Not finite after {seen(latest)}: eval loss {latest.eval_loss:.4g}, train loss "
                f"{_shown(latest.train_loss)}."
            )
        if base_eval_loss is not None and latest.eval_loss > self._factor * base_eval_loss:
            return (
                f"Eval loss {latest.eval_loss:.4f} ({seen(latest)}) is above "
                f"{self._factor:g} × the base model's {base_eval_loss:.4f}."
            )
        lowest_eval = min(point.eval_loss for point in curve)
        train_losses = [point.train_loss for point in curve if point.train_loss is not None]
        if not train_losses or latest.train_loss is None:
            return None
        lowest_train = min(train_losses)
        if (
            latest.eval_loss > self._factor * lowest_eval
            and latest.train_loss > self._factor * lowest_train
        ):
            return (
                f"Both losses, after {seen(latest)}, are above {self._factor:g} × their lowest: "
                f"eval {latest.eval_loss:.4f} (lowest {lowest_eval:.4f}), "
                f"train {latest.train_loss:.4f} (lowest {lowest_train:.4f})."
            )
        return None


def _shown(loss: float | None) -> str:
    return "unknown" if loss is None else f"{loss:.4g}"
