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
_NO_RIGHT = "Ask its owner for the right, or name another place."
_MENDS = {
    **dict.fromkeys(_FULL, "Free some space and try again."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _NO_RIGHT),
    **dict.fromkeys((errno.ENOTDIR, errno.ENXIO), "Name another place."),
    errno.ENAMETOOLONG: "Use shorter names: at most 255 bytes each, 4,095 a path.",
    errno.ELOOP: "Mend the link, which leads to itself.",
    errno.EFBIG: "Raise the limit of a file's size: `ulimit -f unlimited`.",
    errno.EMFILE: "Raise the limit of open files: `ulimit -n 65536`.",
    errno.EBADF: "It was closed, as by `>&-`: send it somewhere.",
    errno.EIO: "Look at the disk, and at `dmesg`.",
    errno.ESTALE: "Mount its file system anew.",
}
"""What a place lacks, not the program."""
_WHEN_WRITTEN = (*_FULL, errno.EFBIG, errno.EBADF, errno.EIO)
"""These come without a file's name."""
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


_NO_TEMPORARY = "No usable temporary directory"
"""Of tempfile, which has tried some."""


def mend_of(error: OSError) -> str | None:
    """Return what a user can do about a place; None: it is not to blame."""
    return _MENDS.get(error.errno or 0)


def place_in_words(error: OSError) -> str | None:
    """Say what a place is not fit for, with the mend; None: the place is not to blame."""
    mend = mend_of(error)
    if isinstance(error, FileNotFoundError) and _NO_TEMPORARY in str(error):
        return f"{error.strerror}. Set TMPDIR to a folder that can be written."
    if error.filename is None and error.errno not in _WHEN_WRITTEN:
        return None  # of a process or a socket
    where = "Output" if error.filename is None else error.filename
    return mend and f"{where}: {error.strerror}. {mend}"


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
