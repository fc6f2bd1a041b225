"""What ends a trial that is not of its own doing, so that it may run again."""

import errno
import faulthandler
import math
import time
from types import TracebackType
from typing import Self

from trials.config import DataError, Fault

NO_ROOM = "No space left on device"
KILLED = "a process of this trial was killed by signal"
"""Of one of several on their GPUs: the kernel does that when memory is short, or a person."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
_GPU_LOST = (
    "GPU is lost",
    "has fallen off the bus",
    "uncorrectable ECC error",
    "busy or unavailable",
    "no CUDA-capable device",
    "unspecified launch failure",
)
"""Of CUDA and its driver, for a device that no longer answers."""
BEGINS = "=== trial"
"""How each attempt of a trial begins in its log."""
_STALLED = "Timeout ("
"""How faulthandler begins."""


class RowsChanged(DataError):
    """The prepared rows of a sweep are no longer what its trials must have."""


def fault_of(error: BaseException) -> Fault | None:
    """Tell a full disk and a lost GPU or process from a trial's own failure, which comes again."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RowsChanged):
            return "rows_changed"
        words = str(seen)
        # safetensors has the words, but not the number.
        if getattr(seen, "errno", None) in _FULL or NO_ROOM in words:
            return "disk_full"
        if any(lost in words for lost in (*_GPU_LOST, KILLED)):
            return "machine_lost"
        seen = seen.__cause__ or seen.__context__
    return None


def no_right(error: OSError) -> str | None:
    """Say that this user may not read, or write, a file; None: it is about something else."""
    if error.errno not in _NO_RIGHT or error.filename is None:
        return None
    return (
        f"{error.filename}: must be open to this user, but is not: {error.strerror}. Change its "
        f"owner or mode, or run the command as its owner."
    )


class Watchdog:
    """Ends the process when a trial takes no step for too long; its log then says where it stood.

    A thread of faulthandler does it, which waits for no lock of Python's.

    Args:
        minutes: Between two signs of life.
    """

    def __init__(self, minutes: float) -> None:
        self._seconds = minutes * 60
        self._latest = -math.inf

    def __enter__(self) -> Self:
        self.sign_of_life()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        faulthandler.cancel_dump_traceback_later()

    def stand_by(self) -> None:
        """Do not count until the next sign of life."""
        self._latest = -math.inf
        faulthandler.cancel_dump_traceback_later()

    def sign_of_life(self) -> None:
        """Begin to count anew; at most once a second, since each time is a new thread."""
        now = time.monotonic()
        if now - self._latest >= min(1.0, self._seconds / 4):
            self._latest = now
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=2)


def has_stalled(log: str) -> bool:
    """Whether a trial's latest attempt ended with a watchdog's words."""
    return _STALLED in log.rpartition(BEGINS)[2]
