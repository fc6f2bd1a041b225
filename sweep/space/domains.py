"""What a hyperparameter may be: a list, a range, a multiple of the rank, one value."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sweep.space import target_modules
from sweep.space.hyperparameters import (
    HYPERPARAMETERS,
    Hyperparameter,
    Problem,
    Value,
    is_number,
    shown,
)
from trials.config import PATTERN


@dataclass(frozen=True, slots=True)
class Choices:
    """A list of values; a single one is a fixed setting."""

    values: tuple[Value, ...]

    @property
    def is_ordered(self) -> bool:
        """Whether the values are numbers, whose order the sampler should know."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    def __contains__(self, value: object) -> bool:
        return any(type(v) is type(value) and v == value for v in self.values) or (
            self.is_ordered and not isinstance(value, bool) and value in self.values
        )

    def __str__(self) -> str:
        return ", ".join(in_words(v) for v in self.values)


@dataclass(frozen=True, slots=True)
class Range:
    """All values from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    """Sampled evenly in the logarithm."""
    step: float | None
    is_integer: bool

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return self.step is None or math.isclose(steps, round(steps), abs_tol=1e-8)

    def __str__(self) -> str:
        shape = ", log" if self.log else f", step {self.step:g}" if self.step else ""
        return f"{self.low:g} … {self.high:g}{shape}"


@dataclass(frozen=True, slots=True)
class TimesRank:
    """Of alpha: a multiple of the trial's own rank."""

    factor: Choices | Range

    def __str__(self) -> str:
        return f"rank × ({self.factor})"


Domain = Choices | Range | TimesRank


def is_fixed(domain: Domain) -> bool:
    """Whether a domain leaves nothing to search."""
    if isinstance(domain, TimesRank):
        return is_fixed(domain.factor)
    return isinstance(domain, Choices) and len(domain.values) == 1


def in_words(value: Any) -> str:
    """A value by itself: `0.0003`, `[q_proj, v_proj]`."""
    if isinstance(value, str) and "," in value and not value.startswith(PATTERN):
        return f"[{value.replace(',', ', ')}]"  # names of modules, one choice
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_domain(name: str, raw: Any) -> tuple[Domain | None, list[Problem]]:
    """Read what a space says of hyperparameter `name`: a value, a list, a range, or times_rank.

    Returns:
        The domain (None when it has problems) and the problems, with paths below `search`.
    """
    if name == "alpha" and isinstance(raw, Mapping) and "times_rank" in raw:
        factor, problems = _parse(
            (name, "times_rank"),
            Hyperparameter(float, 1.0, "", above=0, at_most=1000),
            raw["times_rank"],
        )
        mend = "remove it; write a range as {times_rank: {min: …, max: …}}"
        problems += [
            Problem((name, key), f"no such key beside times_rank: {mend}.")
            for key in raw
            if key != "times_rank"
        ]
        return (TimesRank(factor) if factor and not problems else None), problems
    if name == "target_modules" and not isinstance(raw, Mapping):
        raw, wrong = target_modules.choices(raw)
        if wrong:
            return None, [Problem((name, *place), words) for place, words in wrong.items()]
        raw = raw[0] if len(raw) == 1 else raw
    return _parse((name,), HYPERPARAMETERS[name], raw)


def _parse(
    path: tuple[str | int, ...], hyperparameter: Hyperparameter, raw: Any
) -> tuple[Choices | Range | None, list[Problem]]:
    if isinstance(raw, Mapping):
        return _parse_range(path, hyperparameter, raw)
    values = raw if isinstance(raw, list) else [raw]
    if not values:
        return None, [Problem(path, "must hold at least one value, not an empty list.")]
    problems = []
    for index, value in enumerate(values):
        where = (*path, index) if isinstance(raw, list) else path
        if words := _value_problem(hyperparameter, value):
            problems.append(Problem(where, f"{words}."))
        elif value in values[:index]:
            problems.append(Problem(where, f"{value!r} is listed twice; remove one."))
    if problems:
        return None, problems
    choices = Choices(tuple(values))
    return (Choices(tuple(sorted(values))) if choices.is_ordered else choices), []


def _value_problem(hyperparameter: Hyperparameter, value: Any) -> str | None:
    if isinstance(value, Mapping) and "times_rank" in value:
        return "times_rank cannot be in a list: write alpha: {times_rank: [1, 2]}"
    return hyperparameter.problem(value)


RANGE_KEYS = ("min", "max", "log", "step")
OFTEN_MEANT = {"low": "min", "lower": "min", "high": "max", "upper": "max", "log_uniform": "log"}
"""Keys of ranges elsewhere, and ours."""


def _parse_range(
    path: tuple[str | int, ...], hyperparameter: Hyperparameter, raw: Mapping[str, Any]
) -> tuple[Range | None, list[Problem]]:
    if mend := _mend_of_call(raw):
        return None, [Problem(path, mend)]
    if hyperparameter.kind in (bool, str):
        return None, [Problem(path, "takes no range, since its values have no order: give a list.")]
    problems = [
        Problem((*path, key), _unknown_range_key(key, path)) for key in raw if key not in RANGE_KEYS
    ]
    needed = [key for key in ("min", "max") if key not in raw]
    if needed and not problems:
        words = f"a range needs {' and '.join(needed)}: write {{min: …, max: …}}."
        problems.append(Problem(path, words))
    for key in ("min", "max"):
        if key in raw and (wrong := hyperparameter.problem(raw[key])):
            problems.append(Problem((*path, key), f"{wrong}."))
    problems += _shape_problems(path, hyperparameter, raw)
    if not problems:
        problems += _order_problems(path, raw)
    if problems:
        return None, problems
    low, high, log, step = raw["min"], raw["max"], raw.get("log", False), raw.get("step")
    return Range(low, high, log, step, hyperparameter.kind is int), []


_CALLS: Mapping[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("choice", "grid_search", "categorical", "suggest_categorical"), ()),
    **dict.fromkeys(("uniform", "randint", "suggest_float", "suggest_int"), ("min", "max")),
    **dict.fromkeys(("loguniform", "lograndint"), ("min", "max", "log")),
    **dict.fromkeys(("quniform", "qrandint"), ("min", "max", "step")),
    **dict.fromkeys(("qloguniform", "qlograndint", "randn", "qrandn", "normal", "sample_from")),
}
"""Functions of Ray and Optuna → the keys of our range; none: a list; None: nothing is like it."""


def _mend_of_call(raw: Mapping[str, Any]) -> str:
    """Say what to write for `{loguniform: [1e-5, 1e-3]}`; empty if this is no such thing."""
    key, given = next(iter(raw.items())) if len(raw) == 1 else ("", None)
    call = str(key).rpartition(".")[2]
    if call not in _CALLS:
        return ""
    keys = _CALLS[call]
    if keys is None:
        return f"{key} has no counterpart here: give a value, a list or a range."
    values = given if isinstance(given, list) else []
    if call in ("randint", "lograndint") and len(values) == 2 and type(values[1]) is int:
        values = [values[0], values[1] - 1]  # Ray leaves the upper end out
    said = [str(value) for value in values]
    if not keys:
        return f"{key} is not said here: write the list, [{', '.join(said or ['…'])}]."
    ends = [key for key in keys if key != "log"]
    said = said if len(said) == len(ends) else ["…"] * len(ends)
    parts = ", ".join(f"{key}: {value}" for key, value in zip(keys, [*said, "true"], strict=False))
    return f"{key} is not said here: write the range, {{{parts}}}."


def _unknown_range_key(key: str, path: Sequence[str | int]) -> str:
    if key == "times_rank":
        return "only alpha can be a multiple of the rank; give a value, a list or a range."
    known = [*RANGE_KEYS, "times_rank"] if path == ("alpha",) else list(RANGE_KEYS)
    near = [OFTEN_MEANT[key]] if key in OFTEN_MEANT else difflib.get_close_matches(key, known, n=1)
    if near:
        return f"no such key of a range; did you mean `{near[0]}`?"
    return (
        f"no such key of a range; it has {', '.join(RANGE_KEYS[:-1])} and {RANGE_KEYS[-1]}. "
        f"Write a list as [1, 2]."
    )


def _shape_problems(
    path: tuple[str | int, ...], hyperparameter: Hyperparameter, raw: Mapping[str, Any]
) -> list[Problem]:
    """What is wrong with log and step by themselves."""
    problems = []
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        problems.append(Problem((*path, "log"), f"must be true or false, not {shown(log)}."))
    if step is None:
        return problems
    where = (*path, "step")
    if not is_number(step) or not (step > 0 and math.isfinite(step)):
        problems.append(Problem(where, f"must be a number above 0, not {shown(step)}."))
    elif hyperparameter.kind is int and not float(step).is_integer():
        problems.append(Problem(where, f"must be a whole number, not {step!r}."))
    if log is True:
        problems.append(Problem(where, "log and step exclude each other; remove one of the two."))
    return problems


def _order_problems(path: tuple[str | int, ...], raw: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the parts of a range beside each other."""
    low, high, step = raw["min"], raw["max"], raw.get("step")
    if not low < high:
        return [Problem(path, f"min ({low:g}) must be below max ({high:g}).")]
    if raw.get("log") and not low > 0:
        return [Problem((*path, "min"), f"must be above 0 in a log range, not {low:g}.")]
    if step is None:
        return []
    # As decimals, as they are written: 0.3 - 0.1 is not 2 x 0.1 among floats.
    exact_low, exact_high, exact_step = (Decimal(str(number)) for number in (low, high, step))
    rest = (exact_high - exact_low) % exact_step
    if not rest:
        return []
    last = exact_high - rest
    ends = [float(end) for end in (last, last + exact_step) if end > exact_low]
    mend = f"write {' or '.join(f'{end:g}' for end in ends)}"
    return [Problem((*path, "max"), f"must be min plus a multiple of step, not {high!r}; {mend}.")]
