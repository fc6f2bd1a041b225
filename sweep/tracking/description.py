"""What a sweep's run says of itself in MLflow: its description, in Markdown.

MLflow folds away all but the first lines, so these say who won.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.events import Tracker
from sweep.study.summary import Summary
from sweep.text.numbers import counted, duration
from sweep.text.trials import SHOWN, an, short
from sweep.tracking.client import NoRunError
from sweep.tracking.location import sweep_id
from sweep.tracking.saved_view import MENU, address
from trials.config import Objective, TrialResult

if TYPE_CHECKING:
    from sweep.tracking.run_index import RunIndex

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""

EVERY_SECONDS = 30.0
"""Between two descriptions of a sweep that runs."""

_GAP = "&emsp;"
"""MLflow's tables leave no room between columns."""


def as_markdown(summary: Summary, *, lives: bool = False, plots: Sequence[Path] = ()) -> str:
    """Return the description.

    Args:
        lives: Whether trials still run.
        plots: Pictures, by the titles of their files.
    """
    counts = Counter(trial.outcome for trial in summary.ended)
    outcomes = ", ".join(f"{n} {outcome.replace('_', ' ')}" for outcome, n in counts.most_common())
    said = f"{counted(len(summary.ended), 'trial')} ended: {outcomes}" if outcomes else "No trial"
    state = " Still running." if lives else f" {duration(summary.wall_seconds)} in all."
    lines = [*_winner(summary, lives=lives), "", f"{said}.{state}"]
    if summary.conclusion:
        first, *rest = escape(summary.conclusion, quote=False).splitlines()
        lines += ["", f"**{first}**", "", *(f"- {line}" for line in rest)]
    lines += ["", "[All curves in one chart](#curves) · [all trials in a table](#trials)"]
    lines += _best_ten(summary)
    for path in plots:
        lines += ["", f"**{path.stem.replace('_', ' ').capitalize()}**", ""]
        lines.append(f"![{path.stem}](plots/{path.name})")
    return "\n".join(lines)


def _winner(summary: Summary, *, lives: bool) -> list[str]:
    winner = summary.winner
    if winner is None:
        so_far = "yet " if lives else ""
        return [f"No trial has {so_far}reached {an(summary.objective)} that counts."]
    values = ", ".join(f"{SHOWN[n]} {short(winner.hyperparameters[n])}" for n in SHOWN)
    won = "leads" if lives else "is the winner"
    return [
        f"**[Trial {winner.number:03d}](#trial-{winner.number}) {won}** with {values}. "
        f"{summary.judged.in_words(summary.objective)}"
    ]


def _best_ten(summary: Summary) -> list[str]:
    ranked = summary.ranked[:10]
    if not ranked:
        return []
    headings = ["trial", *summary.columns.headings, *SHOWN.values(), "outcome"]
    lines = ["", f"| {' | '.join(h + _GAP for h in headings)} |", "|:--" * len(headings) + "|"]
    for trial in ranked:
        cells = [f"[{trial.number:03d}](#trial-{trial.number})"]
        cells += summary.columns.of(trial)
        cells += [short(trial.hyperparameters[name]) for name in SHOWN]
        lines.append(f"| {' | '.join(c + _GAP for c in [*cells, trial.outcome])} |")
    return lines


def ending(result: TrialResult, objective: Objective) -> str:
    """Return the description of a trial's run: how it ended, in Markdown."""
    first, *rest = result.reason.splitlines() or [""]
    lines = [f"**{result.outcome.replace('_', ' ').capitalize()}.** {escape(first, quote=False)}"]
    if (best := result.best) is not None:
        at = f"at step {best.step}, epoch {best.epoch:.2f}"
        lines += ["", f"Best {objective.heading}: {best.value:.4f}, {at}."]
    if seconds := result.training_seconds + result.evaluation_seconds:
        lines += ["", f"Trained and evaluated for {duration(seconds)}."]
    if rest:  # the end of a failed trial's log
        lines += ["", *(f"    {line}" for line in rest)]
    return "\n".join(lines)


def with_addresses(text: str, runs: RunIndex) -> str:
    """Put addresses in place of `(#trial-17)`, `(#trials)`, `(#curves)` and `(plots/…)`."""
    view = sweep_id(runs.output_dir)

    def address_of(found: re.Match[str]) -> str:
        target = found[1]
        if target in ("trials", "curves"):
            return f"({address(runs.experiment_id, view, charts=target == 'curves')})"
        try:
            run_id = runs.child(int(target.removeprefix("trial-"))).run_id
        except NoRunError:
            return str(found[0])
        return f"(#/experiments/{runs.experiment_id}/runs/{run_id}?{MENU})"

    text = re.sub(r"\(#(trial-\d+|trials|curves)\)", address_of, text)
    artifact = f"get-artifact?run_uuid={runs.parent_run_id}&path=plots/"
    return text.replace("(plots/", f"({artifact}")


class Describer(Tracker):
    """A `Tracker` that keeps the description of a sweep that runs true, now and then."""

    def __init__(self, describe: Callable[[], None]) -> None:
        self._describe = describe
        self._described = -math.inf

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Describe the sweep anew, if the last time was some while ago."""
        if time.monotonic() - self._described >= EVERY_SECONDS:
            self._describe()
            self._described = time.monotonic()
