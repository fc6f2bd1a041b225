"""What the trials of a sweep have shown: how long a run takes, who waits, who ends early."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Draws = npt.NDArray[np.floating[Any]]
"""What may come, drawn many times: (draws) or (trials, draws)."""
Run = Callable[[Draws], Draws]
"""Seconds of a whole run, by its epochs."""

GO_ON = 0.6
"""Of the trials at a rung, those that went on at once or later, on the recorded landscape."""
EARLY = 0.03
"""Of the trials that come to an evaluation, those that end there before their run is over:
likewise."""
WEIGHT = 6
"""So many trials count what is believed before any has been seen."""
LATEST = 8
"""Trials that say most of those that come."""


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

    def shares_on(self, chance: np.random.Generator, n: int) -> dict[int, Draws]:
        """Of the trials that come to each rung, those that go on, at once or later, in `n` draws.

        By what was seen, and `GO_ON` of some more: it is above 1 / factor, since a trial goes on
        too where the eval rows do not tell it from the better ones.
        """
        return {
            rung: chance.beta(
                self._passed[rung] + WEIGHT * GO_ON,
                self._reached[rung] - self._passed[rung] + WEIGHT * (1 - GO_ON),
                n,
            )
            for rung in self.indices
        }

    def still_to_go_on(
        self, rung: int, running: Iterable[int], share_on: Draws, *, is_last: bool
    ) -> Draws:
        """How many of the trials that wait there go on once others have come.

        Args:
            running: Numbers of the trials that run: they wait for nothing.
            share_on: As `shares_on` has it of this rung.
            is_last: Whether no further trial comes: then the best 1 in `factor` go on at once.
        """
        on_their_way = sum(self._furthest.get(number, 0) == rung for number in running)
        reached = self._reached[rung]
        n_best = reached if reached <= self._min_peers else reached // self._factor
        go_on = np.full_like(share_on, n_best)
        if not is_last:  # between that, and as many as went on so far
            go_on += np.linspace(0, 1, len(share_on)) * (share_on * reached - go_on)
        return np.maximum(0.0, go_on - self._passed[rung] - on_their_way)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is believed of the trials of a sweep before any has been seen."""

    rungs: Rungs = field(default_factory=Rungs)
    """Where they wait."""
    epochs: Sequence[float] = ()
    """What the sampler may draw; nothing: it draws on a scale that is not known."""
    early: float = 0.0
    """Of those that come to an evaluation, the share that ends there."""


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

    def fitted(self) -> Run | None:
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
        expected: What is believed before.
    """

    def __init__(self, n_evaluations: int, expected: Expected | None = None) -> None:
        self.n_evaluations = self._n = n_evaluations
        self._expected = expected or Expected()
        self.rungs = self._expected.rungs
        self._lengths = _Line()
        self._planned: list[float] = []
        self._last = np.zeros(n_evaluations + 1)
        """Trials that do not run any more, by the index of their last evaluation."""
        self._early = np.zeros(n_evaluations + 1)
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

    def seconds_of_run(self, running: Iterable[tuple[int, float, float]]) -> Run | None:
        """Return what tells the seconds of a whole run by its epochs; None: nothing is known yet.

        Args:
            running: Index of the latest evaluation, epochs of the whole run and seconds taken, of
                each trial that runs and has evaluated.
        """
        line = copy(self._lengths)
        for index, epochs, seconds in running:
            line.add(index / self._n, epochs, seconds)
        return line.fitted()

    def epochs_to_come(self, chance: np.random.Generator, shape: tuple[int, int]) -> Draws:
        """Draw the lengths of whole runs: the sampler moves, so the latest count double."""
        usual, latest = self._expected.epochs, self._planned[-LATEST:]
        if not (usual or latest):
            return np.zeros(shape)
        weights = np.array([WEIGHT / len(usual) for _ in usual] + [1.0 for _ in latest])
        return chance.choice([*usual, *latest], size=shape, p=weights / weights.sum())

    def survival(self, running: Iterable[int]) -> Draws:
        """Return the share of trials that do not end early up to each evaluation: (K + 1,).

        Args:
            running: Indices of the latest evaluations of trials that run.
        """
        last = self._last.copy()
        np.add.at(last, list(running), 1)
        n_there = np.cumsum(last[::-1])[::-1]
        weight = WEIGHT if self._expected.early else 0
        early = self._early + weight * self._expected.early
        early[[0, -1]] = self._early[[0, -1]]  # none is believed to fail at once
        return np.cumprod(1 - early / np.maximum(n_there + weight, 1))

    def ends(
        self,
        begin: int | None,
        survival: Draws,
        shares_on: Mapping[int, Draws],
        chance: np.random.Generator,
        shape: tuple[int, int],
    ) -> Draws:
        """Draw the evaluations at which trials end, or wait for good.

        Args:
            begin: Index of their latest; None: they have not begun.
            survival: As the method has it.
            shares_on: As `Rungs.shares_on`, of the rungs at which they may wait.
            shape: Trials, draws.
        """
        first, there = (0, 1.0) if begin is None else (begin + 1, survival[begin])
        index = first + np.searchsorted(
            1 - survival[first:] / there, chance.random(shape), side="right"
        )
        ends = np.minimum(index, self._n).astype(float)
        for rung, share in shares_on.items():
            if rung >= first:
                waits = chance.random(shape) >= share
                ends[waits] = np.minimum(ends, rung)[waits]
        return ends
