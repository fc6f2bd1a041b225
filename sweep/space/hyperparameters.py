"""The hyperparameters that can be searched, and the domains a space may give them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Value = bool | int | float | str

LONGEST = 2**24
"""Tokens of a row: more than any model reads."""


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """One setting of a trial that a space may fix or search."""

    kind: type
    """int, float, bool or str."""
    default: Value | None
    """The value where the space says nothing; None: derived from another setting."""
    meaning: str
    above: float = -math.inf
    """Values must be above this."""
    at_most: float = math.inf
    at_least: float = -math.inf
    below: float = math.inf
    names: tuple[str, ...] = ()
    """The values of a str."""

    def problem(self, value: Any) -> str | None:
        """Say why `value` cannot be, or None."""
        if self.kind is bool:
            return None if isinstance(value, bool) else f"must be true or false, not {shown(value)}"
        if self.kind is str:
            if value in self.names:
                return None
            return f"must be one of {', '.join(self.names)}, not {shown(value)}"
        if not is_number(value):
            mend = "; take the quotation marks away" if _is_quoted_number(value) else ""
            return f"must be a number, not {shown(value)}{mend}"
        if not math.isfinite(value):
            return f"must be finite, not {value!r}"
        if self.kind is int and not isinstance(value, int):
            mend = f"; write {value:.0f}" if value.is_integer() else ""
            return f"must be a whole number, not {value!r}{mend}"
        return self._out_of_bounds(value)

    def _out_of_bounds(self, value: float) -> str | None:
        if not value > self.above:
            return f"must be above {self.above:g}, not {value!r}"
        if not value >= self.at_least:
            return f"must be at least {self.at_least:g}, not {value!r}"
        if not value <= self.at_most:
            return f"must be at most {self.at_most:g}, not {value!r}"
        if not value < self.below:
            return f"must be below {self.below:g}, not {value!r}"
        return None


def is_number(value: object) -> bool:
    """Whether YAML read a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value in a message, as a person wrote it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:59]}…")
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, Mapping):
        return "keys and values"
    return "nothing" if value is None else str(value)


def _is_quoted_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "rank": Hyperparameter(int, 16, "LoRA rank", above=0, at_most=4096),
    "alpha": Hyperparameter(float, None, "the adapter's scale is alpha / rank", 0, 1e6),
    "learning_rate": Hyperparameter(float, 2e-4, "peak of the schedule", above=0, at_most=1),
    "epochs": Hyperparameter(
        float, 1, "passes over the training rows; may be a fraction", above=0, at_most=1000
    ),
    "effective_batch_size": Hyperparameter(
        int,
        16,
        "rows per optimizer step: micro-batch × accumulation steps × GPUs of the trial",
        0,
        65536,
    ),
    "dropout": Hyperparameter(float, 0.0, "on the adapter's input", at_least=0, below=1),
    "warmup_ratio": Hyperparameter(
        float, 0.03, "share of the steps in which the learning rate rises", at_least=0, below=1
    ),
    "weight_decay": Hyperparameter(float, 0.0, "of AdamW", at_least=0, at_most=10),
    "lr_scheduler": Hyperparameter(
        str,
        "cosine",
        "shape of the learning rate; all begin with the warm-up",
        names=("cosine", "linear", "constant", "warmup_stable_decay"),
    ),
    "max_grad_norm": Hyperparameter(float, 1.0, "gradients are clipped to this norm", above=0),
    "target_modules": Hyperparameter(
        str, "all-linear", "where adapters sit", names=("all-linear", "attention", "mlp", "qv")
    ),
    "use_rslora": Hyperparameter(bool, False, "scale by alpha / √rank instead"),
    "use_dora": Hyperparameter(
        bool,
        False,
        "train the weights' magnitudes apart from their directions (DoRA); slower, and more memory",
    ),
    "neftune_alpha": Hyperparameter(
        float, 0.0, "noise on the embeddings while training; 0 is off", at_least=0, at_most=1000
    ),
    "max_length": Hyperparameter(
        int, 1024, "as `data.max_length`; give one of the two", above=1, at_most=LONGEST
    ),
}


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
        return ", ".join(_shown(v) for v in self.values)


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


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a space: where (keys and list indices), and what in words."""

    path: tuple[str | int, ...]
    words: str


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
        mend = "remove it; a range is written {times_rank: {min: …, max: …}}"
        problems += [
            Problem((name, key), f"no such key beside times_rank: {mend}.")
            for key in raw
            if key != "times_rank"
        ]
        return (TimesRank(factor) if factor and not problems else None), problems
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
            problems.append(Problem(where, f"{value!r} stands twice; remove one."))
    if problems:
        return None, problems
    choices = Choices(tuple(values))
    return (Choices(tuple(sorted(values))) if choices.is_ordered else choices), []


def _value_problem(hyperparameter: Hyperparameter, value: Any) -> str | None:
    if isinstance(value, Mapping) and "times_rank" in value:
        return "times_rank stands in no list: write alpha: {times_rank: [1, 2]}"
    return hyperparameter.problem(value)


RANGE_KEYS = ("min", "max", "log", "step")
OFTEN_MEANT = {"low": "min", "lower": "min", "high": "max", "upper": "max", "log_uniform": "log"}
"""Keys of ranges elsewhere, and ours."""


def _parse_range(
    path: tuple[str | int, ...], hyperparameter: Hyperparameter, raw: Mapping[str, Any]
) -> tuple[Range | None, list[Problem]]:
    if hyperparameter.kind in (bool, str):
        return None, [Problem(path, "has no order, so no range: give a list of values.")]
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


def _unknown_range_key(key: str, path: Sequence[str | int]) -> str:
    if key == "times_rank":
        return "only alpha can be a multiple of the rank; give a value, a list or a range."
    known = [*RANGE_KEYS, "times_rank"] if path == ("alpha",) else list(RANGE_KEYS)
    near = [OFTEN_MEANT[key]] if key in OFTEN_MEANT else difflib.get_close_matches(key, known, n=1)
    if near:
        return f"no such key of a range; did you mean `{near[0]}`?"
    return (
        f"no such key of a range; it has {', '.join(RANGE_KEYS[:-1])} and {RANGE_KEYS[-1]}. "
        f"A list of values is written [1, 2]."
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
        problems.append(Problem(where, "a log range has no step; remove one of the two."))
    return problems


def _order_problems(path: tuple[str | int, ...], raw: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the parts of a range beside each other."""
    low, high, step = raw["min"], raw["max"], raw.get("step")
    if not low < high:
        return [Problem(path, f"min ({low:g}) must be below max ({high:g}).")]
    if raw.get("log") and not low > 0:
        return [Problem((*path, "min"), f"a log range begins above 0, not at {low:g}.")]
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
    return [Problem((*path, "max"), f"must be min plus whole steps, not {high!r}; {mend}.")]
