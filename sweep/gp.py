"""Optuna's Gaussian process, for studies in which most trials are stopped early."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class Gp(GPSampler):
    """A Gaussian process that learns from stopped trials too.

    Optuna's own sees COMPLETE trials alone: where three in four are stopped it would draw at random
    for the first forty, and come back to where others were stopped. Trials that run are in its
    acquisition function (qLogEI) as they are.
    """

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the draw; empty, for one at random, while fewer than 10 trials have ended."""
        return super().sample_relative(_Judged(study), trial, search_space)


class _Judged(optuna.Study):
    """A study in which a stopped trial is worth what the worst COMPLETE one is worth."""

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, None, use_cache)
        judged = _judged(trials, self.direction)
        return [trial for trial in judged if states is None or trial.state in states]


def _judged(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Put stopped trials behind all others, as TPE does.

    Their own last values would not do: they are those of half-trained models, and may be infinite.
    """
    values = [t.value for t in trials if t.state is TrialState.COMPLETE and t.value is not None]
    if not values:
        return list(trials)
    worst = min(values) if direction is StudyDirection.MAXIMIZE else max(values)
    return [_worth(t, worst) if t.state is TrialState.PRUNED else t for t in trials]


def _worth(trial: FrozenTrial, value: float) -> FrozenTrial:
    told = copy.copy(trial)
    told.state, told.values = TrialState.COMPLETE, [value]
    return told
