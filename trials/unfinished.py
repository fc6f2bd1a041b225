"""What is not whole yet lies under a name with its process's number; a dead one's goes."""

import contextlib
import glob
import os
import shutil
import socket
import tempfile
from pathlib import Path


def unfinished(path: Path) -> Path:
    """Return where a file or folder is made, beside `path`, before it gets that name.

    What killed processes of this machine have left there is deleted.
    """
    _delete_leftovers(path.parent, glob.escape(path.name))
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def scratch_dir(parent: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for this process alone; what killed ones have left beside it is deleted.

    Args:
        parent: None: where this machine has such folders.
    """
    # Machines and containers that share the folder do not see each other's processes.
    names = f"sweep-{socket.gethostname()}-"
    _delete_leftovers(parent or Path(tempfile.gettempdir()), f"{names}*")
    return tempfile.TemporaryDirectory(f".{os.getpid()}.tmp", names, parent)


def is_gone(pid: int, since: float) -> bool:
    """Whether a process of this machine has ended, which was there at `since` (of the epoch)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or bool(process.create_time() > since)
    except psutil.NoSuchProcess:
        return True


def is_suspended(pid: int) -> bool:
    """Whether a process of this machine is stopped, and may go on."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def _delete_leftovers(folder: Path, names: str) -> None:
    for leftover in folder.glob(f"{names}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        with contextlib.suppress(OSError):  # another process was first
            about = leftover.lstat()
            if about.st_uid != os.geteuid() or not pid.isdecimal():
                continue
            if not is_gone(int(pid), about.st_mtime):
                continue
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()
