"""`AskTell`: what the loop asks of a study."""

from typing import Protocol

from sweep.events import Place
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult


class AskTell(Protocol):
    """A study, from the side of the loop. As it stands, nothing is paused and all trials run."""

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        """Return the next trial, or the paused one of that number."""

    def started(self, config: TrialConfig, place: Place) -> None:
        """Hear that a trial begins, and where."""

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Take an evaluation and return the verdict: None to go on."""

    def tell(self, number: int, result: TrialResult) -> bool:
        """Take the end of a trial; whether it is the end, or the trial will run again."""

    def n_ended(self) -> int:
        """Trials that have ended, those of earlier runs included."""

    def n_paused(self) -> int:
        """Trials that wait until they belong to the best."""
        return 0

    def promising(self, *, is_last: bool) -> int | None:
        """Return the number of a paused trial that should go on; None: there is none.

        Args:
            is_last: Whether no further trial comes.
        """
        return None

    def end_paused(self) -> None:
        """End the trials that are still paused: no other comes to compare them with."""
        return

    def is_exhausted(self) -> bool:
        """Whether nothing is left to ask for."""

    def gpu_seconds(self) -> float:
        """Time in which trials had GPUs, over all runs of the sweep."""
        return 0.0

    def is_flat(self, n_trials: int) -> bool:
        """Whether the last `n_trials` that ended have not bettered the objective."""
        return False
