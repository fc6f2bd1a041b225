"""Where the user's caches lie: built-in model, tokens, quantised models, compiled code."""

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from trials.config import ConfigError

MEND = "Set XDG_CACHE_HOME to a folder of yours."


def cache_dir() -> Path:
    """Return a folder that nobody else can have filled: an entry's digest lies beside it.

    Several users may have one XDG_CACHE_HOME; what is in the cache is run and trained on.

    Raises:
        ConfigError: There is none, or somebody has taken this user's folder too.
    """
    try:
        shared = user_cache_path("sweep")
    except RuntimeError:
        shared = Path("~")  # as it is in earlier versions of platformdirs
    if not shared.is_absolute():
        raise ConfigError(
            f"The cache must be in a folder of yours, but user {os.geteuid()} has no home here. "
            f"{MEND}"
        )
    folders = (shared, shared.with_name(f"{shared.name}-{os.geteuid()}"))
    for folder in folders:
        if not folder.exists() or _is_ours(folder):
            return folder
    raise ConfigError(
        f"The cache must be your own, but {folders[0]} and {folders[1]} belong to others, or "
        f"can be written by all. {MEND}"
    )


def make(folder: Path) -> Path:
    """Make a folder of the cache, for what cannot be done without.

    Raises:
        ConfigError: The cache cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"The cache must be a folder that you can write, but {folder} is not: "
            f"{error.strerror}. {MEND}"
        ) from None
    return folder


def _is_ours(folder: Path) -> bool:
    about = folder.stat()
    return about.st_uid in (0, os.geteuid()) and not about.st_mode & 0o002
