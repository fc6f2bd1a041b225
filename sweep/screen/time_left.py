"""How long a sweep will still take, by what its trials have taken and how far they have come."""

import heapq
from collections.abc import Iterable, Sequence

MANY = 4
"""So many waiting trials for each slot make it needless to deal them out one by one."""


class Pace:
    """What the trials of a study have shown: seconds per epoch, and where they end early.

    Early ends are taken as a life table takes deaths (Kaplan and Meier, 1958): of the trials that
    got as far as an evaluation, the share that ended there. Trials that still run count for as far
    as they have got. The mean duration of those that have ended would be too low at first: trials
    that are stopped early end first.

    Args:
        n_evaluations: K, of a whole run.
    """

    def __init__(self, n_evaluations: int) -> None:
        self._n = n_evaluations
        self._seconds = self._epochs = 0.0
        self._epochs_planned, self._n_planned = 0.0, 0
        self._last = [0] * (n_evaluations + 1)
        """Ended trials by the index of their last evaluation."""
        self._early = [0] * (n_evaluations + 1)
        """Those of them that ended before their run was over."""

    def planned(self, epochs: float) -> None:
        """Hear of the length of a trial: those that come will have the mean."""
        self._epochs_planned += epochs
        self._n_planned += 1

    def ended(self, index: int, epochs: float, seconds: float) -> None:
        """Hear of the end of a trial.

        Args:
            index: Of its last evaluation; 0: it had none.
            epochs: Of its whole run.
            seconds: That it took.
        """
        if index:
            self._seconds += seconds
            self._epochs += epochs * index / self._n
        self._last[index] += 1
        self._early[index] += index < self._n

    def seconds_of_epoch(self, running: Iterable[tuple[float, float]]) -> float | None:
        """Return seconds per epoch; None: nothing is known yet.

        Args:
            running: Epochs done and seconds taken by the trials that run.
        """
        epochs, seconds = self._epochs, self._seconds
        for done, taken in running:
            epochs += done
            seconds += taken
        return seconds / epochs if epochs else None

    @property
    def mean_epochs(self) -> float:
        """Of a whole run."""
        return self._epochs_planned / self._n_planned if self._n_planned else 0.0

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
            ahead[index] = 1 / self._n + survives * ahead[index + 1]
            n_there += last[index]
        ahead[-1] = ahead[0] * (1 - self._early[0] / n_there if n_there else 1.0)
        return ahead


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
