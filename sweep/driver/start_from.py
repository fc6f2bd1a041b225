"""`start_from`: the best points of earlier sweeps are tried first."""

import difflib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from sweep.errors import SpaceError, StudyError, TrackingError
from sweep.folder import layout
from sweep.results.reading import read_sweep
from sweep.samplers.search_space import is_within
from sweep.space.space import Space
from sweep.space.usual_points import Start, within
from sweep.space.yaml_file import did_you_mean
from sweep.storage.attributes import STARTED_FROM
from sweep.storage.patient import PatientStorage
from sweep.study.earlier import Earlier
from sweep.text.trials import an
from trials.foreign_text import without_secrets

TAKEN = 3
"""Points of each earlier sweep, at most."""


def with_earlier(
    space: Space,
    output: Path,
    mlflow: str | None,
    storage: PatientStorage | None = None,
    folder: Path | None = None,
) -> Space:
    """Return the space with the best points of the sweeps of `start_from` among its first.

    An earlier sweep is looked at once: what a study has taken from it stays, whatever becomes of
    it, and the study goes on where it is gone.

    Args:
        output: Folder of all sweeps.
        mlflow: An MLflow server's address, for sweeps that are not in that folder.
        storage: The study's, where it is open.
        folder: The sweep's own; None: that of its name.

    Raises:
        SpaceError: With every problem: there is no such sweep, or none of its trials counts.
        TrackingError: The MLflow server cannot be used.
    """
    looked_at = _looked_at(folder or output / space.name, storage)
    starts: list[Start] = []
    problems: list[str] = []
    for name in space.settings.earlier:
        if name in looked_at:
            continue
        try:
            starts += _starts(space, _found(name, output, mlflow))
        except (SpaceError, StudyError) as error:
            problems.append(f"start_from: {error}")
        except TrackingError as error:
            raise TrackingError(f"start_from: {error}") from None
    if problems:
        raise SpaceError("\n".join(problems))
    return replace(space, starts=(*starts, *space.starts))


def _looked_at(folder: Path, storage: PatientStorage | None) -> Collection[str]:
    """Names of the sweeps that the study of a folder has taken points of."""
    try:
        return [str(name) for name in read_sweep(folder, storage).attributes.get(STARTED_FROM, [])]
    except StudyError:  # it has not begun
        return []


def _found(name: str, output: Path, mlflow: str | None) -> Earlier:
    """Look for a sweep beside this one, then in MLflow."""
    folder = output / name
    if (folder / layout.SWEEP).exists():
        sweep = read_sweep(folder)
        return _counting(Earlier(sweep.name, sweep.objective, sweep.decided[:TAKEN]))
    known = [each.name for each in layout.sweep_folders(output)]
    there = f"in {output.resolve()}"
    if mlflow is None:
        there = f"{there}; --mlflow adds a server to look in"
    else:
        from sweep.tracking.earlier import best_in_mlflow, names_in_mlflow

        if found := best_in_mlflow(mlflow, name, TAKEN):
            return _counting(found)
        known += names_in_mlflow(mlflow)
        there = f"{there}, nor at {without_secrets(mlflow)}"
    near = difflib.get_close_matches(name, known, n=1)
    raise SpaceError(f"no sweep {name} {there}{did_you_mean(near)}")


def _counting(found: Earlier) -> Earlier:
    if found.best:
        return found
    raise SpaceError(
        f"{found.name} must have a trial with {an(found.objective)} that counts, but has none "
        f"yet. Resume it, or name another sweep."
    )


def _starts(space: Space, earlier: Earlier) -> list[Start]:
    """Its best points as points of this space."""
    starts = []
    for trial in earlier.best:
        if values := within(space.domains, trial.hyperparameters):
            value = f"{earlier.objective.heading} {trial.value:.4f}"
            moved = "" if is_within(space, trial.hyperparameters) else ", moved into this space"
            origin = f"from {earlier.name}: trial {trial.number:03d} ({value}){moved}"
            starts.append(Start(values, origin, sweep=earlier.name))
    if starts:
        return starts
    raise SpaceError(
        f"{earlier.name} must share a searched value with this space, but its best trials have "
        f"none. Search what it searched, or remove its name."
    )
