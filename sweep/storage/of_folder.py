"""Which study belongs to a folder: sweep.json, and the storage it names."""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import StaticPool

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.storage.attributes import SWEEP_ID
from sweep.storage.copied import copy_into
from sweep.storage.patient import Patience, PatientStorage, own_storage
from sweep.storage.postgresql import START_SECONDS, Address
from trials.whole_file import write_whole

SCHEMA = 1
"""Of the folder: goes up when an older program could no longer read what this one writes."""


def open_folder(folder: Path, server: Address | None = None) -> None:
    """Begin a sweep's folder, or see that this program can go on in the one that is there.

    Args:
        server: Where the study shall be; None: where it is, or in the folder.

    Raises:
        StudyError: It cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / layout.SWEEP
    has_file = (folder / layout.STUDY).exists()
    mend = f"Use a new name: --name {folder.name}-2"
    if about.exists():
        written = _read(about)
        schema = written.get("schema")
        if schema != SCHEMA:
            program = written.get("version", "unknown")
            raise StudyError(
                f"{folder}: written by sweep {program} with schema {schema}; this is "
                f"{version('sweep')} with schema {SCHEMA}. Use that version. {mend}"
            )
        has_trials = any((folder / layout.TRIALS).glob("*"))
        known = written.get("study")
        if server is not None and str(server) != known and (known or has_trials):
            raise StudyError(
                f"{folder}: this sweep's study is in {known or folder / layout.STUDY}, not in "
                f"{server}. Leave --study out to resume there. {mend} (If that database has "
                f"moved, correct `study` in {about}.)"
            )
        if not has_file and known is None and has_trials:
            raise StudyError(
                f"{folder}: has trials, but its study.db is gone. Restore it, or start over. {mend}"
            )
    elif has_file:
        raise StudyError(
            f"{folder}: has a study, but no sweep.json: an older version wrote it, and it cannot "
            f"be resumed. {mend}"
        )
    else:
        write_whole(about, json.dumps({"schema": SCHEMA, "version": version("sweep")}))


def server_of(folder: Path) -> Address | None:
    """Return the server that has the study of a folder; None: its own file."""
    about = folder / layout.SWEEP
    known = _read(about).get("study") if about.exists() else None
    return None if known is None else Address.parse(str(known))


def has_study(folder: Path) -> bool:
    """Whether a study was begun, here or on a server."""
    return (folder / layout.STUDY).exists() or server_of(folder) is not None


@contextlib.contextmanager
def study_reader(folder: Path) -> Iterator[BaseStorage]:
    """Open the storage of a folder's study, to look at; of its own database a copy in memory.

    Raises:
        SQLAlchemyError, StorageInternalError: The server cannot be used.
        sqlite3.Error, OSError: The database cannot be read.
    """
    server = server_of(folder)
    if server is not None:
        yield server.reader()
        return
    with contextlib.closing(sqlite3.connect(":memory:")) as memory:
        copy_into(memory, folder / layout.STUDY)
        yield RDBStorage("sqlite://", {"creator": lambda: memory, "poolclass": StaticPool})


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
    name, about = folder.name, _read(folder / layout.SWEEP)
    mend = f"Use a new name: --name {name}-2"
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        if any((folder / layout.TRIALS).glob("*")):
            raise StudyError(
                f"{folder}: has trials, but {server} no longer has a study {name}. Restore it, or "
                f"start over. {mend}"
            ) from None
    else:
        attributes = storage.get_study_user_attrs(study_id)
        owner = attributes.get(SWEEP_ID)
        is_empty = not attributes and not storage.get_all_trials(study_id, deepcopy=False)
        if not is_empty and (owner is None or owner != about.get("id")):
            whose = "something else" if owner is None else "another sweep"
            raise StudyError(
                f"{folder}: {server} already has a study {name}, of {whose}. {mend}; or resume in "
                f"that one's folder."
            )
    kept = {**about, "study": str(server), "id": about.get("id", str(uuid.uuid4()))}
    write_whole(folder / layout.SWEEP, json.dumps(kept))


def sweep_id(folder: Path) -> str | None:
    """Return what tells this sweep from others of its name on a server; None: it needs no such."""
    found = _read(folder / layout.SWEEP).get("id")
    return None if found is None else str(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}
