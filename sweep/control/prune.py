"""`sweep prune`: end one running trial by hand, from another terminal or another machine."""

from collections.abc import Callable
from pathlib import Path

from sweep.errors import StudyError
from sweep.events import Tracker
from sweep.folder.lock import runner
from sweep.folder.requests import ask_to_prune, forget_prune
from trials.config import GOES_ON, TrialResult


def prune(folder: Path, number: int, say: Callable[[str], None]) -> int:
    """Leave word for the process that runs the sweep; the trial ends at its next evaluation.

    Returns:
        0: it was asked to; 1: the sweep or the trial does not run.

    Raises:
        StudyError: There is no such trial, or the study cannot be read.
    """
    from sweep.results.reading import read_sweep

    if runner(folder) is None:
        say(f"{folder.name} is not running.")
        return 1
    trials = read_sweep(folder).trials
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        there = f"its trials are 0 to {trials[-1].number}" if trials else "it has none yet"
        raise StudyError(f"{folder.name}: no trial {number}; {there}.")
    if trial.outcome == "paused":
        ask_to_prune(folder, number)
        say(f"Trial {number} of {folder.name} is paused, and will not resume.")
        return 0
    if trial.outcome not in ("running", "waiting"):
        say(f"Trial {number} of {folder.name} has already ended: {trial.outcome}.")
        return 1
    ask_to_prune(folder, number)
    say(f"Trial {number} of {folder.name} will stop at its next evaluation.")
    return 0


class ClearPruneRequests(Tracker):
    """A tracker that clears the request for a trial when that has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """One that goes on later still has to end."""
        if result.outcome not in GOES_ON:
            forget_prune(self._folder, number)
