"""The best trials of an earlier sweep, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep.space.hyperparameters import Value
from trials.config import Objective


@dataclass(frozen=True, slots=True)
class Best:
    """A trial whose value counts."""

    number: int
    value: float
    hyperparameters: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier sweep."""

    name: str
    objective: Objective
    best: Sequence[Best]
    """The best few trials whose value counts, the best first."""
