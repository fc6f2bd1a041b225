"""How long a sweep will still take, by what its trials have taken and how far they have come."""

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from statistics import fmean

GO_ON = 0.6
"""Of the trials at a rung, those that went on at once or later, on the recorded landscape."""
WEIGHT = 6
"""So many trials count what is believed before any has been seen."""
LATEST = 8
"""Trials that say most of those that come."""
MANY = 4
"""So many waiting trials for each slot make it needless to deal them out one by one."""


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

    def seconds_left(self, share: float) -> float:
        """Return what it still takes, if it runs through this share of a whole run."""
        return max(0.0, self.whole_seconds * share - self.since)


@dataclass(frozen=True, slots=True)
class Left:
    """What the trials of a sweep still take, in seconds."""

    expected: float
    """Never below what the longest running trial needs for its whole run."""
    least: float
    """If no further trial goes on from a rung."""
    most: float
    """If each runs to its end."""
    is_sure: bool
    """Whether a trial has completed: before that, the first two tell little."""


class Rungs:
    """Where trials are compared and wait: how many have come there, and how many have gone on.

    Args:
        indices: Of the evaluations, in order; none: nobody waits.
        factor: The best 1 in so many go on.
        min_peers: Where no further trial comes, so few all go on.
    """

    def __init__(self, indices: Sequence[int] = (), factor: int = 3, min_peers: int = 0) -> None:
        self.indices = tuple(indices)
        self._factor, self._min_peers = factor, min_peers
        self._furthest: dict[int, int] = {}
        """Index of the latest evaluation, by trial."""
        self._reached = dict.fromkeys(self.indices, 0)
        self._passed = dict.fromkeys(self.indices, 0)

    def heard(self, number: int, index: int) -> None:
        """Take how far a trial has come."""
        before = self._furthest.get(number, 0)
        self._furthest[number] = max(before, index)
        for rung in self.indices:
            self._reached[rung] += before < rung <= index
            self._passed[rung] += before <= rung < index

    def share_on(self, rung: int) -> float:
        """Of the trials that come there, those that go on, at once or later; 1 elsewhere.

        What was seen, and `GO_ON` of some more: it is above 1 / factor, since a trial goes on too
        where the eval rows do not tell it from the better ones.
        """
        if rung not in self._reached:
            return 1.0
        return (self._passed[rung] + WEIGHT * GO_ON) / (self._reached[rung] + WEIGHT)

    def still_to_go_on(self, rung: int, running: Iterable[int], *, is_last: bool) -> float:
        """Expected number of the trials that wait there which go on once others have come.

        Args:
            running: Numbers of the trials that run: they wait for nothing.
            is_last: Whether no further trial comes: then the best 1 in `factor` go on at once.
        """
        on_their_way = sum(self._furthest.get(number, 0) == rung for number in running)
        reached = self._reached[rung]
        n_best = reached if reached <= self._min_peers else reached // self._factor
        expected = n_best if is_last else self.share_on(rung) * reached
        return max(0.0, expected - self._passed[rung] - on_their_way)


@dataclass
class _Line:
    """Seconds of whole runs by their epochs: some for evaluations, however long the run is."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, share: float, epochs: float, seconds: float) -> None:
        """Take a run of which a share has taken so many seconds; it weighs as much as its share."""
        self.weight += share
        self.x += share * epochs
        self.y += seconds
        self.xx += share * epochs**2
        self.xy += seconds * epochs

    def fitted(self) -> Callable[[float], float] | None:
        """Return the line of least squares, which neither begins below 0 nor falls."""
        if self.weight <= 0 or self.x <= 0:
            return None
        spread = self.weight * self.xx - self.x**2
        slope = (self.weight * self.xy - self.x * self.y) / spread if spread > 1e-9 else math.inf
        slope = max(0.0, min(slope, self.y / self.x))
        start = max(0.0, (self.y - slope * self.x) / self.weight)
        return lambda epochs: start + slope * epochs


class Pace:
    """What the trials of a study have shown: seconds per epoch, and where they end early.

    Early ends are taken as a life table takes deaths (Kaplan and Meier, 1958): of the trials that
    got as far as an evaluation, the share that ended there. Trials that still run, or wait at a
    rung, count for as far as they have got. The mean duration of those that have ended would be too
    low at first: trials that are stopped early end first.

    Args:
        n_evaluations: K, of a whole run.
        rungs: Where trials wait.
        usual_epochs: Of the trials that the sampler draws, as far as nothing else is known.
    """

    def __init__(
        self, n_evaluations: int, rungs: Rungs | None = None, usual_epochs: float | None = None
    ) -> None:
        self._n = n_evaluations
        self._usual_epochs = usual_epochs
        self.rungs = rungs or Rungs()
        self._lengths = _Line()
        self._planned: list[float] = []
        self._last = [0] * (n_evaluations + 1)
        """Trials that do not run any more, by the index of their last evaluation."""
        self._early = [0] * (n_evaluations + 1)
        """Those of them that ended before their run was over, for good and by themselves."""

    def planned(self, epochs: float) -> None:
        """Hear of the length of a trial: those that come will have the mean."""
        self._planned.append(epochs)

    def ended(self, index: int, epochs: float, seconds: float, *, waits: bool = False) -> None:
        """Hear of the end of a trial, or of its pause.

        Args:
            index: Of its last evaluation; 0: it had none.
            epochs: Of its whole run.
            seconds: That it took.
            waits: Whether it is, or was until the end, behind others.
        """
        if index:
            self._lengths.add(index / self._n, epochs, seconds)
        self._last[index] += 1
        self._early[index] += index < self._n and not waits

    def goes_on(self, index: int, epochs: float, seconds: float) -> None:
        """Hear that a paused trial goes on: as `ended`, taken back."""
        self._lengths.add(-index / self._n, epochs, -seconds)
        self._last[index] -= 1

    def seconds_of_run(
        self, running: Iterable[tuple[int, float, float]]
    ) -> Callable[[float], float] | None:
        """Return what tells the seconds of a whole run by its epochs; None: nothing is known yet.

        Args:
            running: Index of the latest evaluation, epochs of the whole run and seconds taken, of
                each trial that runs and has evaluated.
        """
        line = copy(self._lengths)
        for index, epochs, seconds in running:
            line.add(index / self._n, epochs, seconds)
        return line.fitted()

    @property
    def mean_epochs(self) -> float:
        """Of a whole run that is to come: the sampler moves, so the latest count double."""
        usual = [] if self._usual_epochs is None else [self._usual_epochs] * WEIGHT
        planned = [*usual, *self._planned[-LATEST:]]
        return fmean(planned) if planned else 0.0

    def shares_ahead(self, running: Iterable[int]) -> list[float]:
        """Return the expected rest of a trial, as share of a whole run.

        Args:
            running: Indices of the latest evaluations of trials that run.

        Returns:
            By the index of its latest evaluation, 0…K; last, of one that has not begun.
        """
        last = list(self._last)
        for index in running:
            last[index] += 1
        ahead = [0.0] * (self._n + 2)
        n_there = last[self._n]
        for index in range(self._n - 1, -1, -1):
            survives = 1 - self._early[index + 1] / n_there if n_there else 1.0
            survives *= self.rungs.share_on(index + 1)
            ahead[index] = 1 / self._n + survives * ahead[index + 1]
            n_there += last[index]
        ahead[-1] = ahead[0] * (1 - self._early[0] / n_there if n_there else 1.0)
        return ahead

    def left(
        self,
        running: Sequence[Rest],
        waiting: Sequence[float],
        of_run: Callable[[float], float],
        n_slots: int,
    ) -> Left:
        """Return what a sweep's trials still take.

        Args:
            waiting: Seconds of the whole run of each trial that has not begun, in their order.
            of_run: As `seconds_of_run`.
        """
        ahead = self.shares_ahead(trial.index for trial in running)
        whole = [trial.seconds_left(1 - trial.index / self._n) for trial in running]
        expected = [trial.seconds_left(ahead[trial.index]) for trial in running]
        first = min(self.rungs.indices, default=None)
        if first is None:
            likely = [seconds * ahead[-1] for seconds in waiting]
            least = likely
        else:  # who goes on runs to the end, while slots beside it may have nothing left to do
            goes_on = self.rungs.share_on(first)
            to_rung = max(0.0, ahead[-1] - goes_on * ahead[first])
            least = [seconds * to_rung for seconds in waiting]
            numbers = [trial.number for trial in running]
            n = goes_on * len(waiting)
            n += self.rungs.still_to_go_on(first, numbers, is_last=not waiting)
            one = of_run(self.mean_epochs) * ahead[first]
            likely = [*least, *[one] * int(n), one * (n % 1)]
        longest = max(whole, default=0.0)
        return Left(
            expected=max(longest, seconds_until_all_end(expected, likely, n_slots)),
            least=max(longest, seconds_until_all_end(expected, least, n_slots)),
            most=seconds_until_all_end(whole, waiting, n_slots),
            is_sure=self._last[self._n] > 0,
        )


def seconds_until_all_end(running: Sequence[float], waiting: Sequence[float], n: int) -> float:
    """Return when the last trial ends if each goes to the slot that becomes free first.

    Args:
        running: Seconds that each running trial still takes.
        waiting: Seconds that each other one will take, in their order.
        n: Slots.
    """
    n = max(n, len(running), 1)
    if len(waiting) > MANY * n:
        return (sum(running) + sum(waiting)) / n
    slots = [*running, *[0.0] * (n - len(running))]
    heapq.heapify(slots)
    for seconds in waiting:
        heapq.heapreplace(slots, slots[0] + seconds)
    return max(slots)
