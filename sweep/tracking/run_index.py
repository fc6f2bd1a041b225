"""Which MLflow run belongs to which trial."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Child:
    """What is remembered of a trial's run."""

    run_id: str
    artifact_uri: str
    steps: set[int] = field(default_factory=set)
    """Optimizer steps whose evaluation is logged already."""
    best: float = math.inf
    """The lowest eval loss after step 0; infinite before the first."""
    may_end: bool = True
    """It runs, or is paused: an end is yet to come."""
    may_have_adapter: bool = False


def run_may_end(run: Any) -> bool:
    return bool(run.info.status == "RUNNING" or run.data.tags.get("outcome") == "paused")
