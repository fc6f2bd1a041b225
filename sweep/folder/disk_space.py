"""A full disk: the sweep pauses, and goes on by itself when there is room."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sweep.events import Tracker
from trials.config import TrialResult

CHECK_SECONDS = 1.0
FIRST_REST_SECONDS = 5.0
LONGEST_REST_SECONDS = 600.0
FREE_BYTES = 16 * 2**20
"""Kept free in any case: the study, the logs, MLflow's database."""


class DiskSpace(Tracker):
    """Whether trials may begin: there is room for what each leaves behind. Hears of their ends.

    Args:
        folder: The sweep's.
        trial_bytes: Of one trial: its adapter, a copy for MLflow, a checkpoint.
        say: Told when the sweep pauses, and when it goes on.
    """

    def __init__(
        self,
        folder: Path,
        trial_bytes: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._needed = trial_bytes + FREE_BYTES
        self._say = say
        self._clock = clock
        self._checked_at = -CHECK_SECONDS
        self._is_there = True
        self._n_full = 0
        self._rest_until = 0.0

    def has_room(self) -> bool:
        """Whether a trial may begin now. Asks the disk once a second at most."""
        now = self._clock()
        if now < self._rest_until:
            return False
        if now - self._checked_at < CHECK_SECONDS:
            return self._is_there
        self._checked_at = now
        free = shutil.disk_usage(self._folder).free
        was_there, self._is_there = self._is_there, free >= self._needed
        if was_there and not self._is_there:
            self._say(
                f"Paused, the disk is full: a trial needs {_mib(self._needed)}, but "
                f"{self._folder} has {_mib(free)} free. Free some and the sweep continues; Ctrl-C "
                f"ends it."
            )
        if self._is_there and not was_there:
            self._say("There is space again: the sweep continues.")
        return self._is_there

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """Rest after a trial that found no room, longer each time: another disk may be full."""
        if result.fault != "disk_full":
            self._n_full = 0
            return
        self._n_full += 1
        seconds = min(FIRST_REST_SECONDS * 2 ** (self._n_full - 1), LONGEST_REST_SECONDS)
        self._rest_until = self._clock() + seconds
        self._say(f"A trial found the disk full: no new one for {seconds:.0f} s.")


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
