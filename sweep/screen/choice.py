"""`Screen`: what shows a sweep while it runs; and which one a sweep gets."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console

from sweep.events import Tracker
from sweep.folder.requests import ask_to_prune
from sweep.screen.json_events import Events, EventScreen
from sweep.screen.keys import Keys
from sweep.screen.live import LiveScreen
from sweep.screen.notebook import NotebookScreen
from sweep.screen.plain import PlainScreen
from sweep.screen.progress import Progress
from sweep.screen.terminal import has_keys


def make_screen(
    console: Console, progress: Progress, folder: Path, events: Events | None = None
) -> Screen:
    """A table in a notebook, on a terminal one with keys, plain lines elsewhere and for programs.

    Args:
        folder: The sweep's.
        events: Where programs read.
    """
    if events is not None:
        return EventScreen(events, PlainScreen(console, progress))
    if console.is_jupyter:
        return NotebookScreen(progress, folder.name)
    if not console.is_terminal or console.is_dumb_terminal:
        return PlainScreen(console, progress)
    if not has_keys():
        return LiveScreen(console, progress, folder.name)
    return _with_keys(console, progress, folder)


def _with_keys(console: Console, progress: Progress, folder: Path) -> Screen:
    def stop() -> None:
        if progress.is_stopping():
            screen.say("Already stopping. Ctrl-C skips the checkpoints.")
        else:
            os.kill(os.getpid(), signal.SIGINT)  # heard as Ctrl-C is

    def prune(number: int) -> None:
        if number not in progress.running:
            screen.say(f"Trial {number} is not running.")
            return
        try:
            ask_to_prune(folder, number)
        except OSError as error:
            screen.say(f"Trial {number} cannot be pruned now: {error}")
        else:
            screen.say(f"Trial {number} will stop at its next evaluation.")

    keys = Keys(stop=stop, prune=prune)
    screen = LiveScreen(console, progress, folder.name, keys)
    keys.on_change = screen.refresh
    return screen


class Screen(Tracker, Protocol):
    """Shows a sweep. It has a place for words."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def say(self, words: str) -> None:
        """A line for the user."""
