"""A process that the kernel ends for want of memory: the limit is that of a control group."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import psutil

LIMIT = 2**20
"""Bytes that a process may still take; what it has is not counted."""
VERSION_1 = Path("/sys/fs/cgroup/memory")
VERSION_2 = Path("/sys/fs/cgroup")


def end_for_memory(process: psutil.Process, seconds: float = 60.0) -> bool:
    """Let a process meet its limit; whether the kernel has ended it by then. Takes root."""
    root, limit = (
        (VERSION_1, "memory.limit_in_bytes") if VERSION_1.exists() else (VERSION_2, "memory.max")
    )
    group = root / f"sweep-faults-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        (group / limit).write_text(str(LIMIT))
        (group / "cgroup.procs").write_text(str(process.pid))
        deadline = time.monotonic() + seconds
        while _runs(process) and time.monotonic() < deadline:
            time.sleep(0.1)
        return not _runs(process)
    finally:
        if _runs(process):
            (root / "cgroup.procs").write_text(str(process.pid))
        _remove(group)


def _remove(group: Path, seconds: float = 10.0) -> None:
    """Remove a control group, which is busy until its last process has been waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
