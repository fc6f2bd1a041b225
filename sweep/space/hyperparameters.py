"""The hyperparameters that can be searched, and the domains a space may give them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.space import target_modules
from trials.config import PRESETS

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
    other: Callable[[Any], str | None] | None = None
    """Says why any other value of a str cannot be, or None; without it no other can."""

    def problem(self, value: Any) -> str | None:
        """Say why `value` cannot be, or None."""
        if self.kind is bool:
            return None if isinstance(value, bool) else f"must be true or false, not {shown(value)}"
        if self.kind is str:
            if self.other is not None:
                return self.other(value)
            if value in self.names:
                return None
            return f"must be one of {', '.join(self.names)}, not {shown(value)}"
        if not is_number(value):
            mend = "; remove the quotation marks" if _is_quoted_number(value) else ""
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
    "alpha": Hyperparameter(float, None, "the adapter is scaled by alpha / rank", 0, 1e6),
    "learning_rate": Hyperparameter(float, 2e-4, "peak of the schedule", above=0, at_most=1),
    "epochs": Hyperparameter(
        float, 1, "passes over the training rows; may be fractional", above=0, at_most=1000
    ),
    "effective_batch_size": Hyperparameter(
        int,
        16,
        "rows per optimizer step, in as many passes as memory needs, on all GPUs of the trial",
        0,
        65536,
    ),
    "dropout": Hyperparameter(float, 0.0, "dropout on the adapter's input", at_least=0, below=1),
    "warmup_ratio": Hyperparameter(
        float, 0.03, "share of the steps spent on warm-up", at_least=0, below=1
    ),
    "weight_decay": Hyperparameter(float, 0.0, "weight decay of AdamW", at_least=0, at_most=10),
    "lr_scheduler": Hyperparameter(
        str,
        "cosine",
        "learning rate schedule; all begin with a warm-up",
        names=("cosine", "linear", "constant", "warmup_stable_decay"),
    ),
    "max_grad_norm": Hyperparameter(float, 1.0, "norm at which gradients are clipped", above=0),
    "target_modules": Hyperparameter(
        str,
        "all-linear",
        "adapted layers: a preset, a list of module names, or `re:` and a pattern of full names",
        names=PRESETS,
        other=target_modules.problem,
    ),
    "experts": Hyperparameter(
        bool, False, "adapt routed experts too (mixture of experts); needs dropout 0 and no DoRA"
    ),
    "use_rslora": Hyperparameter(bool, False, "scale by alpha / √rank instead"),
    "use_dora": Hyperparameter(
        bool,
        False,
        "train magnitude and direction of the weights separately (DoRA); slower, needs more memory",
    ),
    "neftune_alpha": Hyperparameter(
        float, 0.0, "noise added to the embeddings in training; 0: off", at_least=0, at_most=1000
    ),
    "max_length": Hyperparameter(
        int, 1024, "as `data.max_length`; give one of the two", above=1, at_most=LONGEST
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a space: where (keys and list indices), and what in words."""

    path: tuple[str | int, ...]
    words: str
    place: str = ""
    """Of a key that is not ours: the dotted key that it leads to."""
    order: int = 0
    """Problems with a lower one are told first."""
    listed: str = ""
    """The end of the words that is told once at most."""
