"""Keys while a terminal shows the live table: stop the sweep, prune a trial, help."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console, RenderableType
from rich.text import Text

from sweep.screen.terminal import read_keys

ENTER, ESCAPE, BACKSPACE = "\r\n", "\x1b", "\x7f\b"
LONGEST = 9
"""Digits of a trial's number."""
HELP = """\
s Enter         stop cleanly, as Ctrl-C does: running trials write checkpoints
                and the same command resumes; Ctrl-C then skips the checkpoints
p NUMBER Enter  prune a running trial: it will stop at its next evaluation
?               close this help
From another terminal: sweep stop, sweep prune."""

Mode = Literal["", "stop", "prune"]


class Keys:
    """What keys do. Nothing happens before Enter: a key is soon touched.

    Args:
        stop: Stops the sweep cleanly.
        prune: Ends a running trial, by its number.
    """

    def __init__(self, *, stop: Callable[[], None], prune: Callable[[int], None]) -> None:
        self._stop = stop
        self._prune = prune
        self._mode: Mode = ""
        self._digits = ""
        self._shows_help = False
        self._is_heard: Callable[[], bool] = lambda: True
        self.on_change: Callable[[], None] = lambda: None
        """Called after each key."""

    @contextmanager
    def listening(self, console: Console) -> Iterator[None]:
        with read_keys(self.press, show_cursor=console.show_cursor) as is_heard:
            self._is_heard = is_heard
            yield

    def press(self, text: str) -> None:
        """Take what was typed: keys one by one; a sequence such as an arrow's is passed over."""
        if len(text) > 1 and text.startswith(ESCAPE):
            return
        for key in text:
            self._press(key)
        self.on_change()

    def _press(self, key: str) -> None:
        if key in ENTER:
            self._enter()
        elif key == ESCAPE:
            self._mode, self._shows_help = "", False
        elif key in BACKSPACE:
            self._digits = self._digits[:-1]
        elif self._mode == "prune" and key.isdecimal():
            self._digits = (self._digits + key)[:LONGEST]
        elif key in "?h":
            self._shows_help = not self._shows_help
        elif key in "sp":
            self._mode, self._digits = "stop" if key == "s" else "prune", ""

    def _enter(self) -> None:
        mode, digits = self._mode, self._digits
        self._mode, self._digits = "", ""
        if mode == "stop":
            self._stop()
        elif mode == "prune" and digits:
            self._prune(int(digits))

    def footer(self) -> Text | None:
        if not self._is_heard():
            return None
        if self._mode == "stop":
            return Text("Stop the sweep?  Enter: yes  Esc: no", style="bold")
        if self._mode == "prune":
            return Text(f"Prune trial {self._digits}▏  Enter: yes  Esc: no", style="bold")
        return Text("s stop  p prune a trial  ? help", style="dim")

    def help(self) -> RenderableType | None:
        return Text(f"\n{HELP}") if self._shows_help else None
