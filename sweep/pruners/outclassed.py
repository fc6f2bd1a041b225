"""The rule that compares a trial with its peers, as the space sets it."""

from __future__ import annotations

import math

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from sweep.space.settings import Outclassed as OutclassedSettings
from trials.config import BY_EVAL_LOSS, EvalPoint, Objective


class Outclassed:
    """Is the trial hopeless beside its peers at the same share of their runs? Optuna's pruner says.

    Args:
        inner: Optuna's own pruner.
        objective: Of the study.
        min_peers: Other trials that must have reached the step before a verdict counts: with
            fewer, halving would stop the second trial for being worse than the first.
    """

    def __init__(self, inner: BasePruner, objective: Objective, *, min_peers: int) -> None:
        if min_peers < 1:
            raise ValueError(f"min_peers must be at least 1, got {min_peers}.")
        self._inner = inner
        self._objective = objective
        self._min_peers = min_peers

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
            f"{self._objective.opening} {point.value:.4f} at step {point.step} ranks "
            f"{place} of {len(peers) + 1} trials at this share of their runs; the best had "
            f"{min(peers, key=key):.4f}."
        )


def make_outclassed(
    settings: OutclassedSettings, objective: Objective = BY_EVAL_LOSS
) -> Outclassed:
    """The configured pruner; its steps are evaluations, shares of a trial's own run."""
    inner: BasePruner
    if settings.pruner == "median":
        inner = optuna.pruners.MedianPruner(n_startup_trials=settings.min_peers)
    elif settings.pruner == "percentile":
        inner = optuna.pruners.PercentilePruner(
            settings.percentile, n_startup_trials=settings.min_peers
        )
    elif settings.pruner == "hyperband":
        inner = optuna.pruners.HyperbandPruner(reduction_factor=settings.factor)
    else:
        # With K = 20 and a factor of 4 the cuts lie at 5, 20 and 80 % of a trial's own run.
        inner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=settings.factor
        )
    return Outclassed(inner, objective, min_peers=settings.min_peers)
