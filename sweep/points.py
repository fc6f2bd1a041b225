"""The usual point of a space: where a sweep begins, and what fills in a point that says little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sweep.parameters import HYPERPARAMETERS, Choices, Domain, Range, TimesRank, Value

KNOWN_GOOD: Mapping[str, Value] = {"rank": 16, "alpha": 16.0, "learning_rate": 2e-4, "epochs": 1}
"""Where most practitioners begin (QLoRA, Dettmers et al., 2023; the Unsloth guides)."""


def known_good(domains: Mapping[str, Domain]) -> dict[str, Value]:
    """The usual first trial, each value moved to the nearest that the space holds."""
    return _nearest_usual(domains, KNOWN_GOOD, {})


def filled_in(domains: Mapping[str, Domain], given: Mapping[str, Value]) -> dict[str, Value]:
    """Every hyperparameter: as given, else the nearest to its usual value that the space holds."""
    return _nearest_usual(domains, HYPERPARAMETERS, given)


def _nearest_usual(
    domains: Mapping[str, Domain], names: Iterable[str], given: Mapping[str, Value]
) -> dict[str, Value]:
    point: dict[str, Value] = {}
    for name in names:  # the rank comes before alpha
        domain = domains[name]
        if name in given:
            point[name] = given[name]
        elif isinstance(domain, TimesRank):
            point[name] = float(_nearest(domain.factor, 1.0)) * float(point["rank"])
        else:
            usual = KNOWN_GOOD.get(name, HYPERPARAMETERS[name].default)
            assert usual is not None
            point[name] = _nearest(domain, usual)
    return point


def _nearest(domain: Choices | Range, value: Value) -> Value:
    if isinstance(domain, Choices) and not domain.is_ordered:
        return value if value in domain else domain.values[0]
    number = float(value)
    if isinstance(domain, Choices):
        return min(domain.values, key=lambda v: abs(float(v) - number))
    clipped = min(max(number, domain.low), domain.high)
    if domain.step is not None:
        clipped = domain.low + round((clipped - domain.low) / domain.step) * domain.step
    return round(clipped) if domain.is_integer else clipped
