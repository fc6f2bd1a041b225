"""The table of a running sweep, as a terminal and a notebook show it."""

import heapq
import math
import statistics
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.screen.leaders import Leaders, Standing
from sweep.screen.progress import Progress, Running
from sweep.storage.attributes import COUNTS
from sweep.text.numbers import duration
from sweep.text.trials import COLOURS, as_loss
from trials.config import Objective

N_BEST = 5
BAR_WIDTH, NARROW_BAR_WIDTH = 16, 4
CURVE_WIDTH, NARROW_CURVE_WIDTH = 20, 8
MIN_ROWS, OTHER_ROWS = 3, 14
"""Running trials that are shown in any case; lines that all else needs: the best, headings, what
was said last."""
WIDE = 120
"""Columns of a terminal from which on the table shows everything it knows."""


LEVELS = "▁▂▃▄▅▆▇█"
NOT_A_NUMBER = "×"
CUT_AT = 3.0
"""Values further above the lowest than so many times the median's distance look alike: the first
evaluations are far above all later ones, and what happens late is what one looks for."""


def draw(
    progress: Progress, title: str, *, width: int, height: int, below: RenderableType | None = None
) -> RenderableType:
    """Return the sweep as it is now.

    Args:
        width: Columns there are.
        height: Lines there are; of more trials than have room, those that have come furthest are
            shown.
        below: In place of the best trials.
    """
    now = progress.clock()
    rest = [below] if below is not None else _leaders(progress.leaders, progress.objective)
    return Group(_headline(progress, title, now), _running(progress, now, width, height), *rest)


def _headline(progress: Progress, title: str, now: float) -> Text:
    of = f" of {progress.budget.trials}" if progress.budget.trials else ""
    parts = [
        f"{progress.n_ended}{of} trials ended",
        f"{progress.n_paused} paused" if progress.n_paused else "",
        f"elapsed {duration(now - progress.began)}",
        progress.time_left(),
    ]
    if (busy := progress.usage.busy_share) is not None:
        parts.append(f"busy {busy:.0%}")
    words = Text(title, style="bold")
    words.append("".join(f"  {part}" for part in parts if part), style="not bold")
    if progress.base_eval_loss is not None:
        words.append(f"  base model {progress.base_eval_loss:.4f}", style="not bold dim")
    return words


def _running(progress: Progress, now: float, width: int, height: int) -> RenderableType:
    if not progress.running:
        words = "no trial is running" if progress.has_begun else "workers load the base model …"
        return Text(words, style="dim")
    wide = width >= WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    objective = progress.objective
    score = [] if objective.is_eval_loss else [objective.name]
    # Where there is too little room, the place gives way first, in a narrow terminal the name.
    for heading in ("running", "progress", "train", "eval", "eval curve", *score, "left"):
        table.add_column(heading, no_wrap=wide or heading != "running")
    for heading in ("best", "step", "elapsed", "on") if wide else ():
        table.add_column(heading, no_wrap=heading != "on")
    bar_width = BAR_WIDTH if wide else NARROW_BAR_WIDTH
    curve_width = CURVE_WIDTH if wide else NARROW_CURVE_WIDTH
    for trial in _shown(progress, height):
        point, left = trial.point, trial.seconds_left(now)
        cells: list[str | Text] = [
            Text(trial.config.name, no_wrap=True, overflow="ellipsis"),
            _bar(progress.share_done(trial), bar_width),
            as_loss(point.train_loss) if point else "",
            as_loss(point.eval_loss) if point else "",
            _curve(trial, curve_width),
            *(as_loss(point.score if point else None) for _ in score),
            duration(left) if left is not None else "",
            as_loss(trial.best),
            str(progress.step_of(trial) or ""),
            duration(now - trial.began),
            Text(trial.place.device, no_wrap=True, overflow="ellipsis"),
        ]
        table.add_row(*cells[: len(table.columns)])
    n_more = len(progress.running) - table.row_count
    if n_more <= 0:
        return table
    return Group(table, Text(f"and {n_more} more running", style="dim"))


def _shown(progress: Progress, height: int) -> list[Running]:
    running = list(progress.running.values())  # trials begin and end while this is drawn
    room = max(MIN_ROWS, height - OTHER_ROWS)
    if len(running) <= room:
        return running
    return heapq.nlargest(room, running, key=progress.share_done)


def _leaders(leaders: Leaders, objective: Objective) -> list[RenderableType]:
    best = leaders.best(N_BEST)
    if not best:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("best so far", objective.heading, "state"):
        table.add_column(heading, no_wrap=True)
    for each in best:
        table.add_row(each.name, as_loss(each.value), _state(each, leaders.n_evaluations))
    return [table]


def _state(trial: Standing, n_evaluations: int | None) -> Text:
    """`completed`; of one that has not ended, where it stands: `paused at 15%`."""
    words = Text(trial.state, style=COLOURS.get(trial.state, ""))
    if trial.state not in COUNTS and n_evaluations:
        words.append(f" at {trial.index / n_evaluations:.0%}")
    return words


def _bar(share: float, width: int) -> Text:
    filled = round(width * share)
    bar = Text()
    bar.append("━" * filled, style="green")
    bar.append("━" * (width - filled), style="bright_black")
    bar.append(f" {share:4.0%}")
    return bar


def _curve(trial: Running, width: int) -> Text:
    """Green while the latest eval loss is the lowest, else yellow."""
    losses = list(trial.eval_losses)
    if not losses:
        return Text()
    is_lowest = losses[-1] <= min(loss if math.isfinite(loss) else math.inf for loss in losses)
    return Text(sparkline(losses, width), style="green" if is_lowest else "yellow")


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
