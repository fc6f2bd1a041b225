"""A sweep's folder: its writer, its study, who runs in it, and what others ask of that one."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.kinds import see_kinds

PATIENCE_SECONDS = 1.0
"""For the lock: `sweep status` holds it for an instant."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems without locks."""


Work = Literal["run", "confirm"]
"""What holds a sweep's folder: the sweep itself, or its confirmation."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a sweep's folder."""

    pid: int
    host: str
    since: float
    """Seconds of the epoch."""
    work: Work = "run"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """Whether it is known to have ended; on another machine nobody can tell."""
        if not self.is_here:
            return False
        import psutil

        try:
            return bool(psutil.Process(self.pid).create_time() > self.since)
        except psutil.NoSuchProcess:
            return True


@contextlib.contextmanager
def locked(folder: Path, work: Work = "run") -> Iterator[None]:
    """Hold a sweep's folder: two processes in one study would run each other's trials.

    The lock is the kernel's, so a process that dies leaves none behind. Where a file system has no
    locks, what the holder has written counts, unless it is known to have ended.

    Raises:
        StudyError: Another process holds it, or files and folders are in each other's place.
    """
    see_kinds(folder)
    with (folder / layout.LOCK).open("a+") as file:
        try:
            is_free = _try_lock(file.fileno(), fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            before = _holder(folder)
            is_free = before is None or before.is_gone()
        if not is_free:
            raise StudyError(
                f"{folder}: this sweep is already running, as {_holder(folder) or 'unknown'}. "
                f"Wait for it, stop it with sweep stop {folder.name}, or use another --name. (If "
                f"that machine is gone for good, delete {folder / layout.LOCK}.)"
            )
        (folder / layout.STOP).unlink(missing_ok=True)
        file.truncate(0)
        file.write(json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), time.time(), work))))
        file.flush()
        yield
        file.truncate(0)


def runner(folder: Path) -> Holder | None:
    """Return the process that runs the sweep of a folder now; None: none does."""
    found = holder(folder)
    return found if found is not None and found.work == "run" else None


def holder(folder: Path) -> Holder | None:
    """Return the process that holds a folder now, whatever it does; None: none does."""
    see_kinds(folder)
    path = folder / layout.LOCK
    if not path.exists():
        return None
    found = _holder(folder)
    with path.open("a+") as file:
        try:
            if _try_lock(file.fileno(), fcntl.LOCK_SH, patience_seconds=0.0):
                return None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None if found is None or found.is_gone() else found
    return found


def _try_lock(descriptor: int, kind: int, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _holder(folder: Path) -> Holder | None:
    try:
        return Holder(**json.loads((folder / layout.LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None
