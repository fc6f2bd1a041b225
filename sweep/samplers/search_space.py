"""The search space in Optuna's words: distributions, sampled values → hyperparameters, samplers."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence, Set
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
from optuna.trial import FrozenTrial, TrialState

from sweep.samplers.gp import Gp
from sweep.samplers.qmc import Qmc
from sweep.samplers.tpe import Observed, Tpe
from sweep.space.hyperparameters import Choices, Domain, Range, TimesRank, Value, is_fixed
from sweep.space.loading import Space
from sweep.space.yaml_file import SpaceError

Params = Mapping[str, Any]


def optuna_name(name: str, domain: Domain) -> str:
    """The name of a hyperparameter among those sampled: it says what the sampled number counts.

    A list of numbers is sampled by its index, so that the sampler knows the order and every
    step is one step: `rank_index` 2 of [8, 16, 32, 64] is rank 32.
    """
    if isinstance(domain, TimesRank):
        return optuna_name(f"{name}_times_rank", domain.factor)
    if isinstance(domain, Choices) and domain.is_ordered:
        return f"{name}_index"
    return name


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """What is sampled; fixed settings are not part of it."""
    return {
        optuna_name(name, domain): _distribution(domain)
        for name, domain in space.domains.items()
        if not is_fixed(domain)
    }


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, TimesRank):
        return _distribution(domain.factor)
    if isinstance(domain, Choices):
        if domain.is_ordered:
            return IntDistribution(0, len(domain.values) - 1)
        return CategoricalDistribution(domain.values)
    if domain.is_integer:
        return IntDistribution(
            int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def hyperparameters(
    space: Space, params: Params, given: Mapping[str, Value] | None = None
) -> dict[str, Any]:
    """Turn what was sampled into the value of every hyperparameter, fixed ones included.

    Args:
        given: Values that stand as they are, whatever the space holds.
    """
    values: dict[str, Any] = {}
    for name, domain in space.domains.items():
        if given and name in given:
            values[name] = given[name]
        elif isinstance(domain, TimesRank):
            factor = _value(f"{name}_times_rank", domain.factor, params)
            values[name] = factor * values["rank"]
        else:
            values[name] = _value(name, domain, params)
    return values


def _value(name: str, domain: Choices | Range, params: Params) -> Any:
    if is_fixed(domain) and isinstance(domain, Choices):
        return domain.values[0]
    sampled = params[optuna_name(name, domain)]
    if isinstance(domain, Choices) and domain.is_ordered:
        return domain.values[sampled]
    return sampled


def params_of(space: Space, values: Mapping[str, Value]) -> dict[str, Any]:
    """Turn hyperparameters (some of them) into what is sampled.

    Fixed ones are left out, and so are values that the space does not hold.
    """
    params = {
        optuna_name(name, domain): _coordinate(domain, name, values)
        for name, domain in space.domains.items()
        if name in values and not is_fixed(domain)
    }
    return {name: param for name, param in params.items() if param is not None}


def outside(space: Space, values: Mapping[str, Value]) -> list[str]:
    """Names of the hyperparameters (of those given) whose values the space does not hold."""
    return [
        name
        for name, domain in space.domains.items()
        if name in values and _coordinate(domain, name, values) is None
    ]


def is_within(space: Space, point: Mapping[str, Value]) -> bool:
    """Whether a point, a value for every hyperparameter, is one of the space."""
    return not outside(space, point) and point.keys() >= space.domains.keys()


def _coordinate(domain: Domain, name: str, values: Mapping[str, Value]) -> Any:
    """Return a value as the sampler counts it, or None: the domain does not hold it.

    Numbers may differ by what a product with the rank and its quotient lose.
    """
    value = values[name]
    if isinstance(domain, TimesRank):
        if "rank" not in values:
            return None
        domain, value = domain.factor, float(value) / float(values["rank"])
    if isinstance(domain, Range):
        return _in_range(domain, float(value))
    if not domain.is_ordered:
        return value if value in domain else None
    near = (i for i, held in enumerate(domain.values) if _is_same(float(held), float(value)))
    return next(near, None)


def _in_range(domain: Range, value: float) -> float | None:
    clipped = min(max(value, domain.low), domain.high)
    if not _is_same(clipped, value):
        return None
    step = domain.step or (1 if domain.is_integer else None)
    n_steps = (clipped - domain.low) / step if step else 0.0
    if not math.isclose(n_steps, round(n_steps), abs_tol=1e-8):
        return None
    return round(clipped) if domain.is_integer else float(clipped)


def _is_same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9)


def make_sampler(space: Space, number: int, observed: Observed | None = None) -> BaseSampler:
    """The sampler for trial `number` of a space; repeats no point where points can be counted.

    Seeded for each trial, so that what is drawn depends on the study and the number alone: a
    sweep that was interrupted draws what an undisturbed one would have drawn.

    Args:
        observed: What the sampler for an earlier trial of the study has seen; None: all is new.
    """
    searched = distributions(space)
    direction = optuna.study.StudyDirection[space.objective.direction.upper()]
    seed = int(np.random.SeedSequence([space.settings.seed, number]).generate_state(1)[0])
    samplers: dict[str, Any] = {
        "tpe": lambda: Tpe(observed or Observed(searched, direction), seed=seed),
        "gp": lambda: Gp(seed=seed),
        "qmc": lambda: Qmc(searched, number, seed=space.settings.seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "grid": lambda: optuna.samplers.RandomSampler(seed=seed),  # without repeats it is a grid
    }
    sampler: BaseSampler = samplers[space.settings.sampler]()
    if math.isinf(space.n_points):
        return sampler
    return WithoutRepeats(sampler, searched, seed=seed)


_NEEDED: Mapping[str, Sequence[str]] = {"gp": ("scipy", "torch"), "qmc": ("scipy",)}
"""What a sampler imports when it draws: for gp that is ten trials after the start."""


def check_sampler(space: Space) -> None:
    """See that the sampler of a space can work here.

    Raises:
        SpaceError: A package that it needs cannot be imported.
    """
    sampler = space.settings.sampler
    for package in _NEEDED.get(sampler, ()):
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:  # OSError: a library of its own that is missing
            raise SpaceError(
                f"sampler: {sampler} needs the package {package}, which cannot be imported here "
                f"({error}). Install it anew (pip install -c constraints.txt {package}), or choose "
                f"another sampler: tpe needs nothing."
            ) from None


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

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Passed on."""
        self._inner.after_trial(study, trial, state, values)


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
