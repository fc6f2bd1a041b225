"""`Earlier`: what `start_from` takes from an earlier sweep."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.study.ended import StoredTrial
from trials.config import Objective


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier sweep, of a folder or of MLflow."""

    name: str
    objective: Objective
    best: Sequence[StoredTrial]
    """The best few trials whose value counts, the best first."""
