"""What the files of a prepared folder must hold: their digests, noted in its report.json."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trials.config import DataError
from trials.faults import RowsChanged
from trials.trial_folder import CHECKPOINT, DATA_REPORT, RESULT, read_report

KEY = "digests"
"""In the report; older versions noted none."""

_known: dict[tuple[str, int, int, int], str] = {}
"""Digests that this process has taken, by path, size, time and inode: it reads each file once."""


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder, but for the report, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in files
        if path.name != DATA_REPORT or path.parent != folder
    }


def damaged(folder: Path, report: Mapping[str, Any], only: Collection[str] = ()) -> list[str]:
    """Return the files of a prepared folder that are not what was prepared.

    Args:
        report: Of the folder.
        only: Files to look at; none: all.
    """
    noted: Mapping[str, str] = report.get(KEY, {})
    return [
        name
        for name, digest in noted.items()
        if (not only or name in only) and _digest_or_none(folder / name) != digest
    ]


def see_whole(folder: Path, only: Collection[str] = ()) -> None:
    """See that what is read of a prepared folder is what was prepared.

    Args:
        only: As `damaged`.

    Raises:
        RowsChanged: It is not.
    """
    try:
        report = read_report(folder)
    except DataError as error:
        raise RowsChanged(str(error)) from None
    if report is not None and (names := damaged(folder, report, only)):
        raise RowsChanged(
            f"{folder}: must hold the rows as prepared, but {', '.join(names)} changed since. Run "
            f"the command of these trials again: it prepares them anew."
        )


@contextmanager
def as_prepared(folder: Path, output_dir: Path) -> Iterator[None]:
    """Let a trial train on the rows of a folder; nothing stays of what it made of others.

    Args:
        output_dir: The trial's own.

    Raises:
        RowsChanged: They were changed, before or meanwhile: the trial maps them.
    """
    try:
        see_whole(folder)
        try:
            yield
        finally:
            see_whole(folder)
    except RowsChanged:
        for name in (RESULT, CHECKPOINT):
            (output_dir / name).unlink(missing_ok=True)
        raise


def is_whole(folder: Path) -> bool:
    """Whether there is a prepared folder, and it is what was prepared."""
    try:
        see_whole(folder)
    except DataError:
        return False
    return (folder / DATA_REPORT).exists()


def _digest_or_none(path: Path) -> str | None:
    try:
        return _digest(path)
    except OSError:  # gone, or a folder
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        now = os.fstat(file.fileno())
        stamp = str(path), now.st_size, now.st_mtime_ns, now.st_ino
        if stamp not in _known:
            _known[stamp] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[stamp]
