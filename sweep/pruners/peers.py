"""What a trial is up against: the others of its study. Who is hopeless beside them, who waits?"""

import math
from collections.abc import Collection, Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from sweep.pruners.asha import Halving, rung_indices
from sweep.space.settings import OutclassedSettings
from sweep.space.space import Space
from sweep.storage.attributes import OUTCOME, curve_of
from sweep.text.numbers import ordinal
from sweep.text.trials import seen
from trials.config import BY_EVAL_LOSS, EvalPoint, Objective, Outcome, Stop

WITHOUT_VALUE: frozenset[Outcome] = frozenset({"diverged", "stopped", "out_of_memory", "failed"})


class Rivals:
    """What a trial is up against: the others of its study. As it stands, none is judged by them."""

    def hear(self, number: int, curve: Sequence[EvalPoint]) -> bool:
        """Take the evaluations of a running trial, latest last; whether others need the latest."""
        return False

    def lost(self, number: int) -> None:
        """A trial has ended without a value that counts."""

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        """Judge a trial that has just been heard; None to go on."""
        return None

    def promising(self, paused: Collection[int], *, is_last: bool) -> int | None:
        """Return the number of a paused trial that should go on by now."""
        # Whatever an earlier run has paused, as it was set then, goes on.
        return min(paused, default=None)

    def standing(self, number: int) -> str:
        """Say how a trial that stays paused compares with the others; empty: it was not."""
        return ""


class OptunaPruner(Rivals):
    """One of Optuna's: whoever is hopeless beside its peers, at the same share, is pruned.

    With fewer than `min_peers` other trials at the step no verdict counts: halving would stop the
    second trial for being worse than the first.
    """

    def __init__(
        self,
        settings: OutclassedSettings,
        objective: Objective = BY_EVAL_LOSS,
        *,
        n_evaluations: int,
    ) -> None:
        self._inner = _optunas(settings, n_evaluations)
        self._objective = objective
        self._min_peers = settings.min_peers

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        reason = self.reason(study, trial, point)
        return Stop(outcome="outclassed", reason=reason) if reason else None

    def reason(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> str | None:
        """Say why the trial is hopeless, or None. The study has heard of `point` already."""
        trials = study.get_trials(deepcopy=False)
        # The pruner is asked whatever the number of peers: halving notes a rung as it answers.
        if not self._inner.prune(study, trials[trial.number]):
            return None
        peers = [
            peer.intermediate_values[point.index]
            for peer in trials
            if peer.number != trial.number
            and peer.state is not TrialState.FAIL
            and math.isfinite(peer.intermediate_values.get(point.index, math.nan))
        ]
        if len(peers) < self._min_peers:
            return None
        key = self._objective.key
        place = 1 + sum(key(value) < key(point.value) for value in peers)
        return (
            f"{self._objective.opening} {point.value:.4f} ({seen(point)}): {ordinal(place)} of "
            f"{len(peers) + 1} at this share of a run; the best had {min(peers, key=key):.4f}."
        )


def _optunas(settings: OutclassedSettings, n_evaluations: int) -> BasePruner:
    """The configured pruner; its steps are evaluations, shares of a trial's own run."""
    n, factor = settings.min_peers, settings.factor
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=n)
    if settings.pruner == "percentile":
        return optuna.pruners.PercentilePruner(settings.percentile, n_startup_trials=n)
    if settings.pruner == "hyperband":
        # As "auto" has it if a trial has run to its end by the time that it is first asked.
        return optuna.pruners.HyperbandPruner(
            max_resource=n_evaluations + 1, reduction_factor=factor
        )
    # With K = 20 and a factor of 4 the cuts lie at 5, 20 and 80 % of a trial's own run.
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)


class AshaPruner(Rivals):
    """Asynchronous successive halving: whoever is not among the best is paused until it is."""

    def __init__(self, halving: Halving) -> None:
        self._halving = halving
        self._rung: dict[int, int | None] = {}
        """The rung that a trial has reached with its latest evaluation."""

    def hear(self, number: int, curve: Sequence[EvalPoint]) -> bool:
        rung = self._rung[number] = self._halving.hear(number, curve)
        return rung is not None

    def lost(self, number: int) -> None:
        self._halving.lost(number)

    def verdict(self, study: optuna.Study, trial: optuna.Trial, point: EvalPoint) -> Stop | None:
        rung = self._rung[trial.number]
        reason = self._halving.reason(trial.number, rung) if rung is not None else None
        return Stop(outcome="paused", reason=reason) if reason else None

    def promising(self, paused: Collection[int], *, is_last: bool) -> int | None:
        at = {number: self._halving.rung_of(number) for number in paused}
        waiting = {number: rung for number, rung in at.items() if rung is not None}
        if unplaced := at.keys() - waiting:  # the rungs have changed since they were paused
            return min(unplaced)
        return self._halving.promising(waiting, is_last=is_last)

    def standing(self, number: int) -> str:
        return self._halving.standing(number)


def make_rivals(space: Space, study: optuna.Study) -> Rivals:
    """What the space says, with what the study knows already."""
    settings, n_evaluations = space.settings.pruning.outclassed, space.settings.evaluate.times
    if not settings:
        return Rivals()
    if settings.pruner != "asha":
        return OptunaPruner(settings, space.objective, n_evaluations=n_evaluations)
    trials = study.get_trials(deepcopy=False)
    n_before = sum(trial.state is not TrialState.WAITING for trial in trials)
    halving = Halving(
        space.objective,
        rungs=rung_indices(settings.rungs, n_evaluations),
        n_evaluations=n_evaluations,
        factor=settings.factor,
        min_peers=settings.min_peers,
        standard_errors=settings.standard_errors,
        # Those that have run may lie outside of a search that was changed since.
        n_trials=min(space.settings.budget.trials or math.inf, n_before + space.n_points),
    )
    rivals = AshaPruner(halving)
    for trial in trials:
        curve = [EvalPoint(**point) for point in curve_of(trial)]
        for n in range(1, len(curve) + 1):
            rivals.hear(trial.number, curve[:n])
        if trial.user_attrs.get(OUTCOME) in WITHOUT_VALUE:
            rivals.lost(trial.number)
    return rivals


def rungs_of(space: Space) -> tuple[int, ...]:
    """Return the evaluations at which trials are compared row by row, to tell noise."""
    settings, n_evaluations = space.settings.pruning.outclassed, space.settings.evaluate.times
    if not settings or settings.pruner != "asha" or not space.objective.is_eval_loss:
        return ()
    return rung_indices(settings.rungs, n_evaluations) if settings.standard_errors else ()
