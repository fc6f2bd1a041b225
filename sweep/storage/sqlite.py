"""Addresses of sqlite files, whatever characters their paths have."""

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from sweep.errors import StudyError

SCHEMES = "sqlite:///", "sqlite+pysqlite:///"
MOST_BYTES = 504
"""Of a path that sqlite opens: 512, with the ends that its other files have."""


def address_of(file: Path) -> str:
    """Return the address of a database file: a `?`, `%` or `{` in its path must not change it.

    Raises:
        StudyError: sqlite or its address cannot have such a path.
    """
    n_bytes = len(os.fsencode(file))
    if n_bytes > MOST_BYTES:
        raise StudyError(
            f"{file}: sqlite opens paths of at most {MOST_BYTES} bytes, but this has {n_bytes}. "
            f"Use a folder with a shorter path."
        )
    url = URL.create("sqlite", database=str(file))
    try:
        str(url)
    except UnicodeEncodeError:
        words = f"{file}: must be a path in UTF-8. Rename its folder, or use another."
        raise StudyError(words) from None
    if str(url).endswith(str(file)):
        return str(url)
    # The same, but MLflow does not make the folders of the path as it is written here.
    return str(url.set(drivername="sqlite+pysqlite"))


def file_of(address: str) -> Path | None:
    """Return the file of a database; None: the address is not of one."""
    if not address.startswith(SCHEMES):
        return None
    try:
        file = make_url(address).database
    except ArgumentError:
        return None
    return Path(file) if file else None
