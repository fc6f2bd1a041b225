"""Who leads a sweep while it runs: every trial that has been evaluated and may still win."""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sweep.storage.attributes import COUNTS
from sweep.study.ended import StoredTrial
from trials.config import GOES_ON, EvalPoint, Objective, Outcome, TrialConfig


@dataclass(frozen=True, slots=True)
class Standing:
    """A trial on the leaderboard."""

    number: int
    name: str
    value: float
    """The best objective so far."""
    index: int
    """Of the latest evaluation, 1…K."""
    state: Outcome | Literal["running", "waiting"]


class Leaders:
    """All trials with a value, whether they run, wait or have completed.

    Args:
        known: Trials of earlier runs of the sweep.
    """

    def __init__(self, objective: Objective, known: Iterable[StoredTrial] = ()) -> None:
        self._objective = objective
        self.n_evaluations: int | None = None
        """K, of a whole run; None until a trial has begun."""
        self._standings = {
            trial.number: Standing(
                trial.number, trial.name, trial.value, trial.last_index, trial.outcome
            )
            for trial in known
            if trial.value is not None and (trial.counts or trial.outcome in GOES_ON)
        }

    def started(self, number: int) -> None:
        """A trial runs: of one that goes on something is known already."""
        self._is_now(number, "running")

    def reported(self, config: TrialConfig, point: EvalPoint) -> None:
        if not math.isfinite(point.value):
            return
        number, value = config.number, point.value
        if (before := self._standings.get(number)) is not None:
            value = min(value, before.value, key=self._objective.key)
        now = Standing(number, config.name, value, point.index, "running")
        self._standings[number] = now

    def ended(self, number: int, outcome: Outcome) -> None:
        """A trial has ended; one whose value does not count leaves."""
        if outcome in COUNTS or outcome in GOES_ON:
            self._is_now(number, outcome)
        else:
            self._standings.pop(number, None)

    def _is_now(self, number: int, state: Outcome | Literal["running"]) -> None:
        if (before := self._standings.get(number)) is not None:
            self._standings[number] = replace(before, state=state)

    def best(self, n: int) -> list[Standing]:
        """Return so many, the best first."""
        all_now = list(self._standings.values())  # the live table asks from its own thread
        key = self._objective.key
        return heapq.nsmallest(n, all_now, key=lambda each: (key(each.value), each.number))
