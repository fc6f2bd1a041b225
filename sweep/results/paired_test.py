"""Is one configuration better than another, or is it chance? Runs with equal seeds, compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""Of a difference that is called beyond noise: how often such an interval holds the true one."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a configuration's eval losses over seeds."""

    n: int
    mean: float
    """In nats per supervised token."""
    standard_error: float | None
    """Standard deviation (of n − 1) over √n; None: one seed says nothing of it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one configuration's eval loss lies above another's, seed by seed."""

    n: int
    """Seeds that both have."""
    mean: float
    """In nats; positive: the first is worse."""
    standard_error: float | None
    half_width: float | None
    """Of the interval that holds the true difference in 95 % of such experiments."""

    @property
    def is_beyond_noise(self) -> bool:
        """Whether that interval lies on one side of 0. Never so with one seed."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def mean_of(losses: Mapping[int, float]) -> Mean:
    """Return the mean of eval losses by seed; there is one at least."""
    values = list(losses.values())
    return Mean(len(values), fmean(values), _standard_error(values))


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Return how far `one` lies above `other`; None: they have no seed in common.

    A seed gives both the same order of rows and the same draws, so what it does to both cancels in
    the difference: Student's paired t interval, mean ± t(0.975, n − 1) · s / √n (Student, 1908).

    Args:
        one, other: Eval losses by seed.
    """
    apart = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if not apart:
        return None
    error = _standard_error(apart)
    return Difference(
        n=len(apart),
        mean=fmean(apart),
        standard_error=error,
        half_width=None if error is None else error * _quantile(len(apart) - 1),
    )


def _standard_error(values: list[float]) -> float | None:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _quantile(degrees_of_freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom))
