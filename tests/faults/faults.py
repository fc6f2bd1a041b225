"""The faults: how many of each, and what injects them."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable

from tests.faults import kills, outside
from tests.faults.course import Course
from tests.faults.tally import Tally

FAULTS: dict[str, tuple[int, Callable[[Course, random.Random, Tally], None]]] = {
    "driver": (30, kills.driver),
    "one-worker": (30, kills.one_worker),
    "workers": (50, kills.workers),
    "memory": (9, kills.memory),
    "mlflow": (20, outside.mlflow),
    "postgres": (12, outside.postgres),
    "disk": (10, outside.disk),
    "hang": (2, kills.hang),
    "signals": (20, kills.signals),
}
"""How many of each, and what injects them."""


def inject(fault: str, course: Course, *, seed: int, n: int | None = None) -> Tally:
    """Inject `n` faults of a kind, or as many as the campaign has of it."""
    n_usual, function = FAULTS[fault]
    tally = Tally(fault, n_usual if n is None else n, course.reference)
    try:
        function(course, random.Random(f"{fault} {seed}"), tally)
    except Exception as error:  # the other faults still have their turn
        traceback.print_exc()
        tally.is_wrong(f"the campaign itself has failed: {error!r}")
    if tally.n_injected < tally.n_wanted:
        tally.is_wrong(f"only {tally.n_injected} of {tally.n_wanted} could be injected")
    tally.ended_at = time.monotonic()
    return tally
