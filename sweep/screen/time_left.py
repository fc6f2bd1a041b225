"""How long a sweep will still take: gone through many times, by what its trials have shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.screen.pace import Draws, Pace, Run

LONGER = (0.4, 0.25)
"""How much longer the runs are that go on from a rung than those that come there: mean and standard
deviation of the factor's logarithm. Longer runs are ahead at the same share, and the sampler comes
to draw them. So it was on the recorded landscape."""
MANY = 4
"""So many waiting trials for each slot make it needless to deal them out one by one."""
FEW_SLOTS = 32
"""So many can be dealt to one by one in a moment."""
MAX_DRAWS = 200
MAX_DRAWN = 40_000
"""Trials in all draws together: more would be felt at each line."""
PACE = 1.05
"""By so much the pace of a trial may change either way."""
ABOUT = 0.25
"""A range that is within so much of its middle is said as one figure."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A trial that runs."""

    number: int
    index: int
    """Of its latest evaluation."""
    whole_seconds: float
    """Of its whole run."""
    since: float
    """Seconds since that evaluation, or since it began."""

    def seconds_left(self, share: Draws | float) -> Draws:
        """Return what it still takes, if it runs through this share of a whole run."""
        return np.maximum(self.whole_seconds * np.asarray(share) - self.since, 0.0)


@dataclass(frozen=True, slots=True)
class Left:
    """What the trials of a sweep still take, in seconds."""

    low: float
    """It takes longer with a chance of 90 %."""
    expected: float
    """The median, never below what the longest running trial needs for its whole run."""
    high: float
    """It takes longer with a chance of 10 %; likewise."""

    @property
    def is_narrow(self) -> bool:
        """Whether one figure says it."""
        return max(self.expected - self.low, self.high - self.expected) <= ABOUT * self.expected


def time_left(
    pace: Pace, running: Sequence[Rest], waiting: Sequence[float | None], of_run: Run, n_slots: int
) -> Left:
    """Return what the trials of a sweep still take.

    The same chance each time, so that a figure moves only with what is heard.

    Args:
        waiting: Epochs of each trial that has not begun, in their order; None: the sampler will
            draw them.
        of_run: As `Pace.seconds_of_run`.
    """
    chance = np.random.default_rng(0)
    n = max(10, min(MAX_DRAWS, MAX_DRAWN // (len(running) + 2 * len(waiting) + 1)))
    shares_on = pace.rungs.shares_on(chance, n)
    survival = pace.survival(trial.index for trial in running)
    longer = chance.lognormal(*LONGER, n)
    k = pace.n_evaluations

    rests = np.zeros((len(running), n))
    for row, trial in zip(rests, running, strict=True):
        [ends] = pace.ends(trial.index, survival, shares_on, chance, (1, n))
        row[:] = trial.seconds_left((ends - trial.index) / k)

    # Who goes on runs to its end behind the others, while slots may have nothing left to do.
    known = np.array([math.nan if each is None else each for each in waiting])[:, None]
    epochs = pace.epochs_to_come(chance, (len(waiting), n))
    evaluation = of_run(np.where(np.isnan(known), epochs, known)) / k
    ends = pace.ends(None, survival, shares_on, chance, (len(waiting), n))
    first = min(shares_on, default=k)
    jobs = [evaluation * np.minimum(ends, first), evaluation * np.maximum(ends - first, 0) * longer]
    if shares_on:
        numbers = [trial.number for trial in running]
        n_on = pace.rungs.still_to_go_on(first, numbers, shares_on[first], is_last=not waiting)
        n_on = n_on - np.arange(math.ceil(n_on.max()))[:, None]
        later = {rung: share for rung, share in shares_on.items() if rung > first}
        further = pace.ends(first, survival, later, chance, n_on.shape) - first
        epochs = pace.epochs_to_come(chance, n_on.shape)
        jobs.append(np.clip(n_on, 0, 1) * of_run(epochs) / k * further * longer)

    all_ends = seconds_until_all_end(rests, np.concatenate(jobs), n_slots)
    low, expected, high = map(float, np.quantile(all_ends, [0.1, 0.5, 0.9]))
    longest = max((float(each.seconds_left(1 - each.index / k)) for each in running), default=0.0)
    return Left(low / PACE, max(longest, expected), max(longest, high) * PACE)


def seconds_until_all_end(running: Draws, waiting: Draws, n: int) -> Draws:
    """Return when the last trial ends if each goes to the slot that becomes free first.

    Args:
        running: Seconds that each running trial still takes: (trials, draws).
        waiting: Seconds that each other one will take, in their order: (trials, draws).
        n: Slots.
    """
    n = max(n, len(running), 1)
    if len(waiting) > MANY * n or n > FEW_SLOTS:
        jobs = np.concatenate([running, waiting])
        ends: Draws = np.maximum(jobs.sum(0) / n, np.max(jobs, 0, initial=0.0))
        return ends
    draws = running.shape[1]
    slots: Draws = np.zeros((n, draws))
    slots[: len(running)] = running
    for seconds in waiting:
        slots[slots.argmin(0), np.arange(draws)] += seconds
    latest: Draws = np.max(slots, 0)
    return latest
