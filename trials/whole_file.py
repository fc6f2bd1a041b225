"""Files and folders that are there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from trials.foreign_text import has_secret
from trials.unfinished import unfinished


def write_whole(path: Path, text: str) -> None:
    """Write `text` to a new file and give it the name of `path` once it is on the disk.

    A process that is killed, a disk that is full or a machine that goes down leaves the old file.
    One with a password or a token may be read by its owner alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = unfinished(path)
    try:
        with half.open("w", encoding="utf-8") as file:
            if has_secret(text):
                os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def write_new(path: Path, text: str) -> None:
    """Write `text` to a file that nobody has made meanwhile; half of it would stand in the way."""
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except BaseException:
            path.unlink()
            raise


def usual_mode() -> int:
    """Return what the umask gives a new file."""
    umask = os.umask(0o077)  # there is no other way to ask; what a thread makes meanwhile is closed
    os.umask(umask)
    return 0o666 & ~umask


def give_usual_mode(files: Iterable[Path]) -> None:
    """Let others read files as the umask says: safetensors writes them for their owner alone."""
    for file in files:
        file.chmod(usual_mode())


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill; once that has gone well, it takes the place of `folder`."""
    half = unfinished(folder)
    half.mkdir(parents=True)
    try:
        yield half
        if folder.exists():
            shutil.rmtree(folder)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with the modes that the umask gives: its own may let nobody write."""
    target.mkdir()
    for path in source.iterdir():
        (copy_folder if path.is_dir() else shutil.copyfile)(path, target / path.name)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Put a file at `target`, where there is none, without its bytes if the disk allows."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def sync_folder(folder: Path) -> None:
    """Wait until the files of a folder are on the disk, before the folder gets its name."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
