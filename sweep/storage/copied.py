"""A sqlite database as it is at one moment, whoever owns it: nothing is written where it lies.

sqlite itself writes there even to read: it rolls back what a killed process left half done
(`-journal`), and for a database with a write-ahead log (`-wal`) it makes two files.
"""

import errno
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from trials.unfinished import scratch_dir

TRIES = 20
"""For a copy that nobody wrote to meanwhile, a tenth of a second apart."""
_BESIDE = ("-journal", "-wal")
_WRITE_AHEAD = b"\x02\x02"
"""Bytes 18 and 19 of a database that has a write-ahead log."""


def copy_into(target: sqlite3.Connection, path: Path) -> None:
    """Copy a database into another, which is empty.

    Raises:
        sqlite3.Error, OSError: It cannot be read, or is no database.
    """
    path = path.resolve()  # what belongs to it lies beside itself, not beside a link
    with path.open("rb") as file:
        is_alone = file.read(20)[18:] != _WRITE_AHEAD
    if is_alone:
        # Half a transaction of a dead process, or a file system without locks: only a copy is read.
        with suppress(sqlite3.OperationalError):
            _copy(f"{path.as_uri()}?mode=ro", target)
            return
    with scratch_dir() as scratch:
        _copy(_with_what_is_beside(path, Path(scratch)).as_uri(), target)


def _copy(address: str, target: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as source:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # waits for its writer
        source.backup(target)


def _with_what_is_beside(path: Path, folder: Path) -> Path:
    """Copy the files of a database, all of one moment; sqlite puts right what they lack."""
    copy = folder / path.name
    for _ in range(TRIES):
        before = _stamps(path)
        for beside in ("", *_BESIDE):
            copied = copy.with_name(f"{copy.name}{beside}")
            copied.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{beside}", copied)
        if _stamps(path) == before:
            return copy
        time.sleep(0.1)
    raise OSError(errno.EBUSY, "is written to all the time; try again", str(path))


def _stamps(path: Path) -> list[tuple[int, int, int] | None]:
    stamps: list[tuple[int, int, int] | None] = []
    for beside in ("", *_BESIDE):
        try:
            about = Path(f"{path}{beside}").stat()
            stamps.append((about.st_ino, about.st_size, about.st_mtime_ns))
        except FileNotFoundError:
            stamps.append(None)
    return stamps
