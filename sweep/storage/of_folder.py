"""Which study belongs to a folder: sweep.json, and the storage it names."""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import StaticPool

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.kinds import see_kinds
from sweep.storage.attributes import SWEEP_ID
from sweep.storage.copied import copy_into
from sweep.storage.own_file import see_study, study_names
from sweep.storage.patient import Patience, PatientStorage, own_storage
from sweep.storage.postgresql import START_SECONDS, Address
from sweep.storage.sqlite import address_of
from trials.trial_folder import read_json
from trials.whole_file import write_whole

SCHEMA = 1
"""Of the folder: goes up when an older program could no longer read what this one writes."""
_KINDS = {"name": str, "path": str, "study": str, "id": str, "libraries": dict, "space": str}
"""Of what may stand in sweep.json beside the schema."""


def open_folder(folder: Path, server: Address | None = None) -> None:
    """Begin a sweep's folder, or see that this program can go on in the one that is there.

    Args:
        server: Where the study shall be; None: where it is, or in the folder.

    Raises:
        StudyError: It cannot.
    """
    if server is None:
        address_of(folder.resolve() / layout.MLFLOW_DATABASE)  # before anything is written
    see_kinds(folder, with_trials=True)
    folder.mkdir(parents=True, exist_ok=True)
    mend = f"Use a new name: --name {folder.name}-2"
    if not (about := read_about(folder)):
        _begin(folder, mend)
        return
    if about.get("schema") != SCHEMA:
        raise StudyError(
            f"{folder}: written by sweep {about.get('version', 'unknown')} with schema "
            f"{about.get('schema')}; this is {version('sweep')} with schema {SCHEMA}. Use that "
            f"version. {mend}"
        )
    name, known = study_name(folder), about.get("study")
    if folder.name not in (name, folder.resolve().name):
        raise StudyError(
            f"--name {folder.name}: {folder} leads to {folder.resolve()}, the sweep {name}. Name "
            f"that one, or another that is not there yet."
        )
    if server is not None and str(server) != known and (known or layout.has_results(folder)):
        raise StudyError(
            f"{folder}: this sweep's study is in {known or folder / layout.STUDY}, not in "
            f"{server}. Leave --study out to resume there. {mend} (If that database has moved, "
            f"correct `study` in {folder / layout.SWEEP}.)"
        )
    if known is None and server is None:
        see_study(folder, name)


def _begin(folder: Path, mend: str) -> None:
    has_file = (folder / layout.STUDY).exists()
    if has_file or layout.has_results(folder):
        raise StudyError(
            f"{folder}: has {'a study' if has_file else 'trials'}, but no sweep.json: it is gone, "
            f"or an older version wrote the rest, which cannot be resumed. Restore it. {mend}"
        )
    here = {"name": folder.name, "path": str(folder.resolve())}
    write_about(folder, {"schema": SCHEMA, "version": version("sweep"), **here})


def study_name(folder: Path) -> str:
    """Return the name of a folder's study, and of its MLflow experiment: the folder's first name.

    A version that noted none gave the study the folder's name of then.
    """
    if (name := read_about(folder).get("name")) is not None:
        return str(name)
    with contextlib.suppress(sqlite3.Error, OSError):  # there is none yet
        names = study_names(folder / layout.STUDY)
        return names[0] if len(names) == 1 else folder.name
    return folder.name


def server_of(folder: Path) -> Address | None:
    """Return the server that has the study of a folder; None: its own file."""
    known = read_about(folder).get("study")
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
        storage = server.writer(study_name(folder), replace(patience, seconds=START_SECONDS))
    try:
        if server is not None:
            _remember(folder, server, storage)
        yield storage
    finally:
        storage.engine.dispose()


def _remember(folder: Path, server: Address, storage: PatientStorage) -> None:
    """Write down that the study of this name on a server is this folder's, unless it is not."""
    name, about = study_name(folder), read_about(folder)
    mend = f"Use a new name: --name {folder.name}-2"
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        if layout.has_results(folder):
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
    write_about(folder, kept)


def sweep_id(folder: Path) -> str | None:
    """Return what tells this sweep from others of its name on a server; None: it needs no such."""
    found = read_about(folder).get("id")
    return None if found is None else str(found)


def read_about(folder: Path) -> dict[str, Any]:
    """Return what sweep.json says; nothing where there is none.

    Raises:
        StudyError: It cannot be read.
    """
    path, holds = folder / layout.SWEEP, "what the folder is"
    mend = f'Restore it; of a sweep with a study.db this is enough: {{"schema": {SCHEMA}}}'
    found = read_json(path, dict, holds=holds, mend=mend, error=StudyError) or {}
    for key, kind in _KINDS.items():
        if key in found and not isinstance(found[key], kind):
            raise StudyError(f"{path}: must hold {holds}, but {key} is {found[key]!r}. {mend}")
    return found


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write sweep.json, if that changes it."""
    if about != read_about(folder):
        write_whole(folder / layout.SWEEP, json.dumps(about))
