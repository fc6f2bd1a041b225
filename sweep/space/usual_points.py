"""The usual points of a space: where a sweep begins, and what fills in a point that says little."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweep.space.domains import Choices, Domain, Range, TimesRank, is_fixed
from sweep.space.hyperparameters import HYPERPARAMETERS, Value

KNOWN_GOOD: Mapping[str, Value] = {"rank": 16, "alpha": 16.0, "learning_rate": 2e-4, "epochs": 1}
"""Where most practitioners begin (QLoRA, Dettmers et al., 2023; the Unsloth guides)."""

PUBLISHED_RATES = (3e-4, 1e-3)
"""The best learning rates of LoRA for 14 and for 10 of 27 models (Tinker cookbook)."""
SMALL, LARGE = 2e9, 30e9
"""Parameters. Of the models measured there, 1B did best at 1e-3, 8B at 3e-4 by a little, and 70B
diverged at 1e-3 with every rank (sft_sweep.md)."""


@dataclass(frozen=True, slots=True)
class Start:
    """A point that is tried first; the sampler fills in what it leaves out."""

    values: Mapping[str, Value]
    origin: str
    """Where it comes from, in words."""
    is_usual: bool = False
    """It is ours and not the user's wish: it begins a study and joins none."""
    sweep: str | None = None
    """The name of the earlier sweep that it is of; None: it is of none."""


def usual_starts(domains: Mapping[str, Domain], base_model: str) -> list[Start]:
    """The usual first trials: the known-good one, then it with the best rates of other models.

    Each value is moved to the nearest that the space holds, and no point stands twice.

    Args:
        base_model: Its name may say how large it is, as `org/model-8b` does.
    """
    point = known_good(domains)
    starts = [Start(point, "known-good", is_usual=True)]
    for rate in published_rates(base_model):
        values = {**point, "learning_rate": _nearest_usual_rate(domains, rate)}
        if all(values != start.values for start in starts):
            starts.append(Start(values, f"published rate {rate:g}", is_usual=True))
    return starts


def published_rates(base_model: str) -> Sequence[float]:
    """The best learning rates of other models, the one of those of this size first."""
    size = parameters_in(base_model)
    if size is None or SMALL <= size < LARGE:
        return PUBLISHED_RATES
    return PUBLISHED_RATES[::-1] if size < SMALL else PUBLISHED_RATES[:1]


def parameters_in(base_model: str) -> float | None:
    """How many parameters a model has by its name: 8e9 of `org/model-8B-it`; None: unknown."""
    name = base_model.rstrip("/").rpartition("/")[2]
    found = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([mb])(?![a-z0-9])", name, re.IGNORECASE)
    return float(found[1]) * {"m": 1e6, "b": 1e9}[found[2].lower()] if found else None


def known_good(domains: Mapping[str, Domain]) -> dict[str, Value]:
    """The usual first trial, each value moved to the nearest that the space holds."""
    return _nearest_usual(domains, KNOWN_GOOD, {})


def filled_in(domains: Mapping[str, Domain], given: Mapping[str, Value]) -> dict[str, Value]:
    """Every hyperparameter: as given, else the nearest to its usual value that the space holds."""
    return _nearest_usual(domains, HYPERPARAMETERS, given)


def within(domains: Mapping[str, Domain], point: Mapping[str, Value]) -> dict[str, Value]:
    """What a space searches of a point from elsewhere, each value moved to the nearest it holds.

    A name that is not in the space's list is left out, and alpha where the rank is not known. A
    fixed rank stands beside the others, as alpha may be a multiple of it. Empty: nothing is left.
    """
    moved: dict[str, Value] = {}
    for name, domain in domains.items():  # the rank comes before alpha
        if name not in point or (is_fixed(domain) and name != "rank"):
            continue
        value = point[name]
        if isinstance(domain, TimesRank):
            if "rank" in point:
                factor = _nearest(domain.factor, float(value) / float(point["rank"]))
                moved[name] = float(factor) * float(moved["rank"])
        elif isinstance(domain, Range) or domain.is_ordered or value in domain:
            moved[name] = _nearest(domain, value)
    is_searched = any(not is_fixed(domains[name]) for name in moved)
    return moved if is_searched else {}


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


def _nearest_usual_rate(domains: Mapping[str, Domain], rate: float) -> Value:
    domain = domains["learning_rate"]
    assert not isinstance(domain, TimesRank), "only alpha is a multiple of the rank"
    return _nearest(domain, rate)


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
