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
from io import TextIOWrapper
from pathlib import Path
from typing import Literal

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.kinds import see_kinds
from trials.unfinished import is_gone, is_suspended

PATIENCE_SECONDS = 1.0
"""For the lock: `sweep status` holds it for an instant."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
"""Errors of file systems without locks; the last, of those without locks of folders (NFS)."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


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
        if self == UNKNOWN:
            return "a process that nobody knows, since its lock file was deleted"
        is_stopped = self.is_here and is_suspended(self.pid)
        how = " (suspended, as by Ctrl-Z: fg in its shell continues it)" if is_stopped else ""
        return f"process {self.pid} on {self.host}{how}"

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """Whether it is known to have ended; on another machine nobody can tell."""
        return self.is_here and is_gone(self.pid, self.since)


UNKNOWN = Holder(pid=0, host="", since=0.0)
"""Has locked the folder, but its lock file is gone, where it had said who it is."""


@contextlib.contextmanager
def locked(folder: Path, work: Work = "run") -> Iterator[None]:
    """Hold a sweep's folder: two processes in one study would run each other's trials.

    The locks are the kernel's, so a process that dies leaves none behind: one of the lock file, and
    one of the folder, in case that file is deleted. Where a file system has no locks, what the
    holder has written counts, unless it is known to have ended.

    Raises:
        StudyError: Another process holds it, it cannot be written, or files and folders are in
            each other's place.
    """
    see_kinds(folder)
    with _opened(folder) as itself:
        if _try_lock(itself, fcntl.LOCK_EX) is False:
            raise _taken(folder)
        with _lock_file(folder) as file:
            is_free = _try_lock(file.fileno(), fcntl.LOCK_EX)
            if is_free is None:
                before = _holder(folder)
                is_free = before is None or before.is_gone()
            if not is_free:
                raise _taken(folder)
            (folder / layout.STOP).unlink(missing_ok=True)
            file.truncate(0)
            me = Holder(os.getpid(), socket.gethostname(), time.time(), work)
            file.write(json.dumps(asdict(me)))
            file.flush()
            yield
            with contextlib.suppress(OSError):  # first, or the folder would be UNKNOWN's
                fcntl.flock(itself, fcntl.LOCK_UN)
            file.truncate(0)


def runner(folder: Path) -> Holder | None:
    """Return the process that runs the sweep of a folder now; None: none does."""
    found = holder(folder)
    return found if found is not None and found.work == "run" else None


def holder(folder: Path) -> Holder | None:
    """Return the process that holds a folder now, whatever it does; None: none does.

    Writes nothing, and needs no right to.
    """
    see_kinds(folder)
    found = _holder(folder)
    with contextlib.suppress(FileNotFoundError), _opened(folder / layout.LOCK) as file:
        is_free = _try_lock(file, fcntl.LOCK_SH, patience_seconds=0.0)
        if is_free is False:
            return found
        if is_free is None:
            return None if found is None or found.is_gone() else found
    with contextlib.suppress(FileNotFoundError), _opened(folder) as itself:
        if _try_lock(itself, fcntl.LOCK_SH, patience_seconds=0.0) is False:
            return UNKNOWN
    return None


def _taken(folder: Path) -> StudyError:
    return StudyError(
        f"{folder}: this sweep is already running, as {holder(folder) or 'unknown'}. "
        f"Wait for it, stop it with sweep stop {folder.name}, or use another --name. (If "
        f"that machine is gone for good, delete {folder / layout.LOCK}.)"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file or a folder for its lock alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_file(folder: Path) -> TextIOWrapper:
    """Open the lock file to be written.

    Raises:
        StudyError: The folder is somebody else's, or read-only.
    """
    try:
        file = (folder / layout.LOCK).open("a+")
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        raise _read_only(folder, error.strerror) from None
    if not os.access(folder, os.W_OK):  # the lock alone may be written
        file.close()
        raise _read_only(folder, os.strerror(errno.EACCES))
    return file


def _read_only(folder: Path, why: str | None) -> StudyError:
    return StudyError(
        f"{folder}: must be a folder that this command can write, but is not: {why}. Ask its "
        f"owner, or run a sweep of your own: --output DIR."
    )


def _try_lock(
    descriptor: int, kind: int, patience_seconds: float = PATIENCE_SECONDS
) -> bool | None:
    """Lock a file; False: another process has it locked; None: there are no locks here."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None
        else:
            return True


def _holder(folder: Path) -> Holder | None:
    try:
        return Holder(**json.loads((folder / layout.LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None
