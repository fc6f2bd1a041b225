"""Read the search space that a command is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.folder import layout

if TYPE_CHECKING:
    from sweep.space.space import Space


def load_file(path: Path, overrides: Mapping[str, str]) -> Space:
    """Read a file; of a sweep's own copy, relative paths begin where the file was.

    Raises:
        SpaceError: With every problem.
    """
    from sweep.errors import SpaceError
    from sweep.space.loading import load_space
    from sweep.storage.place import space_folder

    folder = path.parent
    if path.name != layout.SPACE or not (folder / layout.SWEEP).is_file():
        return load_space(path, overrides)
    begin = space_folder(folder)
    try:
        return load_space(path, {"name": json.dumps(folder.resolve().name), **overrides}, begin)
    except SpaceError as error:
        raise SpaceError(f"{error}\nRelative paths begin in {begin}.") from None
