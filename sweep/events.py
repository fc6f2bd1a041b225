"""What happens to a trial that runs: the runner tells the loop, the study its trackers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from trials.config import EvalPoint, Stop, TrialConfig, TrialResult

UNKNOWN = "unknown"
"""Where a trial ran that nobody lives to tell of."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial runs."""

    node: str
    """The host's name."""
    device: str
    """`GPU 0`, or `CPU worker 1` where trials run on processors."""


@dataclass(frozen=True, slots=True)
class Started:
    """A trial has its slot and begins."""

    config: TrialConfig
    place: Place


@dataclass(frozen=True, slots=True)
class Reported:
    """A trial has evaluated; it waits for the verdict."""

    number: int
    point: EvalPoint
    answer: Callable[[Stop | None], object]
    """Takes the verdict; None: the trial goes on."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial has ended, whatever its outcome."""

    number: int
    result: TrialResult


RunnerEvent = Started | Reported | Ended


class Tracker(Protocol):
    """Hears of everything that happens to a trial, in order. MLflow is one, the screen another."""

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Trial `config.number` has a slot and begins (or begins again after an interruption)."""
        return

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """An evaluation of a running trial."""
        return

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """The trial has ended, whatever its outcome."""
