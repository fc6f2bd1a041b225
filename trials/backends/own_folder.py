"""A folder that no other process uses meanwhile, and that a later one finds again."""

import fcntl
from pathlib import Path
from typing import IO

_held: list[IO[str]] = []
"""Locks; the system releases them when the process ends."""


def own_folder(stem: Path) -> Path:
    """Return the first of `stem`-0, `stem`-1, … that no living process has taken; make it."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        folder = stem.with_name(f"{stem.name}-{number}")
        lock = folder.with_name(f"{folder.name}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
            continue
        _held.append(lock)
        folder.mkdir(exist_ok=True)
        return folder
