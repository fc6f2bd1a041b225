"""`Tracker`: hears of everything that happens to a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sweep.errors import StudyError as StudyError
from trials.config import EvalPoint, TrialConfig, TrialResult


class Tracker(Protocol):
    """Hears of everything that happens to a trial, in order. MLflow is one, the screen another."""

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Trial `config.number` has a slot and begins (or begins again after an interruption)."""

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """An evaluation of a running trial."""

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """The trial has ended, whatever its outcome."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial runs."""

    node: str
    """The host's name."""
    device: str
    """`GPU 0`, or `CPU worker 1` where trials run on processors."""
