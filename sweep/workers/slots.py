"""What the driver knows of each place for trials, and what the places cost."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray

from sweep.clock import WORK, Clock
from sweep.workers.actor import Home
from trials.config import TrialConfig, TrialResult

LOADS_TO_GIVE_UP = 2
"""So many times in a row may a slot fail to load what another one has loaded."""


@dataclass
class Slot:
    """A place for one trial, and the process that fills it now."""

    index: int
    worker: Any = None
    """The actor; None before it is asked for, and again after it has died."""
    next_event: Any = None
    home: Any = None
    """The answer to where the worker is, on its way; asked again and again as a sign of life."""
    known_home: Home | None = None
    """None until Ray has found a machine for it."""
    asked_at: float = 0.0
    called_at: float = 0.0
    """When it was last asked, whether an earlier answer was still on its way or not."""
    has_loaded: bool = False
    n_failed_loads: int = 0
    """In a row."""
    trial: tuple[int, TrialConfig] | None = None
    starting: Any = None
    """The answer that the worker has the trial, on its way."""
    is_handed_over: bool = False
    has_started: bool = False
    idle_since: float | None = None
    """When its trial ended; None before the first one and while one runs."""

    def fill(self, worker: Any) -> None:
        """Take the process that fills it, loaded or not."""
        self.worker, self.next_event = worker, worker.next_event.remote()
        self.ask()

    def ask(self) -> None:
        """Ask the process where it is."""
        self.home, self.asked_at = self.worker.home.remote(), WORK.now()

    def empty(self) -> None:
        """End the process; it goes with all that it holds."""
        if self.worker is not None:
            ray.kill(self.worker)
        self.worker = self.next_event = self.idle_since = self.home = self.known_home = None
        self.starting = None
        self.has_loaded = False

    @property
    def is_free(self) -> bool:
        """Whether a trial can begin; where no worker comes up, a trial's end has to say why."""
        has_place = self.known_home is not None or self.n_failed_loads >= LOADS_TO_GIVE_UP
        return self.trial is None and has_place


@dataclass(frozen=True, slots=True)
class Arriving:
    """A trial that has ended on another machine, while its files are on their way here."""

    number: int
    files: Future[bool]
    result: Callable[[bool], TrialResult]
    """How it ended, once it is known whether all its files are here."""


@dataclass
class Timings:
    """What the sweep's own machinery cost, in seconds."""

    imports: list[float] = field(default_factory=list)
    """Each worker: importing torch and all above it."""
    loads: list[float] = field(default_factory=list)
    """Each worker: reading and quantising the base model."""
    gaps: list[float] = field(default_factory=list)
    """From the end of a trial to the start of the next one on the same slot."""
    started_at: list[float] = field(default_factory=list)
    """When each trial began, in seconds of the epoch."""
    ended_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clock = Clock()

    def trial_started(self) -> None:
        """Note that a trial begins."""
        self.started_at.append(self._clock.now())

    def trial_ended(self) -> None:
        """Note that a trial has ended."""
        self.ended_at.append(self._clock.now())
