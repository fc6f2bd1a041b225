"""`sweep clean`: what may be deleted of a sweep, and how much that frees."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.lock import holder, locked
from sweep.results.reading import read_sweep
from trials.rendering import token_cache
from trials.trial_folder import CHECKPOINT


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or folder that nothing needs any more."""

    path: Path
    what: str
    n_bytes: int
    """That deleting it frees: a file that another name keeps alive frees nothing."""


def of_sweep(folder: Path) -> list[Garbage]:
    """Find what may go of a sweep: checkpoints of ended trials, and halves of files.

    The study, best/, adapters, logs and MLflow's files are never among it. To delete it, hold the
    sweep's lock: a running one writes the same files.

    Raises:
        StudyError: The study cannot be read, so that nobody knows which trials have ended.
    """
    ended = {trial.number for trial in read_sweep(folder).trials if trial.ended_at is not None}
    found = [
        Garbage(path, "checkpoint of an ended trial", _size(path))
        for path in sorted(folder.glob(f"{layout.TRIALS}/*/{CHECKPOINT}"))
        if path.parent.name.isdigit() and int(path.parent.name) in ended
    ]
    # Written beside, then renamed: where one is left, its process has died.
    found += [
        Garbage(path, "left by a dead process", _size(path))
        for pattern in ("*.tmp", f"{layout.TRIALS}/*/*.tmp")
        for path in sorted(folder.glob(pattern))
    ]
    return found


def of_caches() -> list[Garbage]:
    """Find tokenised data in the user's cache that no sweep's data/ is linked to."""
    return [
        Garbage(entry, "tokenised data that no sweep uses", _size(entry))
        for entry in token_cache.unused()
    ]


def clean(
    folders: Sequence[Path], *, caches: bool, delete: bool
) -> tuple[list[Garbage], list[str]]:
    """Find what may go, and delete it where asked.

    Args:
        caches: Look at the cache of tokenised data too.

    Returns:
        What was found, and a sentence for each sweep that was left alone.
    """
    found, left_alone = [], []
    for folder in folders:
        if not (folder / layout.LOCK).exists():  # it has never run
            continue
        if (running_in := holder(folder)) is not None:
            left_alone.append(f"Skipped {folder.name}: it runs as {running_in}.")
            continue
        try:
            with locked(folder) if delete else nullcontext():
                garbage = of_sweep(folder)
                if delete:
                    _delete(garbage)
        except StudyError as error:
            left_alone.append(f"Skipped {folder.name}: {error}")
        else:
            found += garbage
    if caches:
        garbage = of_caches()
        found += garbage
        if delete:
            for each in garbage:
                token_cache.drop(each.path)
    return found, left_alone


def _delete(garbage: Sequence[Garbage]) -> None:
    for each in garbage:
        if each.path.is_dir() and not each.path.is_symlink():
            shutil.rmtree(each.path, ignore_errors=True)
        else:
            each.path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files = _files(path) if path.is_dir() and not path.is_symlink() else [path]
    return sum(about.st_size for f in files if (about := f.lstat()).st_nlink == 1)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def cleanable_text(
    found: Sequence[Garbage], left_alone: Sequence[str], *, deleted: bool
) -> RenderableType:
    """What was found, by kind, and what that frees."""
    parts: list[RenderableType] = []
    if found:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("MB", justify="right")
        table.add_column("what")
        table.add_column("where", overflow="fold")
        for each in found:
            table.add_row(f"{each.n_bytes / 1e6:,.1f}", each.what, str(each.path))
        parts.append(table)
        total = f"{sum(each.n_bytes for each in found) / 1e6:,.1f} MB"
        words = f"{total} freed." if deleted else f"{total} can be freed; --yes deletes it."
        parts.append(Text(words, style="bold"))
    else:
        parts.append(Text("Nothing to delete."))
    parts += [Text(words, style="yellow") for words in left_alone]
    return Group(*parts)
