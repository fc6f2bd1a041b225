"""What every screen is, and the plain one: a line for each thing that happens."""

import time
from typing import Self

from rich.console import Console
from rich.text import Text

from sweep.events import Place
from sweep.screen.progress import Progress
from sweep.text.trials import COLOURS, as_loss
from trials.config import EvalPoint, Objective, TrialConfig, TrialResult


class PlainScreen:
    """One line for each thing that happens: for logs, pipes and files."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, words: str) -> None:
        """A line for the user, with the time of day."""
        line = Text(f"{time.strftime('%H:%M:%S')}  {words}")
        self._console.print(line, soft_wrap=True)

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        begins = "goes on," if self._progress.is_paused(config.number) else "starts"
        self._progress.started(config, place)
        name = config.name if config.confirms is not None else f"trial {config.name}"
        self.say(f"{name}  {begins} on {place.device} of {place.node}")

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """Say its losses, at every quarter of its run only: a log should stay readable."""
        config = self._progress.running[number].config
        self._progress.reported(number, point)
        if point.index == 0:
            score = _score(point, config.objective)
            self.say(f"base model's eval loss: {point.eval_loss:.4f}{score}")
        elif _is_quarter(point.index, config.n_evaluations):
            self.say(
                f"{config.label}  {point.index / config.n_evaluations:4.0%}  "
                f"step {point.step}  train {as_loss(point.train_loss)}  eval {point.eval_loss:.4f}"
                f"{_score(point, config.objective)}"
            )

    def trial_ended(self, number: int, result: TrialResult) -> None:
        config = self._progress.finished(number, result)
        label = config.label if config else f"trial {number:03d}"
        left = self._progress.time_left()
        of = f"/{self._progress.budget.trials}" if self._progress.budget.trials else ""
        paused = f", {n} paused" if (n := self._progress.n_paused) else ""
        self.say(
            f"{label}  {result.outcome}{_why(result.outcome, result.reason)}  "
            f"[{self._progress.n_ended}{of} trials{paused}" + (f", {left}]" if left else "]")
        )


def _score(point: EvalPoint, objective: Objective) -> str:
    return "" if point.score is None else f"  {objective.name} {point.score:.4f}"


def _is_quarter(index: int, n_evaluations: int) -> bool:
    return index * 4 // n_evaluations > (index - 1) * 4 // n_evaluations


def ended_in_a_line(number: int, config: TrialConfig | None, result: TrialResult) -> Text:
    """The end of a trial, in colours.

    Args:
        config: None: it had not begun.
    """
    line = Text(f"{config.name if config else f'{number:03d}'}  ")
    line.append(f"{result.outcome}", style=COLOURS[result.outcome])
    first = result.reason.partition("\n")[0]  # the end of a log fills the screen
    line.append(_why(result.outcome, first), style="dim")
    return line


def _why(outcome: str, reason: str) -> str:
    """What follows an outcome: a reason that begins with it does not say it twice."""
    if outcome == "paused":  # who goes on in its place is said once that has ended it
        reason = reason.partition(";")[0]
    n = len(outcome)
    return reason[n:] if reason[:n].lower() == outcome else f": {reason}"
