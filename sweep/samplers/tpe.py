"""Optuna's TPE, its draws to the last digit, for a study of ten thousand trials.

The inherited methods sort, compare and convert every parameter of every trial for each draw. Here
that is done once for each trial, as it changes, and the rest with arrays.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import default_gamma
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_COMPLETE, _PRUNED, _INFEASIBLE, _RUNNING, _UNSEEN = range(5)
"""In the order in which TPE prefers them."""


class Observed:
    """What TPE sees of each trial; kept between draws.

    Args:
        space: All that is sampled.
        direction: Of the study.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        direction: StudyDirection = StudyDirection.MINIMIZE,
    ) -> None:
        self.space = space
        self._sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
        self._trials: list[FrozenTrial] = []
        self._ranks = np.empty((0, 3))
        """Of each trial: its kind, and what TPE sorts its kind by."""
        self._points = np.empty((0, len(space)))
        """Of each trial, as Optuna counts; NaN where it has no such parameter."""

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Look at the trials that are not what they were."""
        n_more = max(0, len(trials) - len(self._ranks))
        if n_more:
            n_more += len(trials)  # so that arrays grow seldom
            self._ranks = np.vstack([self._ranks, np.empty((n_more, 3))])
            self._points = np.vstack([self._points, np.empty((n_more, len(self.space)))])
        for number, (known, trial) in enumerate(zip(self._trials, trials, strict=False)):
            if known is not trial:
                self._look_at(number, trial)
        for number in range(len(self._trials), len(trials)):
            self._look_at(number, trials[number])
        self._trials = list(trials)

    def split(self, except_number: int, names: Sequence[str]) -> tuple[Any, Any]:
        """Return the points of the trials that TPE takes for good, and of all others.

        Args:
            except_number: The trial that is asked for.
        """
        ranks = self._ranks[: len(self._trials)].copy()
        ranks[except_number : except_number + 1, 0] = _UNSEEN
        n_finished = int(np.count_nonzero(ranks[:, 0] < _RUNNING))
        order = np.lexsort((ranks[:, 2], ranks[:, 1], ranks[:, 0]))
        n_below = default_gamma(n_finished)
        n_seen = np.count_nonzero(ranks[:, 0] < _UNSEEN)
        columns = [list(self.space).index(name) for name in names]
        below, above = np.sort(order[:n_below]), np.sort(order[n_below:n_seen])
        return self._of(below, columns), self._of(above, columns)

    def _of(self, numbers: Any, columns: Sequence[int]) -> Any:
        points = self._points[np.ix_(numbers, columns)]
        return points[~np.isnan(points).any(axis=1)]

    def _look_at(self, number: int, trial: FrozenTrial) -> None:
        self._ranks[number] = rank(trial, self._sign)
        params = trial.params
        self._points[number] = [
            distribution.to_internal_repr(params[name]) if name in params else math.nan
            for name, distribution in self.space.items()
        ]


def rank(trial: FrozenTrial, sign: float) -> tuple[float, float, float]:
    """What TPE sorts trials by, the best first.

    Args:
        sign: Of the value: 1 where less is better, -1 where more is.
    """
    if trial.state is TrialState.RUNNING:
        return _RUNNING, 0.0, 0.0
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return _UNSEEN, 0.0, 0.0
    violation = sum(value for value in trial.constraints.values() if value > 0)
    if violation > 0:
        return _INFEASIBLE, violation, 0.0
    if trial.state is TrialState.COMPLETE:
        assert trial.value is not None
        return _COMPLETE, sign * trial.value, 0.0
    if not trial.intermediate_values:
        return _PRUNED, 1.0, 0.0
    step, value = max(trial.intermediate_values.items())
    return _PRUNED, -step, math.inf if math.isnan(value) else sign * value


class Tpe(TPESampler):
    """TPE for one draw from a study whose trials all have one space.

    Args:
        observed: Kept from draw to draw, or new.

    Attributes:
        is_taken: Whether a point has been tried already. Of TPE's candidates the best that has not
            is drawn: where points are few, the very best mostly has been.
    """

    N_ROUNDS = 20
    """Of candidates, before one that is taken is drawn."""

    def __init__(self, observed: Observed, *, seed: int) -> None:
        super().__init__(seed=seed)
        self._observed = observed
        self.is_taken: Callable[[Mapping[str, Any]], bool] = lambda point: False
        self._estimators: dict[tuple[str, ...], tuple[Any, Any]] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The space of any trial that has ended is that of all."""
        for known in reversed(study.get_trials(deepcopy=False)):
            if known.state in (TrialState.COMPLETE, TrialState.PRUNED):
                space = sorted(known.distributions.items())
                return {name: dist for name, dist in space if not dist.single()}
        return {}

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        names = tuple(search_space)
        if names not in self._estimators:  # a draw that is made again finds the study as it was
            self._observed.update(study.get_trials(deepcopy=False))
            self._estimators[names] = self._estimate(trial.number, search_space)
        below, above = self._estimators[names]
        for _ in range(self.N_ROUNDS):
            samples = below.sample(self._rng.rng, self._n_ei_candidates)
            gains = below.log_pdf(samples) - above.log_pdf(samples)
            for index in np.argsort(-gains, kind="stable"):
                point = {
                    name: dist.to_external_repr(samples[name][index])
                    for name, dist in search_space.items()
                }
                if not self.is_taken(point):
                    return point
        return point

    def best_of(self, points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the point that TPE would draw if these were its candidates."""
        if not self._estimators:
            return points[0]
        (names, (below, above)), *_ = self._estimators.items()
        space = self._observed.space
        samples = {
            name: np.array([space[name].to_internal_repr(point[name]) for point in points])
            for name in names
        }
        return points[int(np.argmax(below.log_pdf(samples) - above.log_pdf(samples)))]

    def _estimate(self, number: int, search_space: dict[str, BaseDistribution]) -> tuple[Any, Any]:
        below, above = (
            self._parzen_estimator_cls(
                dict(zip(search_space, points.T, strict=True)),
                search_space,
                self._parzen_estimator_parameters,
            )
            for points in self._observed.split(number, list(search_space))
        )
        return below, above
