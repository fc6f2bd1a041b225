"""`sweep prune`: end one running trial by hand, from another terminal or another machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.driver.loop import Place
from sweep.folder.lock import ask_to_prune, forget_prune, runner
from sweep.storage.patient import StudyError
from trials.config import GOES_ON, EvalPoint, TrialConfig, TrialResult

if TYPE_CHECKING:
    from sweep.cluster.jobs import Cluster, Job


def prune(folder: Path, number: int, say: Callable[[str], None]) -> int:
    """Leave word for the process that runs the sweep; the trial ends at its next evaluation.

    Returns:
        0: it was asked to; 1: the sweep or the trial does not run.

    Raises:
        StudyError: There is no such trial, or the study cannot be read.
    """
    from sweep.results.status import read_status

    if runner(folder) is None:
        say(f"{folder.name} does not run.")
        return 1
    trials = read_status(folder).trials
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        there = f"its trials are 0 to {trials[-1].number}" if trials else "it has none yet"
        raise StudyError(f"{folder.name}: has no trial {number}; {there}.")
    if trial.outcome == "paused":
        ask_to_prune(folder, number)
        say(f"Trial {number} of {folder.name} is paused, and will not go on.")
        return 0
    if trial.outcome not in ("running", "waiting"):
        say(f"Trial {number} of {folder.name} has ended already: {trial.outcome}.")
        return 1
    ask_to_prune(folder, number)
    say(f"Trial {number} of {folder.name} ends as stopped at its next evaluation.")
    return 0


def prune_job(cluster: Cluster, job: Job, number: int, say: Callable[[str], None]) -> int:
    """Prune a trial of a sweep on a cluster, by a small job beside it; returns as `prune` does.

    Raises:
        StudyError: As `prune` raises it there.
    """
    import tempfile

    from sweep.cluster.package import pack_program

    if job.is_over:
        say(f"{job.id} does not run: it is {job.status.lower()}.")
        return 1
    with tempfile.TemporaryDirectory() as packed:
        pack_program(Path(packed))
        command = ["python", "-m", "sweep.control.prune", job.sweep, str(number)]
        answer = cluster.ask(command, Path(packed), job.output)
    if answer["code"] is None:
        raise StudyError(answer["words"])
    say(answer["words"])
    return int(answer["code"])


class Words:
    """A tracker that takes the word for a trial away when it has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Nothing to do."""

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """Nothing to do."""

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """One that goes on later still has to end."""
        if result.outcome not in GOES_ON:
            forget_prune(self._folder, number)


def _prune_here(name: str, number: int, output: Path) -> None:
    """Be the small job: answer with what was done, in words, and as `prune` returns it."""
    import json

    words: list[str] = []
    code: int | None = None
    try:
        code = prune(output.expanduser() / name, number, words.append)
    except StudyError as error:
        words.append(str(error))
    print("sweep-answer: " + json.dumps({"words": " ".join(words), "code": code}))


if __name__ == "__main__":
    import sys

    _prune_here(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
