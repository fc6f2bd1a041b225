"""Room on the disk, and the base models that are kept there in 4 and 8 bits."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from trials.machine.cache import MEND, cache_dir
from trials.machine.finding import Finding

LEAST_FREE_BYTES = 2 * 10**9
"""For a base model in 4 bits, checkpoints and adapters; large models take more."""


def room(folder: Path, subject: str) -> Finding:
    """Whether there is room for a folder, which may not be there yet."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        mend = "Move the file away, or name another folder."
        return Finding(subject, f"{folder} cannot be: {there} is a file", mend, "cannot")
    if not os.access(there, os.W_OK | os.X_OK):
        mend = "Give it to this user, or name another."
        return Finding(subject, f"{folder} cannot be written to", mend, "cannot")
    free = shutil.disk_usage(there).free
    words = f"{folder}, {free / 1e9:,.1f} GB free"
    if free >= LEAST_FREE_BYTES:
        return Finding(subject, words)
    mend = f"A sweep needs {LEAST_FREE_BYTES / 1e9:.0f} GB: free some, or name another folder."
    return Finding(subject, words, mend, "cannot")


def cache_room() -> Finding:
    """Whether there is room for the cache, which most sweeps can do without."""
    found = room(cache_dir(), "disk")
    if found.grade == "ready":
        return found
    mend = f"Sweeps go on without a cache, but the built-in model needs one. {MEND}"
    return replace(found, mend=mend, grade="slower")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # a worker has put it in its place meanwhile
        return 0


def quantised() -> Finding:
    """The base models that later workers read in place of quantising them again."""
    folder = cache_dir() / "quantised"
    entries = [path for path in folder.glob("*") if path.is_dir()] if folder.is_dir() else []
    whole = [path for path in entries if path.suffix != ".tmp"]
    size = sum(_size(file) for path in entries for file in path.rglob("*"))
    left = f", {len(entries) - len(whole)} begun" if len(whole) < len(entries) else ""
    return Finding("cache", f"{len(whole)} quantised models{left}, {size / 1e9:,.1f} GB, {folder}")
