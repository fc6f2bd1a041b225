"""Asynchronous successive halving that pauses: who goes on, who waits, who goes on later.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), algorithm 2: at
each rung, an evaluation at the same share of a trial's own run, the best 1 in `factor` go on. Two
things are ours. A trial that is among them as it arrives goes on without a pause. And a trial is
not paused for a difference that the evaluation sample cannot resolve.
"""

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sweep.text.numbers import counted, ordinal
from sweep.text.trials import seen
from trials.config import EvalPoint, Objective
from trials.evaluation.row_nlls import rows_of, standard_error


@dataclass(frozen=True, order=True, slots=True)
class _Place:
    """A trial at a rung; they sort by what they had reached there."""

    key: float
    """`Objective.key` of the best value so far: what the trial would be worth if it ended here."""
    number: int
    at: EvalPoint


def rung_indices(shares: Sequence[float], n_evaluations: int) -> tuple[int, ...]:
    """Return the evaluations, of a whole run's, at which trials are compared; the last is none."""
    found = {max(1, round(share * n_evaluations)) for share in shares}
    return tuple(sorted(rung for rung in found if rung < n_evaluations))


class Halving:
    """The rungs of a study, and every trial that has reached one.

    Args:
        rungs: Indices of the evaluations at which trials are compared.
        n_evaluations: Of a whole run.
        factor: The best 1 in so many go on from a rung.
        min_peers: Other trials that must have reached a rung before one goes on from it: with
            fewer, the first would run to its end for want of a better one. Where no further trial
            comes, so few are not compared: all go on.
        standard_errors: A difference below so many of its own standard errors counts for nothing.
        n_trials: Of the whole study, as far as it is known.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        rungs: Collection[int],
        n_evaluations: int,
        factor: int,
        min_peers: int,
        standard_errors: float,
        n_trials: float = math.inf,
    ) -> None:
        self._objective = objective
        self._n_evaluations = n_evaluations
        self._factor = factor
        self._min_peers = min_peers
        self._standard_errors = standard_errors
        self._n_trials = n_trials
        self._lost: set[int] = set()
        self._places: dict[int, list[_Place]] = {rung: [] for rung in rungs}
        self._at: dict[int, set[int]] = {rung: set() for rung in self._places}

    def hear(self, number: int, curve: Sequence[EvalPoint]) -> int | None:
        """Take a trial's evaluations so far; return the rung that the latest has reached, if any.

        A short run does not evaluate at every index: its first from a rung on counts.
        """
        latest, reached = curve[-1], None
        for rung, at in self._at.items():
            if latest.index < rung or number in at or not math.isfinite(latest.value):
                continue
            at.add(number)
            key = min(self._objective.key(p.value) for p in curve if math.isfinite(p.value))
            bisect.insort(self._places[rung], _Place(key, number, latest))
            reached = rung
        return reached

    def lost(self, number: int) -> None:
        """A trial has ended without a value: it stands in nobody's way, and still counts as one."""
        self._lost.add(number)
        for places in self._places.values():
            for index, place in enumerate(places):
                if place.number == number:
                    del places[index]
                    bisect.insort(places, replace(place, key=math.inf))
                    break

    def reason(self, number: int, rung: int) -> str | None:
        """Say why a trial does not go on from a rung that it has reached; None: it does."""
        places = self._places[rung]
        place = next(i for i, found in enumerate(places) if found.number == number)
        own, n_on = places[place], self._n_on(rung, is_last=False)
        if n_on == 0:
            # No more than are still to come: with few trials in all, `min_peers` never get there.
            missing = min(self._min_peers + 1 - len(places), self._n_to_come(rung))
            if missing <= 0:
                return None
            more = f"{counted(missing, 'more trial')} {'gets' if missing == 1 else 'get'} there"
            at = f"{rung / self._n_evaluations:.0%}, step {own.at.step}"
            value = f"{self._objective.heading} {own.at.value:.4f}"
            return f"Paused at {at} ({value}), until {more}."
        if not self._is_resolved(own, places[n_on - 1]):
            return None
        return self._rank_in_words(rung, place, n_on)

    def _n_to_come(self, rung: int) -> float:
        """Trials that may still reach a rung."""
        return self._n_trials - len(self._at[rung] | self._lost)

    def promising(self, waiting: Mapping[int, int], *, is_last: bool) -> int | None:
        """Return the number of a paused trial that is among the best of its rung by now.

        Of several the one that has come furthest, the best first.

        Args:
            waiting: The rung of each trial that is paused.
            is_last: Whether no further trial comes.
        """
        for rung in sorted(set(waiting.values()), reverse=True):
            places, n_on = self._places[rung], self._n_on(rung, is_last=is_last)
            last = places[n_on - 1] if n_on else None
            for place in places:
                if last is None or place.key > last.key:
                    break
                if waiting.get(place.number) == rung:
                    return place.number
            if not is_last or last is None:
                continue
            # Before anyone is given up: those that the rows do not tell from the last of the best.
            for place in places[n_on:]:
                if waiting.get(place.number) == rung and not self._is_resolved(place, last):
                    return place.number
        return None

    def standing(self, number: int) -> str:
        """Say how a paused trial compares with those that went on, once no further trial comes."""
        rung = self.rung_of(number)
        if rung is None:
            return ""
        place = next(i for i, at in enumerate(self._places[rung]) if at.number == number)
        return self._rank_in_words(rung, place, self._n_on(rung, is_last=True))

    def _rank_in_words(self, rung: int, place: int, n_on: int) -> str:
        places, share = self._places[rung], rung / self._n_evaluations
        sign = -1 if self._objective.direction == "maximize" else 1
        top = "the best one goes on" if n_on == 1 else f"the top {n_on} go on"
        own, last = places[place], places[n_on - 1]
        return (
            f"{self._objective.opening} {sign * own.key:.4f} at {share:.0%} of its run "
            f"({seen(own.at)}): {ordinal(place + 1)} of {len(places)}; {top}, "
            f"down to trial {last.number} with {sign * last.key:.4f} ({seen(last.at)})."
        )

    def rung_of(self, number: int) -> int | None:
        """The highest rung that a trial has reached; None: none."""
        return max((rung for rung, at in self._at.items() if number in at), default=None)

    def _n_on(self, rung: int, *, is_last: bool) -> int:
        n = len(self._places[rung])
        if n <= self._min_peers:
            return n if is_last else 0
        return max(1, n // self._factor)

    def _is_resolved(self, own: _Place, other: _Place) -> bool:
        """Whether one trial is worse than another by more than the eval rows' own scatter."""
        if own.key <= other.key:
            return False
        if own.at.score is not None:
            return True
        mine, theirs = rows_of(own.at), rows_of(other.at)
        error = standard_error(mine, theirs) if mine and theirs else None
        return error is None or own.key - other.key > self._standard_errors * error
