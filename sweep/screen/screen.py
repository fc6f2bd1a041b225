"""`Screen`: what shows a sweep while it runs."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from sweep.events import Tracker


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
