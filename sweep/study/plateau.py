"""Has a sweep stopped getting better? `budget.stop_when_flat` asks after each trial."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LATE_SHARE = 0.25
"""Of a trial's evaluations: the last ones, where its learning rate has nearly gone to zero."""


@dataclass(frozen=True, slots=True)
class EndedCurve:
    best: float | None
    """What it is judged by, less is better: its eval loss, in nats, or the key of its score
    (`Objective.key`); None where it has none that counts."""
    values: Sequence[float]
    """Likewise, of all its evaluations, in order."""


class Flatness:
    """Whether the best value still falls by more than noise, as trials end one by one."""

    def __init__(self) -> None:
        self._lowest: list[float] = []
        """The best value after so many trials; infinite before the first that counts."""
        self._moves: list[float] = []
        """From one late evaluation to the next, the smallest first."""

    def add(self, trial: EndedCurve) -> int:
        """Take the next trial that has ended, or was paused; return its place among them."""
        lowest = self._lowest[-1] if self._lowest else math.inf
        self._lowest.append(min(lowest, math.inf if trial.best is None else trial.best))
        self._add_moves(trial)
        return len(self._lowest) - 1

    def add_again(self, place: int, trial: EndedCurve) -> None:
        """Take what has become of a trial that was taken already, paused, without a value."""
        if trial.best is not None:
            for later in range(place, len(self._lowest)):
                self._lowest[later] = min(self._lowest[later], trial.best)
        self._add_moves(trial)

    def _add_moves(self, trial: EndedCurve) -> None:
        for before, after in pairwise(_late(trial)):
            bisect.insort(self._moves, abs(after - before))

    def is_flat(self, n_trials: int) -> bool:
        """Whether the last `n_trials` have not lowered the best value by more than noise."""
        if len(self._lowest) <= n_trials:
            return False
        before, now = self._lowest[-n_trials - 1], self._lowest[-1]
        return math.isfinite(before) and before - now <= self.noise

    @property
    def noise(self) -> float:
        """How far a value moves between two evaluations late in a trial: the median.

        Nothing is learnt there any more, so what moves is chance: the last batches, and the rows
        that happened to be in the sample. 0 where no trial has two late evaluations.
        """
        n = len(self._moves)
        return (self._moves[(n - 1) // 2] + self._moves[n // 2]) / 2 if n else 0.0


def _late(trial: EndedCurve) -> Sequence[float]:
    if trial.best is None:
        return []
    first = len(trial.values) - max(2, round(LATE_SHARE * len(trial.values)))
    return [value for value in trial.values[max(0, first) :] if math.isfinite(value)]
