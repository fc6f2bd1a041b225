"""Optuna's quasi-Monte Carlo points, each trial's by its number."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import QMCSampler, RandomSampler
from optuna.trial import FrozenTrial


class Qmc(QMCSampler):
    """The points of one scrambled Sobol sequence, from a place in it on.

    Optuna's own keeps its place among the study's attributes. The trial's number says it as well,
    and stays right when a process dies between a draw and its trial.

    Args:
        space: All that is sampled.
        place: Of the first draw; a draw that is made again is the next one of the sequence.
        seed: Of the sequence, so the same for all trials of a study.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], place: int, *, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, independent_sampler=RandomSampler(seed))
        self._space = dict(space)
        self._place = place

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: the first trial's point too is one of the sequence."""
        return self._space

    def _find_sample_id(self, study: optuna.Study, search_space: Mapping[str, Any]) -> int:
        self._place += 1
        return self._place - 1
