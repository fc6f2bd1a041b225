"""`Screen`: what shows a sweep while it runs."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from sweep.study.tracker import Place
from trials.config import EvalPoint, TrialConfig, TrialResult


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
