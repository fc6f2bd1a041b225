"""The live table of a terminal, and the keys that are listened to while it stands there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from sweep.events import Place
from sweep.screen.plain import ended_in_a_line
from sweep.screen.progress import Progress
from sweep.screen.table import draw
from trials.config import EvalPoint, TrialConfig, TrialResult


class Listens(Protocol):
    """What takes keys."""

    def listening(self, console: Console) -> AbstractContextManager[object]:
        """Listen while this lasts."""

    def footer(self) -> Text | None:
        """A line below the table; None: nobody listens."""

    def help(self) -> RenderableType | None:
        """What the keys do, where somebody wants to know."""


class _Live(Live):
    """Rich's, which first says what is to be said."""

    before_refresh: Callable[[], None] | None = None

    def refresh(self) -> None:
        if self.before_refresh is not None:
            self.before_refresh()
        super().refresh()


class LiveScreen:
    """A table that is drawn anew twice a second; what is said scrolls by above it.

    Args:
        keys: Listens to the keyboard meanwhile; None: nobody does.
    """

    def __init__(
        self, console: Console, progress: Progress, title: str, keys: Listens | None = None
    ) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._keys = keys
        self._stack = ExitStack()
        self._lines: deque[Text] = deque()
        """What scrolls by next: with each line rich draws the table anew, for 20 ms."""
        self._drawn: RenderableType = Text()
        self._width = console.width
        """Of the terminal as that was drawn."""
        self._live = _Live(
            get_renderable=self._draw, console=console, refresh_per_second=2, transient=True
        )
        self._live.before_refresh = self._before_refresh

    def __enter__(self) -> LiveScreen:
        self._live.start()
        if self._keys is not None:
            self._stack.enter_context(self._keys.listening(self._console))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stack.close()
        finally:
            self._print_lines()
            self._live.stop()

    def say(self, words: str) -> None:
        """A line above the table."""
        self._lines.append(Text(words))
        self._print_lines()

    def refresh(self) -> None:
        """Draw at once: somebody has pressed a key."""
        if self._live.is_started:
            self._live.refresh()

    def _before_refresh(self) -> None:
        self._take_off_folded()
        self._print_lines()

    def _take_off_folded(self) -> None:
        """Take off what a terminal has folded as it became narrower: rich counts what it drew."""
        before, self._width = self._width, self._console.width
        if self._width >= before:
            return
        options = self._console.options.update(width=before)
        lines = self._console.render_lines(self._drawn, options, pad=False)
        n_more = sum(max(0, Segment.get_line_length(line) - 1) // self._width for line in lines)
        one_up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
        self._console.control(Control(ControlType.CARRIAGE_RETURN, *one_up * n_more))

    def _print_lines(self) -> None:
        lines: list[Text] = []
        with suppress(IndexError):  # the thread that draws takes some, too
            while True:
                lines.append(self._lines.popleft())
        if lines:
            self._console.print(Group(*lines))

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self._progress.started(config, place)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        self._progress.reported(number, point)

    def trial_ended(self, number: int, result: TrialResult) -> None:
        config = self._progress.finished(number, result)
        self._lines.append(ended_in_a_line(number, config, result))

    def _draw(self) -> RenderableType:
        footer = self._keys.footer() if self._keys else None
        table = draw(
            self._progress,
            self._title,
            width=self._console.width,
            height=self._console.height,
            below=self._keys.help() if self._keys else None,
        )
        self._drawn = Group(Text(), table, *([footer] if footer is not None else []))
        return self._drawn
