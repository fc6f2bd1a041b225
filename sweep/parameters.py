"""The hyperparameters that can be searched, and the domains a space may give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = bool | int | float | str


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
    names: tuple[str, ...] = ()
    """The values of a str."""

    def problem(self, value: Any) -> str | None:
        """Say why `value` cannot be, or None."""
        if self.kind is bool:
            return None if isinstance(value, bool) else f"must be true or false, not {value!r}"
        if self.kind is str:
            if value in self.names:
                return None
            return f"must be one of {', '.join(self.names)}, not {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"must be a number, not {value!r}"
        if self.kind is int and not isinstance(value, int):
            return f"must be a whole number, not {value!r}"
        if not math.isfinite(value):
            return f"must be finite, not {value!r}"
        if not value > self.above:
            return f"must be above {self.above:g}, not {value!r}"
        if value > self.at_most:
            return f"must be at most {self.at_most:g}, not {value!r}"
        return None


JUST_BELOW_0 = -1e-300
"""As `above`: zero itself is allowed."""
JUST_BELOW_1 = math.nextafter(1.0, 0.0)
"""As `at_most`: one itself is not allowed."""

HYPERPARAMETERS: Mapping[str, Hyperparameter] = {
    "rank": Hyperparameter(int, 16, "LoRA rank", above=0, at_most=4096),
    "alpha": Hyperparameter(float, None, "LoRA scale is alpha / rank; default alpha = rank", 0),
    "learning_rate": Hyperparameter(float, 2e-4, "peak of the schedule", above=0, at_most=1),
    "epochs": Hyperparameter(float, 1, "passes over the training rows", above=0, at_most=1000),
    "effective_batch_size": Hyperparameter(int, 16, "sequences per step", 0, 65536),
    "dropout": Hyperparameter(float, 0.0, "on the adapter's input", JUST_BELOW_0, JUST_BELOW_1),
    "warmup_ratio": Hyperparameter(
        float, 0.03, "share of steps with a rising rate", JUST_BELOW_0, JUST_BELOW_1
    ),
    "weight_decay": Hyperparameter(float, 0.0, "of AdamW", JUST_BELOW_0, at_most=10),
    "lr_scheduler": Hyperparameter(
        str,
        "cosine",
        "shape of the learning rate",
        names=("cosine", "linear", "constant", "warmup_stable_decay"),
    ),
    "max_grad_norm": Hyperparameter(float, 1.0, "gradients are clipped to this norm", above=0),
    "target_modules": Hyperparameter(
        str, "all-linear", "where adapters sit", names=("all-linear", "attention", "mlp", "qv")
    ),
    "use_rslora": Hyperparameter(bool, False, "scale by alpha / sqrt(rank)"),
    "neftune_alpha": Hyperparameter(float, 0.0, "noise on embeddings; 0 is off", JUST_BELOW_0),
    "max_length": Hyperparameter(int, 1024, "tokens of a training row", above=1),
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
        return isinstance(value, int | float) and self.low <= value <= self.high

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
        others = [Problem((name, key), "stands alone: times_rank takes no company") for key in raw]
        factor, problems = _parse(
            (name, "times_rank"), Hyperparameter(float, 1.0, "", above=0), raw["times_rank"]
        )
        problems += others[1:] if len(others) > 1 else []
        return (TimesRank(factor) if factor and not problems else None), problems
    return _parse((name,), HYPERPARAMETERS[name], raw)


def _parse(
    path: tuple[str | int, ...], hyperparameter: Hyperparameter, raw: Any
) -> tuple[Choices | Range | None, list[Problem]]:
    if isinstance(raw, Mapping):
        return _parse_range(path, hyperparameter, raw)
    values = raw if isinstance(raw, list) else [raw]
    if not values:
        return None, [Problem(path, "an empty list: give at least one value.")]
    problems = []
    for index, value in enumerate(values):
        where = (*path, index) if isinstance(raw, list) else path
        if words := hyperparameter.problem(value):
            problems.append(Problem(where, f"{words}."))
        elif value in values[:index]:
            problems.append(Problem(where, f"{value!r} stands twice; remove one."))
    if problems:
        return None, problems
    choices = Choices(tuple(values))
    return (Choices(tuple(sorted(values))) if choices.is_ordered else choices), []


def _parse_range(
    path: tuple[str | int, ...], hyperparameter: Hyperparameter, raw: Mapping[str, Any]
) -> tuple[Range | None, list[Problem]]:
    if hyperparameter.kind in (bool, str):
        return None, [Problem(path, "has no order, so no range: give a list of values.")]
    problems = [
        Problem((*path, key), "no such key of a range; it has min, max, log and step.")
        for key in raw
        if key not in ("min", "max", "log", "step")
    ]
    for key in ("min", "max"):
        if key not in raw:
            problems.append(Problem(path, f"a range needs {key}: write {{min: …, max: …}}."))
        elif words := hyperparameter.problem(raw[key]):
            problems.append(Problem((*path, key), f"{words}."))
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        problems.append(Problem((*path, "log"), f"must be true or false, not {log!r}."))
    if step is not None and (
        isinstance(step, bool) or not isinstance(step, int | float) or not step > 0
    ):
        problems.append(Problem((*path, "step"), f"must be a number above 0, not {step!r}."))
    if log is True and step is not None:
        problems.append(Problem((*path, "step"), "a log range has no step; remove one of the two."))
    if hyperparameter.kind is int and isinstance(step, float) and not step.is_integer():
        problems.append(Problem((*path, "step"), f"must be a whole number, not {step!r}."))
    if problems:
        return None, problems
    low, high = raw["min"], raw["max"]
    if not low < high:
        words = f"min ({low:g}) must be below max ({high:g})."
        return None, [Problem(path, words)]
    if log and not low > 0:
        return None, [Problem((*path, "min"), f"a log range begins above 0, not at {low:g}.")]
    return Range(low, high, log, step, hyperparameter.kind is int), []
