"""The search space in Optuna's words: distributions, sampled values → hyperparameters, samplers."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweep.space.domains import Choices, Domain, Range, TimesRank, is_fixed
from sweep.space.hyperparameters import Value
from sweep.space.space import Space

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
