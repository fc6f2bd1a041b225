"""A sampler that never draws a point twice."""

import itertools
import math
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from sweep.samplers.gp import Gp
from sweep.samplers.search_space import Params
from sweep.samplers.tpe import Tpe


class WithoutRepeats(BaseSampler):
    """Never draws a point that the study has, as long as there is another.

    A trial on the same point would give the same losses again: it teaches nothing and costs a
    whole trial. Optuna's samplers do draw it again when the points of a space are few.

    Args:
        inner: Asked first; its draw stands unless the study has it.
        space: All that is sampled, each with a countable number of values.
    """

    N_DRAWS = 20
    """Draws from `inner` before a point is picked among those left."""
    N_FREE = 24
    """Points left that TPE may choose from then: as many as its candidates."""

    def __init__(
        self, inner: BaseSampler, space: Mapping[str, BaseDistribution], *, seed: int
    ) -> None:
        self._inner = inner
        self._space = dict(space)
        self._rng = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: a point is only new or old as a whole."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a new point, drawn by the inner sampler if it finds one."""
        if not search_space:
            return {}
        taken = points_taken(study, search_space, except_number=trial.number)
        if isinstance(self._inner, Tpe):
            self._inner.is_taken = lambda point: _point(point, search_space) in taken
        elif isinstance(self._inner, Gp):
            self._inner.candidates = free_points(search_space, taken)
        inner_space = self._inner.infer_relative_search_space(study, trial)
        for _ in range(self.N_DRAWS):
            params = self._inner.sample_relative(study, trial, inner_space)
            for name, distribution in search_space.items():
                if name not in params:
                    params[name] = self._inner.sample_independent(study, trial, name, distribution)
            if _point(params, search_space) not in taken:
                return params
        if not isinstance(self._inner, Tpe):
            return free_point(search_space, taken, self._rng) or params
        free = [free_point(search_space, taken, self._rng) for _ in range(self.N_FREE)]
        return dict(self._inner.best_of(free)) if free[0] else params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter outside the space, or one that an enqueued trial leaves open."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


def values_of(distribution: BaseDistribution) -> list[Any]:
    """All values of a countable distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution) and distribution.step is not None
    low, high, step = distribution.low, distribution.high, distribution.step
    # 0.1 + 6 x 0.1 is just above 0.7, and outside the distribution.
    return [min(low + i * step, high) for i in range(round((high - low) / step) + 1)]


MOST_LISTED = 4096
"""Points of a space that are listed, at most: it takes milliseconds."""


def free_points(
    space: Mapping[str, BaseDistribution], taken: Set[tuple[Any, ...]]
) -> list[dict[str, Any]]:
    """Return all points that are not taken, or none where there are too many points to list."""
    values = [values_of(distribution) for distribution in space.values()]
    if math.prod(map(len, values)) > MOST_LISTED:
        return []
    points = (dict(zip(space, point, strict=True)) for point in itertools.product(*values))
    return [point for point in points if _point(point, space) not in taken]


def free_point(
    space: Mapping[str, BaseDistribution], taken: Set[tuple[Any, ...]], chance: np.random.Generator
) -> dict[str, Any]:
    """Return one of the points that are not taken; empty when all are.

    Points are counted, not listed: there may be millions.
    """
    values = {name: values_of(distribution) for name, distribution in space.items()}
    places = [
        {_counted(value, space[name]): place for place, value in enumerate(values[name])}
        for name in space
    ]
    sizes = tuple(map(len, places))
    n_free = math.prod(sizes) - len(taken)
    if n_free <= 0:
        return {}
    chosen = int(chance.integers(n_free))
    numbers = (
        np.ravel_multi_index([at[value] for at, value in zip(places, point, strict=True)], sizes)
        for point in taken
    )
    for number in sorted(map(int, numbers)):
        if number > chosen:
            break
        chosen += 1
    point = np.unravel_index(chosen, sizes)
    return {name: values[name][int(place)] for name, place in zip(space, point, strict=True)}


def _point(params: Params, space: Mapping[str, BaseDistribution]) -> tuple[Any, ...]:
    return tuple(_counted(params[name], distribution) for name, distribution in space.items())


def _counted(value: Any, distribution: BaseDistribution) -> Any:
    """A float as its number of steps: samplers differ in its last digit."""
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return round((value - distribution.low) / distribution.step)
    return value


def points_taken(
    study: optuna.Study, space: Mapping[str, BaseDistribution], except_number: int | None = None
) -> set[tuple[Any, ...]]:
    """The points of the study's trials, whatever their state."""
    return {
        _point(trial.params, space)
        for trial in study.get_trials(deepcopy=False)
        if trial.number != except_number and all(name in trial.params for name in space)
    }
