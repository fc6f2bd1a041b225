"""A sweep's own sqlite files, looked at before they are written: are they what was begun?"""

import sqlite3
from contextlib import closing
from pathlib import Path

from optuna.storages._rdb import models

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.storage.copied import copy_into
from sweep.storage.sqlite import address_of

PATIENCE_SECONDS = 5.0
"""For another process that holds the file."""
_TABLES = frozenset(models.BaseModel.metadata.tables)
"""Of Optuna's; it would make again, without a word, those that a file lacks."""


def see_study(folder: Path, name: str, *, every_page: bool = True) -> None:
    """See that the study's own file can go on as the study of this name, or begins it.

    Args:
        every_page: Look at the whole file, before it is written.

    Raises:
        StudyError: It cannot; nothing was changed.
    """
    path = folder / layout.STUDY
    address_of(path)
    if why := _why_not(path, name, has_results=layout.has_results(folder), every_page=every_page):
        raise StudyError(
            f"{path}: must hold the study {name} of the sweep's trials, but {why}. Restore it from "
            f"a copy; or start over under a new name: --name {folder.name}-2"
        )


def _why_not(path: Path, name: str, *, has_results: bool, every_page: bool) -> str | None:
    if is_lost(path):
        return lost_how(path) if has_results else None
    if every_page and (why := why_unusable(path)):
        return why
    try:
        tables, names = _contents(path)
    except sqlite3.Error as error:
        return _in_words(error)
    if tables and not tables & _TABLES:
        return "is another database"
    if has_results and name not in names:
        return f"has only {', '.join(names)}" if names else "has no study"
    missing = sorted(_TABLES - tables) if names else []
    return f"lacks the tables {', '.join(missing)}" if missing else None


def is_lost(path: Path) -> bool:
    """Whether a database is not there, or empty: sqlite would begin it anew."""
    return not path.exists() or path.stat().st_size == 0


def lost_how(path: Path) -> str:
    """What is the matter with a database that `is_lost`."""
    return "is empty (0 bytes)" if path.exists() else "is gone"


def why_unusable(path: Path) -> str | None:
    """Why a database cannot be used, by what sqlite says of every page; None: it can."""
    try:
        with closing(_opened(path)) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return _in_words(error)
    return None if found == "ok" else f"is damaged ({' '.join(found.split())[:120]})"


def _in_words(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return f"another program holds it ({error}): close that one"
    return str(error).replace("file is", "it is")


def study_names(path: Path) -> list[str]:
    """Names of the studies in a file, which is only read.

    Raises:
        sqlite3.Error, OSError: There is no such file, or it is no study's, or cannot be read.
    """
    return _contents(path)[1]


def _contents(path: Path) -> tuple[set[str], list[str]]:
    """The tables of a file, and its studies' names."""
    with closing(sqlite3.connect(":memory:")) as copy:
        copy_into(copy, path)
        tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master")}
        if "studies" not in tables:
            return tables, []
        names = copy.execute("SELECT study_name FROM studies ORDER BY study_id")
        return tables, [str(name) for (name,) in names]


def _opened(path: Path) -> sqlite3.Connection:
    """Open a file that is there; what a killed process left half written is taken back."""
    address = f"{path.resolve().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=PATIENCE_SECONDS)
