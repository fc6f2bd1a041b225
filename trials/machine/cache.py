"""Where the user's caches lie: built-in model, tokens, quantised models, compiled code."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from trials.config import ConfigError

MEND = "Set XDG_CACHE_HOME to a folder of yours."


def cache_dir() -> Path:
    """Return a folder that nobody else can have filled: an entry's digest lies beside it.

    Several users may have one XDG_CACHE_HOME; what is in the cache is run and trained on.

    Raises:
        ConfigError: Somebody has taken this user's folder too.
    """
    shared = user_cache_path("sweep")
    folders = (shared, shared.with_name(f"{shared.name}-{os.geteuid()}"))
    for folder in folders:
        if not folder.exists() or _is_ours(folder):
            return folder
    raise ConfigError(
        f"The cache must be your own, but {folders[0]} and {folders[1]} belong to others, or "
        f"can be written by all. {MEND}"
    )


def _is_ours(folder: Path) -> bool:
    about = folder.stat()
    return about.st_uid in (0, os.geteuid()) and not about.st_mode & 0o002
