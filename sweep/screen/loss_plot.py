"""A trial's losses in plain characters, where there is no browser: signs that ASCII has too."""

import itertools
import statistics
from collections.abc import Sequence

from sweep.screen.table import CUT_AT

EVAL, TRAIN, KEPT, AFTER, ABOVE = "o", ".", "@", ":", "^"
WORDS = {
    EVAL: "eval loss",
    TRAIN: "train loss",
    KEPT: "best evaluation",
    AFTER: "overfitting",
    ABOVE: "higher",
}
HEIGHT = 16
MARGIN = 9
"""Columns left of the plot: a loss and the axis."""


def loss_plot(
    x: Sequence[float],
    evals: Sequence[float | None],
    trains: Sequence[float | None],
    *,
    kept: int | None,
    overfits: bool,
    width: int,
) -> list[str]:
    """Return the lines of a plot, and one that says what its signs mean.

    Args:
        x: Ascending, one value for each loss.
        kept: The place of the evaluation that was kept.
        overfits: Whether what comes after it is marked.
        width: Columns of a line.
    """
    n = max(40, width - MARGIN - 1)
    low, high = _range([loss for loss in (*evals, *trains) if loss is not None])
    columns = [round((at - x[0]) / ((x[-1] - x[0]) or 1.0) * (n - 1)) for at in x]
    grid = [[" "] * n for _ in range(HEIGHT)]
    if kept is not None and overfits:
        for line in grid:
            line[columns[kept] + 1 :: 3] = [AFTER] * len(line[columns[kept] + 1 :: 3])
    for losses, sign in ((trains, TRAIN), (evals, EVAL)):
        _draw(grid, columns, losses, sign, low, high)
    if kept is not None and (best := evals[kept]) is not None:
        grid[_row(best, low, high)][columns[kept]] = KEPT
    rows = zip(_marks(low, high), map("".join, grid), strict=True)
    lines = [
        *(f"{mark:>7} │{row}".rstrip() for mark, row in rows),
        f"{'':7} └{'─' * n}",
        f"{'':{MARGIN}}{x[0]:<{n - 16}.2f}{f'{x[-1]:.2f} epochs':>16}",
    ]
    used = {sign for line in grid for sign in line}
    legend = "   ".join(f"{sign} {words}" for sign, words in WORDS.items() if sign in used)
    return [*lines, f"{'':{MARGIN}}{legend}"]


def _marks(low: float, high: float) -> list[str]:
    """The numbers beside the axis, one for each line; most have none."""
    middle = HEIGHT // 2
    marks = {0: high, middle: high - (high - low) * middle / (HEIGHT - 1), HEIGHT - 1: low}
    return [f"{marks[i]:.4f}"[:7] if i in marks else "" for i in range(HEIGHT)]


def _range(losses: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest that is not far above the rest, as first evaluations are."""
    low, high = min(losses), max(losses)
    cut = low + CUT_AT * (statistics.median(losses) - low)
    return low, min(high, cut) if cut > low else high


def _row(loss: float, low: float, high: float) -> int:
    share = (high - loss) / (high - low) if high > low else 0.5
    return max(0, round(share * (HEIGHT - 1)))


def _draw(
    grid: list[list[str]],
    columns: Sequence[int],
    losses: Sequence[float | None],
    sign: str,
    low: float,
    high: float,
) -> None:
    """Draw a curve, straight from one evaluation to the next; above the range a sign says so."""

    def put(column: int, loss: float) -> None:
        grid[_row(loss, low, high)][column] = ABOVE if loss > high else sign

    there = [(at, y) for at, y in zip(columns, losses, strict=True) if y is not None]
    for (at, before), (to, after) in itertools.pairwise(there):
        n = max(to - at, abs(_row(before, low, high) - _row(after, low, high)), 1)
        for i in range(n + 1):
            put(at + round(i / n * (to - at)), before + i / n * (after - before))
    for at, loss in there[:1]:
        put(at, loss)
