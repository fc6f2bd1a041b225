"""Where a sweep's folder lies, what it is called now, and what it last ran with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.lock import Work, locked
from sweep.storage.of_folder import read_about, study_name, write_about

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""Other versions of these may give other losses."""


@contextmanager
def held(folder: Path, say: Callable[[str], None], work: Work = "run") -> Iterator[None]:
    """Hold a sweep's folder (`locked`) to go on with its study.

    Args:
        say: Hears where the folder was before, if it was moved or renamed since it last ran.

    Raises:
        StudyError: Another process holds it; or it is a copy, and its original is still there:
            both would go on as one study.
    """
    with locked(folder, work):
        _see_place(folder, say)
        yield


def _see_place(folder: Path, say: Callable[[str], None]) -> None:
    noted, here = read_about(folder).get("path"), folder.resolve()
    if noted is not None and _is_one_folder(Path(noted), here):
        return
    if noted is not None and _is_one_sweep(Path(noted), here):
        raise StudyError(
            f"{folder}: a sweep must not run in two places, but this is a copy of {noted}, which "
            f"is still there. Run that one, or remove it; or begin another: --name "
            f"{folder.name}-2. (status, show, best, compare, report and export read a copy.)"
        )
    name = study_name(folder)
    moved = "" if noted is None else f" It was {noted} when it last ran."
    named = "" if name == here.name else f" Its study and its MLflow experiment stay {name}."
    if moved or named:
        say(f"{folder}: the sweep goes on here.{moved}{named}")


def _is_one_folder(one: Path, other: Path) -> bool:
    with suppress(OSError):  # there is none
        return one.samefile(other)  # a mount may have two paths
    return one == other


def _is_one_sweep(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        ids = [(at / layout.MLFLOW_SWEEP_ID).read_text(encoding="utf-8") for at in (one, other)]
        return bool(ids[0].strip()) and ids[0] == ids[1]
    return False


def say_versions(folder: Path, say: Callable[[str], None]) -> None:
    """Say which libraries are others than when the sweep's trials last ran."""
    before: Mapping[str, Any] = read_about(folder).get("libraries") or {}
    now = _libraries()
    changed = [
        f"{name} {before[name] or 'none'} → {now[name] or 'none'}"
        for name in LIBRARIES
        if name in before and before[name] != now[name]
    ]
    if changed and layout.has_results(folder):
        say(
            f"Other versions than in the sweep's last run: {', '.join(changed)}. Losses of trials "
            f"from now on may differ a little from those before."
        )


def note_run(folder: Path, space_folder: Path) -> None:
    """Write down where the sweep's trials run, with which libraries, and where its space lies."""
    note_place(folder, libraries=_libraries(), space=str(space_folder))


def space_folder(folder: Path) -> Path:
    """Return where relative paths of a sweep's space begin.

    A version that noted none was to be called from the same folder.
    """
    return Path(str(read_about(folder).get("space", Path.cwd())))


def note_place(folder: Path, **more: object) -> None:
    """Write down where the folder lies: what was said of it is not said again."""
    place = {"name": study_name(folder), "path": str(folder.resolve())}
    write_about(folder, {**read_about(folder), **place, **more})


def _libraries() -> dict[str, str | None]:
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
