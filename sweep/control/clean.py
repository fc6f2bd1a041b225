"""`sweep clean`: what may be deleted of a sweep, and how much that frees."""

import shutil
from collections import Counter
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

UNUSED = "tokenised data that no sweep uses"


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
    return [Garbage(entry, UNUSED, _size(entry)) for entry in token_cache.unused()]


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
                    garbage = list(_deleted(garbage, left_alone))
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


def _deleted(garbage: Sequence[Garbage], left_alone: list[str]) -> Iterator[Garbage]:
    """Delete it; yield what is gone, and say of the rest why it is not."""
    for each in garbage:
        try:
            if each.path.is_dir() and not each.path.is_symlink():
                shutil.rmtree(each.path)
            else:
                each.path.unlink(missing_ok=True)
        except OSError as error:
            left_alone.append(f"Skipped {error.filename or each.path}: {error.strerror}.")
        else:
            yield each


def _size(path: Path) -> int:
    files = _files(path) if path.is_dir() and not path.is_symlink() else [path]
    return sum(about.st_size for f in files if (about := f.lstat()).st_nlink == 1)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def cleanable_text(
    found: Sequence[Garbage], left_alone: Sequence[str], *, deleted: bool, listed: bool
) -> RenderableType:
    """What was found, and what that frees.

    Args:
        listed: Each by itself; else how much there is of each kind.
    """
    parts: list[RenderableType] = []
    if found:
        parts += [_table(found)] if listed else _counts(found)
        hint = "" if listed else ", --verbose lists it"
        words = "freed." if deleted else f"can be freed; --yes deletes it{hint}."
        parts.append(Text(f"{_megabytes(found)} {words}", style="bold"))
    elif not left_alone:
        parts.append(Text("Nothing to delete."))
    if len(left_alone) > 1 and not listed:
        left_alone = [f"Skipped {len(left_alone)} sweeps or files; --verbose says why."]
    parts += [Text(words, style="yellow") for words in left_alone]
    return Group(*parts)


def _counts(found: Sequence[Garbage]) -> list[RenderableType]:
    """A line for what is in sweeps, one for what is in the cache."""
    in_cache = [each for each in found if each.what == UNUSED]
    in_sweeps = [each for each in found if each.what != UNUSED]
    kinds = Counter(each.what for each in in_sweeps)
    words = ", ".join(f"{kind}: {n}" for kind, n in kinds.items())
    lines = [Text(f"Sweeps: {_megabytes(in_sweeps)} ({words})")] if in_sweeps else []
    if in_cache:
        lines.append(Text(f"Cache: {_megabytes(in_cache)} ({UNUSED}: {len(in_cache)})"))
    return [*lines]


def _table(found: Sequence[Garbage]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("MB", justify="right")
    table.add_column("what")
    table.add_column("where", overflow="fold")
    for each in found:
        table.add_row(f"{each.n_bytes / 1e6:,.1f}", each.what, str(each.path))
    return table


def _megabytes(found: Sequence[Garbage]) -> str:
    return f"{sum(each.n_bytes for each in found) / 1e6:,.1f} MB"
