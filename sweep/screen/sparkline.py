"""A curve as a few characters: eval losses in a row of the live table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
NOT_A_NUMBER = "×"
CUT_AT = 3.0
"""Values further above the lowest than so many times the median's distance look alike: the first
evaluations are far above all later ones, and what happens late is what one looks for."""


def sparkline(losses: Sequence[float], width: int) -> str:
    """Return the curve in at most `width` characters, the latest value last.

    Its scale is its own: from its lowest value to its highest, or to `CUT_AT`.
    """
    n = len(losses)
    if n > width:  # evenly spread, the latest among them
        losses = [losses[n - 1 - (width - 1 - i) * n // width] for i in range(width)]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return NOT_A_NUMBER * len(losses)
    low = min(finite)
    span = min(max(finite) - low, CUT_AT * (statistics.median(finite) - low)) or max(finite) - low
    return "".join(_character(loss, low, span) for loss in losses)


def _character(loss: float, low: float, span: float) -> str:
    if not math.isfinite(loss):
        return NOT_A_NUMBER
    share = min(1.0, (loss - low) / span) if span else 0.0
    return LEVELS[round(share * (len(LEVELS) - 1))]
