"""A sweep's folder: its writer, its study, who runs in it, and what others ask of that one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from optuna.storages import BaseStorage

from sweep.storage.patient import Patience, PatientStorage, StudyError, own_storage, storage_url
from sweep.storage.postgresql import START_SECONDS, Address
from trials.whole_file import write_whole

SCHEMA = 1
"""Of the folder: goes up when an older program could no longer read what this one writes."""
PATIENCE_SECONDS = 1.0
"""For the lock: `sweep status` holds it for an instant."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems without locks."""


def open_folder(folder: Path, server: Address | None = None) -> None:
    """Begin a sweep's folder, or see that this program can go on in the one that is there.

    Args:
        server: Where the study shall be; None: where it is, or in the folder.

    Raises:
        StudyError: It cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "sweep.json"
    has_file = (folder / "study.db").exists()
    mend = f"Give this sweep a new name: --name {folder.name}-2"
    if about.exists():
        written = _read(about)
        schema = written.get("schema")
        if schema != SCHEMA:
            program = written.get("version", "unknown")
            raise StudyError(
                f"{folder}: written by sweep {program} with schema {schema}; this is "
                f"{version('sweep')} with schema {SCHEMA}. Go on with that version. {mend}"
            )
        has_trials = any((folder / "trials").glob("*"))
        known = written.get("study")
        if server is not None and str(server) != known and (known or has_trials):
            raise StudyError(
                f"{folder}: this sweep's study is in {known or folder / 'study.db'}, not in "
                f"{server}. Leave --study out to go on there. {mend} (If that database has moved, "
                f"correct `study` in {about}.)"
            )
        if not has_file and known is None and has_trials:
            raise StudyError(
                f"{folder}: has trials, but its study.db is gone. Put it back, "
                f"or begin anew. {mend}"
            )
    elif has_file:
        raise StudyError(
            f"{folder}: has a study, but no sweep.json: a version before this one wrote it, and "
            f"cannot be continued. {mend}"
        )
    else:
        write_whole(about, json.dumps({"schema": SCHEMA, "version": version("sweep")}))


def server_of(folder: Path) -> Address | None:
    """Return the server that has the study of a folder; None: its own file."""
    about = folder / "sweep.json"
    known = _read(about).get("study") if about.exists() else None
    return None if known is None else Address.parse(str(known))


def has_study(folder: Path) -> bool:
    """Whether a study was begun, here or on a server."""
    return (folder / "study.db").exists() or server_of(folder) is not None


def study_reader(folder: Path) -> str | BaseStorage:
    """Return the storage of a folder's study, to look at.

    Raises:
        SQLAlchemyError, StorageInternalError: The server cannot be used.
    """
    server = server_of(folder)
    return storage_url(folder.resolve()) if server is None else server.reader()


@contextlib.contextmanager
def study_writer(
    folder: Path, server: Address | None, patience: Patience
) -> Iterator[PatientStorage]:
    """Open the storage of a folder's study, to be written by this process; the folder remembers it.

    Args:
        server: As given now, perhaps with a password; None: where the folder says.

    Raises:
        StudyError: It cannot be used, or its study of this name is gone, or not this sweep's.
        StudyTaken: Another process writes to it, in another folder.
    """
    server = server or server_of(folder)
    if server is None:
        storage = own_storage(folder.resolve(), patience)
    else:
        storage = server.writer(folder.name, replace(patience, seconds=START_SECONDS))
    try:
        if server is not None:
            _remember(folder, server, storage)
        yield storage
    finally:
        storage.engine.dispose()


def _remember(folder: Path, server: Address, storage: PatientStorage) -> None:
    """Write down that the study of this name on a server is this folder's, unless it is not."""
    name, about = folder.name, _read(folder / "sweep.json")
    mend = f"Give this sweep a new name: --name {name}-2"
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        if any((folder / "trials").glob("*")):
            raise StudyError(
                f"{folder}: has trials, but {server} has no study {name} any more. Restore it, or "
                f"begin anew. {mend}"
            ) from None
    else:
        attributes = storage.get_study_user_attrs(study_id)
        owner = attributes.get("sweep_id")
        is_empty = not attributes and not storage.get_all_trials(study_id, deepcopy=False)
        if not is_empty and (owner is None or owner != about.get("id")):
            whose = "something else" if owner is None else "another sweep"
            raise StudyError(
                f"{folder}: {server} has a study {name} already, of {whose}. {mend}; or go on in "
                f"that one's folder."
            )
    kept = {**about, "study": str(server), "id": about.get("id", str(uuid.uuid4()))}
    write_whole(folder / "sweep.json", json.dumps(kept))


def sweep_id(folder: Path) -> str | None:
    """Return what tells this sweep from others of its name on a server; None: it needs no such."""
    found = _read(folder / "sweep.json").get("id")
    return None if found is None else str(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}


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
        StudyError: Another process holds it.
    """
    with (folder / "lock").open("a+") as file:
        try:
            is_free = _try_lock(file.fileno(), fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            before = _holder(folder)
            is_free = before is None or before.is_gone()
        if not is_free:
            raise StudyError(
                f"{folder}: this sweep is running already, as {_holder(folder) or 'unknown'}. "
                f"Wait for it, end it with sweep stop {folder.name}, or give this one another "
                f"--name. (Should that machine be gone for good, delete {folder / 'lock'}.)"
            )
        (folder / "stop").unlink(missing_ok=True)
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
    path = folder / "lock"
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
        return Holder(**json.loads((folder / "lock").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def ask_to_stop(folder: Path) -> None:
    """Leave word for the process that runs the sweep, on whatever machine it is."""
    (folder / "stop").touch()


def is_asked_to_stop(folder: Path) -> bool:
    """Whether somebody has left word."""
    return (folder / "stop").exists()


def ask_to_prune(folder: Path, number: int) -> None:
    """Leave word that a trial shall end; it is heard at the trial's next evaluation."""
    _prune_word(folder, number).touch()


def is_asked_to_prune(folder: Path, number: int) -> bool:
    """Whether somebody has left word."""
    return _prune_word(folder, number).exists()


def forget_prune(folder: Path, number: int) -> None:
    """Take the word away: the trial has ended."""
    _prune_word(folder, number).unlink(missing_ok=True)


def _prune_word(folder: Path, number: int) -> Path:
    return folder / f"prune-{number:03d}"
