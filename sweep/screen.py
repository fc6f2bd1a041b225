"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import bisect
import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.ended import COUNTS, Ended
from sweep.loop import Budget, Place
from sweep.words import duration
from trials.config import (
    BY_EVAL_LOSS,
    EvalPoint,
    Objective,
    Outcome,
    TrialConfig,
    TrialResult,
    trial_name,
)

COLOURS: dict[Outcome, str] = {
    "completed": "green",
    "overfit": "yellow",
    "diverged": "red",
    "outclassed": "cyan",
    "out_of_memory": "red",
    "failed": "bold red",
    "interrupted": "magenta",
}
N_BEST = 5
BAR_WIDTH, NARROW_BAR_WIDTH = 20, 6
MIN_ROWS, OTHER_ROWS = 3, 14
"""Running trials that are shown in any case; lines that all else needs: the best, headings, what
was said last."""
WIDE = 110
"""Columns of a terminal from which on the table shows everything it knows."""


@dataclass
class Running:
    """A trial with a slot."""

    config: TrialConfig
    place: Place
    began: float
    point: EvalPoint | None = None
    best: float | None = None
    """The best objective so far."""

    def seconds_left(self, now: float) -> float | None:
        """By the share that is done; None before the first evaluation."""
        if self.point is None or self.point.index == 0:
            return None
        share = self.point.index / self.config.n_evaluations
        return max(0.0, self.point.seconds / share - (now - self.began))


@dataclass(frozen=True, order=True, slots=True)
class Valued:
    """An ended trial that has a value; they sort by it."""

    key: float
    """`Objective.key` of its value."""
    number: int
    name: str
    outcome: Outcome
    value: float
    """Its best objective."""


class Progress:
    """What both screens know: running trials, ended trials, and how long the rest will take."""

    def __init__(
        self,
        budget: Budget,
        earlier: Sequence[Ended] = (),
        base_eval_loss: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        objective: Objective = BY_EVAL_LOSS,
    ) -> None:
        self.budget = budget
        self.objective = objective
        self.clock = clock
        self.began = clock()
        self.running: dict[int, Running] = {}
        self.n_ended = len(earlier)
        self.base_eval_loss = base_eval_loss
        self._n_timed, self._seconds = 0, 0.0
        """Trials that have ended under these eyes, and how long they took together."""
        self._valued = [
            self._valued_as(t.value, t.number, trial_name(t.number, t.hyperparameters), t.outcome)
            for t in earlier
            if t.value is not None and t.outcome in COUNTS
        ]
        self._valued.sort()

    def started(self, config: TrialConfig, place: Place) -> None:
        """A trial has its slot."""
        self.running[config.number] = Running(config, place, self.clock())

    def reported(self, number: int, point: EvalPoint) -> None:
        """A trial has evaluated."""
        if point.index == 0:
            self.base_eval_loss = point.eval_loss
            return
        trial = self.running[number]
        trial.point = point
        values = [point.value] if trial.best is None else [point.value, trial.best]
        trial.best = min(values, key=self.objective.key)

    def _valued_as(self, value: float, number: int, name: str, outcome: Outcome) -> Valued:
        return Valued(self.objective.key(value), number, name, outcome, value)

    def finished(self, number: int, result: TrialResult) -> TrialConfig | None:
        """A trial has ended; its configuration, if it had begun."""
        trial = self.running.pop(number, None)
        if trial is None:
            return None
        if result.outcome != "interrupted":
            self.n_ended += 1
            if result.best is not None and result.outcome in COUNTS:
                config, value = trial.config, result.best.value
                valued = self._valued_as(value, number, config.name, result.outcome)
                bisect.insort(self._valued, valued)
            self._n_timed += 1
            self._seconds += self.clock() - trial.began
        return trial.config

    def best(self) -> list[Valued]:
        """Ended trials that have a value, the best objective first."""
        return list(self._valued)

    def seconds_left(self) -> float | None:
        """Of the sweep, by the mean duration of its trials; None before the first one has ended."""
        limits = [] if self.budget.seconds_left is None else [self.budget.seconds_left]
        if self.budget.trials is not None and self._n_timed:
            mean = self._seconds / self._n_timed
            now = self.clock()
            running = sum(
                max(0.0, mean - (now - t.began)) if (left := t.seconds_left(now)) is None else left
                for t in list(self.running.values())  # the live table asks from its own thread
            )
            waiting = max(0, self.budget.trials - self.n_ended - len(self.running))
            limits.append((waiting * mean + running) / max(1, len(self.running)))
        return min(limits) if limits else None


class Screen(Protocol):
    """Shows a sweep. It is a `Tracker` of the study, and a place for words."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, words: str) -> None:
        """A line for the user."""

    def trial_started(self, config: TrialConfig, place: Place) -> None: ...

    def trial_reported(self, number: int, point: EvalPoint) -> None: ...

    def trial_ended(self, number: int, result: TrialResult) -> None: ...


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
        """Say where it runs."""
        self._progress.started(config, place)
        self.say(f"trial {config.name}  starts on {place.device} of {place.node}")

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """Say its losses, at every quarter of its run only: a log should stay readable."""
        config = self._progress.running[number].config
        self._progress.reported(number, point)
        if point.index == 0:
            score = _score(point, config.objective)
            self.say(f"eval loss of the base model itself: {point.eval_loss:.4f}{score}")
        elif _is_quarter(point.index, config.n_evaluations):
            self.say(
                f"trial {number:03d}  {point.index / config.n_evaluations:4.0%}  "
                f"step {point.step}  train {_loss(point.train_loss)}  eval {point.eval_loss:.4f}"
                f"{_score(point, config.objective)}"
            )

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Say how, and how long the sweep will still take."""
        self._progress.finished(number, result)
        left = self._progress.seconds_left()
        of = f"/{self._progress.budget.trials}" if self._progress.budget.trials else ""
        self.say(
            f"trial {number:03d}  {result.outcome}: {result.reason}  "
            f"[{self._progress.n_ended}{of} trials"
            + (f", about {duration(left)} left]" if left is not None else "]")
        )


class _Live(Live):
    """Rich's, which first says what is to be said."""

    before_refresh: Callable[[], None] | None = None

    def refresh(self) -> None:
        if self.before_refresh is not None:
            self.before_refresh()
        super().refresh()


class LiveScreen:
    """A table that is drawn anew twice a second; what is said scrolls by above it."""

    def __init__(self, console: Console, progress: Progress, title: str) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._lines: deque[Text] = deque()
        """What scrolls by next: with each line rich draws the table anew, for 20 ms."""
        self._live = _Live(
            get_renderable=self._draw, console=console, refresh_per_second=2, transient=True
        )
        self._live.before_refresh = self._print_lines

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._print_lines()
        self._live.stop()

    def say(self, words: str) -> None:
        """A line above the table."""
        self._lines.append(Text(words))
        self._print_lines()

    def _print_lines(self) -> None:
        lines: list[Text] = []
        with suppress(IndexError):  # the thread that draws takes some, too
            while True:
                lines.append(self._lines.popleft())
        if lines:
            self._console.print(Group(*lines))

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """A row more."""
        self._progress.started(config, place)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """The row moves on."""
        self._progress.reported(number, point)

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """A line that stays, and the row is gone."""
        config = self._progress.finished(number, result)
        line = Text(f"{config.name if config else f'{number:03d}'}  ")
        line.append(f"{result.outcome}", style=COLOURS[result.outcome])
        line.append(f"  {result.reason}", style="dim")
        self._lines.append(line)

    def _draw(self) -> RenderableType:
        progress, now = self._progress, self._progress.clock()
        return Group(Text(), self._headline(now), self._running(now), *self._best(progress))

    def _headline(self, now: float) -> Text:
        progress = self._progress
        of = f" of {progress.budget.trials}" if progress.budget.trials else ""
        words = Text(self._title, style="bold")
        words.append(f"  {progress.n_ended}{of} trials ended", style="not bold")
        words.append(f"  elapsed {duration(now - progress.began)}", style="not bold")
        left = progress.seconds_left()
        if left is not None:
            words.append(f"  about {duration(left)} left", style="not bold")
        if progress.base_eval_loss is not None:
            words.append(f"  base model {progress.base_eval_loss:.4f}", style="not bold dim")
        return words

    def _running(self, now: float) -> RenderableType:
        if not self._progress.running:
            return Text("workers load the base model …", style="dim")
        wide = self._console.width >= WIDE
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        objective = self._progress.objective
        score = [] if objective.is_eval_loss else [objective.name]
        for heading in ("running", "progress", "train", "eval", *score, "left"):
            table.add_column(heading, no_wrap=True)
        for heading in ("best", "step", "elapsed", "on") if wide else ():
            table.add_column(heading, no_wrap=True)
        for trial in self._shown():
            point, left = trial.point, trial.seconds_left(now)
            bar_width = BAR_WIDTH if wide else NARROW_BAR_WIDTH
            cells: list[str | Text] = [
                trial.config.name,
                _bar(point.index if point else 0, trial.config.n_evaluations, bar_width),
                _loss(point.train_loss) if point else "",
                f"{point.eval_loss:.4f}" if point else "",
                *(_loss(point.score if point else None) for _ in score),
                duration(left) if left is not None else "",
                _loss(trial.best),
                str(point.step) if point else "",
                duration(now - trial.began),
                trial.place.device,
            ]
            table.add_row(*cells[: len(table.columns)])
        n_more = len(self._progress.running) - table.row_count
        if not n_more:
            return table
        return Group(table, Text(f"and {n_more} more run", style="dim"))

    def _shown(self) -> list[Running]:
        """Running trials for which the terminal has room: those that have come furthest."""
        running = list(self._progress.running.values())
        room = max(MIN_ROWS, self._console.height - OTHER_ROWS)
        if len(running) <= room:
            return running
        return heapq.nlargest(room, running, key=lambda t: t.point.index if t.point else 0)

    def _best(self, progress: Progress) -> list[RenderableType]:
        ended = progress.best()[:N_BEST]
        if not ended:
            return []
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in ("best", progress.objective.heading, "outcome"):
            table.add_column(heading, no_wrap=True)
        for trial in ended:
            outcome = Text(trial.outcome, style=COLOURS[trial.outcome])
            table.add_row(trial.name, f"{trial.value:.4f}", outcome)
        return [table]


def _score(point: EvalPoint, objective: Objective) -> str:
    return "" if point.score is None else f"  {objective.name} {point.score:.4f}"


def make_screen(console: Console, progress: Progress, title: str) -> Screen:
    """The live table on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        return LiveScreen(console, progress, title)
    return PlainScreen(console, progress)


def _is_quarter(index: int, n_evaluations: int) -> bool:
    return index * 4 // n_evaluations > (index - 1) * 4 // n_evaluations


def _bar(done: int, of: int, width: int) -> Text:
    filled = round(width * done / of)
    bar = Text("━" * filled, style="green")
    bar.append("━" * (width - filled), style="bright_black")
    bar.append(f" {done / of:4.0%}")
    return bar


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"
