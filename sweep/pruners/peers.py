"""What a trial is up against: the others of its study. Who is hopeless beside them, who waits?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import optuna

from sweep.pruners.asha import Halving, rung_indices
from sweep.pruners.outclassed import Outclassed, make_outclassed
from sweep.space.space import Space
from sweep.storage.attributes import OUTCOME, curve_of
from trials.config import EvalPoint, Outcome, Stop

WITHOUT_VALUE: frozenset[Outcome] = frozenset({"diverged", "stopped", "out_of_memory", "failed"})


class Rivals(Protocol):
    """What a trial is up against: the others of its study."""

    def hear(self, number: int, curve: Sequence[EvalPoint]) -> None:
        """Take the evaluations of a running trial, latest last."""

    def lost(self, number: int) -> None:
        """A trial has ended without a value that counts."""

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        """Judge a trial that has just been heard; None to go on."""

    def promising(self, paused: Collection[int], *, is_last: bool) -> int | None:
        """Return the number of a paused trial that should go on by now."""

    def standing(self, number: int) -> str:
        """Say how a trial that stays paused compares with the others; empty: it was not."""


class NoRivals:
    """No trial is judged by others."""

    def hear(self, number: int, curve: Sequence[EvalPoint]) -> None: ...

    def lost(self, number: int) -> None: ...

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        return None

    def promising(self, paused: Collection[int], *, is_last: bool) -> int | None:
        """Whatever an earlier run has paused, as it was set then, goes on."""
        return min(paused, default=None)

    def standing(self, number: int) -> str:
        return ""


class Killing(NoRivals):
    """Optuna's pruners: whoever is hopeless beside its peers ends for good."""

    def __init__(self, outclassed: Outclassed) -> None:
        self._outclassed = outclassed

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        reason = self._outclassed.reason(study, trial, point)
        return Stop(outcome="outclassed", reason=reason) if reason else None


class Pausing:
    """Halving that pauses: whoever is not among the best waits until it is."""

    def __init__(self, halving: Halving) -> None:
        self._halving = halving
        self._rung: dict[int, int | None] = {}
        """The rung that a trial has reached with its latest evaluation."""

    def hear(self, number: int, curve: Sequence[EvalPoint]) -> None:
        self._rung[number] = self._halving.hear(number, curve)

    def lost(self, number: int) -> None:
        self._halving.lost(number)

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        rung = self._rung[trial.number]
        reason = self._halving.reason(trial.number, rung) if rung is not None else None
        return Stop(outcome="paused", reason=reason) if reason else None

    def promising(self, paused: Collection[int], *, is_last: bool) -> int | None:
        at = {number: self._halving.rung_of(number) for number in paused}
        waiting = {number: rung for number, rung in at.items() if rung is not None}
        return self._halving.promising(waiting, is_last=is_last)

    def standing(self, number: int) -> str:
        """Say how a trial that stays paused compares with those that went on."""
        return self._halving.standing(number)


def make_rivals(space: Space, study: optuna.Study) -> Rivals:
    """What the space says, with what the study knows already."""
    settings, n_evaluations = space.settings.pruning.outclassed, space.settings.evaluate.times
    if not settings:
        return NoRivals()
    if settings.pruner != "asha":
        return Killing(make_outclassed(settings, space.objective))
    halving = Halving(
        space.objective,
        rungs=rung_indices(settings.rungs, n_evaluations),
        n_evaluations=n_evaluations,
        factor=settings.factor,
        min_peers=settings.min_peers,
        standard_errors=settings.standard_errors,
    )
    rivals = Pausing(halving)
    for trial in study.get_trials(deepcopy=False):
        curve = [EvalPoint(**point) for point in curve_of(trial)]
        for n in range(1, len(curve) + 1):
            rivals.hear(trial.number, curve[:n])
        if trial.user_attrs.get(OUTCOME) in WITHOUT_VALUE:
            rivals.lost(trial.number)
    return rivals


def rows_wanted(space: Space) -> tuple[int, ...]:
    """Return the evaluations of which the losses of single rows are needed, to tell noise."""
    settings, n_evaluations = space.settings.pruning.outclassed, space.settings.evaluate.times
    if not settings or settings.pruner != "asha" or not space.objective.is_eval_loss:
        return ()
    return rung_indices(settings.rungs, n_evaluations) if settings.standard_errors else ()
