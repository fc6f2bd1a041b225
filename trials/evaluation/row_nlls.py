"""The losses of single eval rows, as a short text: 700 characters for 256 rows."""

import base64
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trials.config import EvalPoint, Objective


def as_text(nlls: npt.NDArray[np.float64]) -> str:
    """Return nats of rows, (rows,), as base64 of float16.

    Half precision is 0.05 % of a row's nats: of a difference between two trials, less than a
    thousandth of what rows differ by.
    """
    with np.errstate(over="ignore"):  # a diverged trial's
        return base64.b64encode(nlls.astype("<f2").tobytes()).decode()


def from_text(text: str) -> npt.NDArray[np.float64]:
    """Return the nats again, (rows,)."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float64)


@dataclass(frozen=True, slots=True)
class RowLosses:
    """What one adapter, or the base model, makes of each eval row."""

    loss: float
    """Mean nats per supervised token, over all rows."""
    nlls: npt.NDArray[np.float64]
    """Nats of each row, (rows,)."""

    @property
    def n_rows(self) -> int:
        return len(self.nlls)

    @property
    def n_tokens(self) -> float:
        """Supervised tokens of all rows."""
        return float(self.nlls.sum()) / self.loss


def rows_of(point: EvalPoint) -> RowLosses | None:
    """Return the row losses of an evaluation; None: they were not kept, or are no numbers."""
    return None if point.row_nlls is None else row_losses(point.eval_loss, point.row_nlls)


def row_losses(loss: float, text: str) -> RowLosses | None:
    """Return a mean loss with the losses that it is of; None: they are no numbers."""
    nlls = from_text(text)
    is_usable = loss > 0 and len(nlls) > 1 and bool(np.isfinite(nlls).all())
    return RowLosses(loss, nlls) if is_usable else None


def standard_error(one: RowLosses, other: RowLosses) -> float | None:
    """Return the standard error of the difference of two eval losses, in nats; None: not known.

    Both were measured on the same rows, so the rows' own difficulty cancels: for n rows with
    differences d in nats and T supervised tokens in all, √(n · var(d)) / T (a paired comparison;
    Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 4.2).
    """
    if one.n_rows != other.n_rows:
        return None
    apart = one.nlls - other.nlls
    error = math.sqrt(len(apart) * float(np.var(apart, ddof=1))) / one.n_tokens
    return error if math.isfinite(error) and error > 0 else None


def thinned(
    curve: Sequence[EvalPoint], objective: Objective, at: Collection[int]
) -> list[EvalPoint]:
    """Return a trial's evaluations with the losses of rows where anybody looks at them later.

    These are the base model's, its best evaluation so far, of which its adapter is, and where peers
    are compared.

    Args:
        at: Indices of the latter, as `TrialConfig.row_nlls_at`: the first from each on.
    """
    best = best_of(curve, objective)
    kept = first_from(at, [point.index for point in curve])
    return [
        point
        if point.row_nlls is None or point is best or point.index in {0, *kept}
        else replace(point, row_nlls=None)
        for point in curve
    ]


def best_of(curve: Sequence[EvalPoint], objective: Objective) -> EvalPoint | None:
    """Return the evaluation whose adapter a trial keeps; None: there is none yet.

    By the objective; a metric has few values, so that of equal ones the loss decides.
    """
    honest = [p for p in curve if p.index and math.isfinite(p.eval_loss) and p.value == p.value]
    return min(honest, key=lambda p: (objective.key(p.value), p.eval_loss), default=None)


def first_from(wanted: Collection[int], indices: Collection[int]) -> set[int]:
    """Return, of the indices of a run's evaluations, the first from each wanted one on."""
    return {min((i for i in indices if i >= at), default=0) for at in wanted} - {0}
