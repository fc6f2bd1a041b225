"""The base model's own eval loss: measured once in a study, before the first step of a trial."""

import optuna

from sweep.errors import SweepFailed
from sweep.storage import attributes
from trials.config import EvalPoint

TOLERANCE = 5e-3
"""Relative: so far the base model's eval loss may be from what an earlier version measured. Rows
that saw each other moved it by 1.6 % and more; another order of sums in 16 bits by less."""


class BaseMeasured:
    """What a study knows of its base model.

    Args:
        name: Of the sweep.
    """

    def __init__(self, study: optuna.Study, name: str) -> None:
        self._study, self._name = study, name
        known = study.user_attrs
        self.eval_loss: float | None = known.get(attributes.BASE_EVAL_LOSS)
        """None until the first trial has measured it."""
        self.value: float | None = known.get(attributes.BASE_VALUE, self.eval_loss)
        """Its own objective; None as above."""
        self._is_doubtful = self.eval_loss is not None and not known.get(
            attributes.BASE_IS_ROW_BY_ROW
        )
        self._measured_by: int | None = None

    def is_measured_by(self, number: int) -> bool:
        """Whether a trial that begins is the one to measure it."""
        if self._measured_by is None and (self.eval_loss is None or self._is_doubtful):
            self._measured_by = number
        return self._measured_by == number

    def ended(self, number: int) -> None:
        """Hear that a trial has ended: another one measures it, if this one has not."""
        if self._measured_by == number:
            self._measured_by = None

    def take(self, point: EvalPoint) -> None:
        """Take the evaluation before the first step.

        Raises:
            SweepFailed: An earlier version had another loss.
        """
        before, now = self.eval_loss, point.eval_loss
        is_confirmed, self._is_doubtful = self._is_doubtful, False
        if is_confirmed and before is not None and abs(now - before) > TOLERANCE * abs(before):
            raise SweepFailed(
                f"The base model's eval loss is {now:.4f}, but an earlier version measured "
                f"{before:.4f}: it computed this model otherwise, so the sweep's trials do not "
                f"compare with new ones. Use a new name: --name {self._name}-2."
            )
        self._study.set_user_attr(attributes.BASE_IS_ROW_BY_ROW, True)
        if is_confirmed:
            return
        self.eval_loss, self.value = point.eval_loss, point.value
        self._study.set_user_attr(attributes.BASE_EVAL_LOSS, point.eval_loss)
        self._study.set_user_attr(attributes.BASE_ROW_NLLS, point.row_nlls)
        if point.score is not None:
            self._study.set_user_attr(attributes.BASE_VALUE, point.score)
