"""What was learnt, in words: the summary at the end of a sweep."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.screen.plain import COLOURS
from sweep.study.ended import Ended
from sweep.text.numbers import counted, duration
from trials.config import BY_EVAL_LOSS, Objective

SHOWN = {
    "rank": "rank",
    "alpha": "alpha",
    "learning_rate": "lr",
    "epochs": "epochs",
    "effective_batch_size": "batch",
}
"""The hyperparameters of a table, and their headings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """All that the end of a sweep has to say."""

    name: str
    ended: Sequence[Ended]
    ranked: Sequence[Ended]
    """Trials with an honest value, the best first."""
    base_eval_loss: float | None
    best_dir: Path | None
    """The winner's adapter; None when there is none."""
    see_it_all: str
    """The command that shows the sweep in MLflow."""
    wall_seconds: float
    n_waiting: int
    """Trials that were cut off and wait to be continued."""
    report: Path | None = None
    """report.html, which may not have been written."""
    n_paused: int = 0
    """Trials that wait until they belong to the best."""
    objective: Objective = BY_EVAL_LOSS
    base_value: float | None = None
    """The base model's own objective; of eval loss it is `base_eval_loss`."""

    @property
    def winner(self) -> Ended | None:
        """The trial with the best objective."""
        return self.ranked[0] if self.ranked else None

    @property
    def winner_in_words(self) -> str:
        """The winner beside the base model, by the objective and by eval loss."""
        winner = self.winner
        assert winner is not None and winner.value is not None
        return judged_against_base(
            self.objective,
            winner.value,
            self.base_value,
            winner.eval_loss_best,
            self.base_eval_loss,
        )


def in_words(summary: Summary) -> RenderableType:
    """The summary as it stands on the terminal."""
    parts: list[RenderableType] = [Text()]
    counts = Counter(trial.outcome for trial in summary.ended)
    headline = Text(f"{summary.name}: {counted(len(summary.ended), 'trial')}", style="bold")
    headline.append(f" in {duration(summary.wall_seconds)}", style="not bold")
    for outcome, n in counts.most_common():
        headline.append(f"  {n} {outcome}", style=f"not bold {COLOURS[outcome]}")
    parts.append(headline)
    parts += _winner(summary)
    parts += _stopped(summary)
    if summary.n_waiting:
        parts.append(
            Text(
                f"{counted(summary.n_waiting, 'trial')} cut off; the same command goes on there.",
                style="magenta",
            )
        )
    if summary.n_paused:
        words = f"{counted(summary.n_paused, 'trial')} paused; the same command goes on with them."
        parts.append(Text(words, style="bright_black"))
    if summary.report is not None and summary.report.exists():
        parts.append(Text(f"What was found, with charts:  {summary.report}"))
    parts.append(Text(f"See every trial in MLflow:  {summary.see_it_all}"))
    return Group(*parts)


def _winner(summary: Summary) -> list[RenderableType]:
    winner = summary.winner
    if winner is None or winner.value is None:
        words = f"No trial reached {an(summary.objective)} that counts, so there is no winner."
        return [Text(words)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("", "trial", *headings_of(summary.objective), *SHOWN.values(), "outcome"):
        table.add_column(heading, no_wrap=True)
    for place, trial in enumerate(summary.ranked[:5]):
        table.add_row(
            "winner" if place == 0 else "",
            f"{trial.number:03d}",
            *values_of(trial, summary.objective),
            *(short(trial.hyperparameters[name]) for name in SHOWN),
            Text(trial.outcome, style=COLOURS[trial.outcome]),
            style="bold" if place == 0 else "",
        )
    parts: list[RenderableType] = [table, Text(summary.winner_in_words)]
    if summary.best_dir is not None:
        parts.append(Text(f"Its adapter:  {summary.best_dir / 'adapter'}"))
    return parts


def headings_of(objective: Objective) -> list[str]:
    """Of the columns of `values_of`."""
    return [objective.heading] + ([] if objective.is_eval_loss else ["eval loss"])


def values_of(trial: Ended, objective: Objective) -> list[str]:
    """A trial's objective, and its eval loss beside it where that is another."""
    values = [trial.value] if objective.is_eval_loss else [trial.value, trial.eval_loss_best]
    return ["" if value is None else f"{value:.4f}" for value in values]


def an(objective: Objective) -> str:
    """`an eval loss`, `a score of exact_match`."""
    return "an eval loss" if objective.is_eval_loss else f"a score of {objective.name}"


def short(value: float) -> str:
    """A hyperparameter as a table shows it."""
    return f"{value:.2g}" if value < 0.1 else f"{value:g}"


def against_base(eval_loss: float, base_eval_loss: float | None) -> str:
    """The winner's eval loss beside the base model's own, which may be unknown."""
    if base_eval_loss is None:
        return f"Eval loss {eval_loss:.4f}; the base model's own is unknown."
    return (
        f"Eval loss {eval_loss:.4f} against {base_eval_loss:.4f} of the base model itself "
        f"(perplexity {math.exp(eval_loss):.2f} against {math.exp(base_eval_loss):.2f})."
    )


def judged_against_base(
    objective: Objective,
    value: float,
    base_value: float | None,
    eval_loss: float | None,
    base_eval_loss: float | None,
) -> str:
    """The winner beside the base model: by its objective, then by its eval loss."""
    losses = "" if eval_loss is None else against_base(eval_loss, base_eval_loss)
    if objective.is_eval_loss:
        return losses
    base = "" if base_value is None else f" against {base_value:.4f} of the base model itself"
    return f"{objective.name} {value:.4f}{base} (to be {objective.direction}d). {losses}".rstrip()


def _stopped(summary: Summary) -> list[RenderableType]:
    early = [trial for trial in summary.ended if trial.outcome != "completed"]
    if not early:
        return []
    parts: list[RenderableType] = [Text("Stopped early, or failed:", style="dim")]
    for trial in early[:20]:
        line = Text(f"  {trial.number:03d} ")
        line.append(trial.outcome, style=COLOURS[trial.outcome])
        line.append(f"  {trial.reason.splitlines()[0]}")
        parts.append(line)
    if len(early) > 20:
        parts.append(Text(f"  and {len(early) - 20} more, in MLflow"))
    return parts
