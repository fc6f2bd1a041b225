"""`Budget`: when enough has been tried."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sweep.clock import WORK
from sweep.study.ask_tell import AskTell
from trials.config import BY_EVAL_LOSS, Objective


class Enough(Enum):
    """Why no further trial begins, and what to do so that one does."""

    STOPPED = "stopped", "run it again"
    HOURS = "the hours are over", "run it again"
    GPU_HOURS = "the gpu_hours are used up", "raise budget.gpu_hours"
    TRIALS = "all trials have run", "raise --trials"
    SPACE = "every point of the space has been tried", "widen the search"
    FLAT = "no better {of} in {n} trials (stop_when_flat)", "remove budget.stop_when_flat"

    def __init__(self, words: str, advice: str) -> None:
        self.words, self.advice = words, advice

    @property
    def cuts_off(self) -> bool:
        """Whether running trials have to be cut off now."""
        return self in (Enough.STOPPED, Enough.HOURS, Enough.GPU_HOURS)


@dataclass
class Budget:
    """How long a sweep goes on."""

    trials: int | None
    """Trials of the whole study that end, whatever their outcome; None: no limit."""
    hours: float | None
    """Of this run of the command; None: no limit."""
    gpu_hours: float | None = None
    """Of all trials, times the GPUs of each, over all runs of the sweep; None: no limit."""
    stop_when_flat: int | None = None
    """Trials in a row without a better value after which the sweep ends; None: no limit."""
    reserve: Callable[[], float] = lambda: 0.0
    """Seconds of `hours` that are kept for what comes after the trials."""
    clock: Callable[[], float] = WORK.now
    objective: Objective = BY_EVAL_LOSS

    def __post_init__(self) -> None:
        self._began = self.clock()

    def why_spent(self, sweep: AskTell) -> Enough | None:
        """Say why running trials have to be cut off now; None: they may go on."""
        if self.seconds_left == 0.0:
            return Enough.HOURS
        if self.gpu_hours is not None and sweep.gpu_seconds() >= self.gpu_hours * 3600:
            return Enough.GPU_HOURS
        return None

    def why_enough(self, sweep: AskTell, n_trials: int) -> Enough | None:
        """Say why no further trial begins; None: one may.

        Args:
            n_trials: That have ended, run, or are paused.
        """
        if spent := self.why_spent(sweep):
            return spent
        if self.trials is not None and n_trials >= self.trials:
            return Enough.TRIALS
        if sweep.is_exhausted():
            return Enough.SPACE
        if self.stop_when_flat is not None and sweep.is_flat(self.stop_when_flat):
            return Enough.FLAT
        return None

    def in_words(self, enough: Enough) -> str:
        """`all trials have run`."""
        return enough.words.format(of=self.objective.heading, n=self.stop_when_flat)

    @property
    def seconds_left(self) -> float | None:
        """That trials may still run within `hours`; None: no limit."""
        if self.hours is None:
            return None
        return max(0.0, self._began + self.hours * 3600 - self.reserve() - self.clock())
