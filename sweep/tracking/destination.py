"""Where a sweep is recorded: by `--mlflow`, else where it is, else by MLflow's own variables."""

import os
from dataclasses import dataclass
from pathlib import Path

from sweep.storage.of_folder import study_name
from sweep.tracking.location import checked, experiment_of, is_spoken, own_database, tracked_at
from trials.foreign_text import without_secrets

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where runs go, and why there."""

    uri: str
    """With its login, if it holds one."""
    experiment: str
    """Its name."""
    words: str = ""
    """What a variable had to say in it; nothing where none had."""
    asked: str | None = None
    """The server that the command line or a variable names, to look for other sweeps in."""


def destination(folder: Path, flag: str | None) -> Destination:
    """Return where the runs of a sweep go; one that has begun stays where it is.

    Args:
        folder: The sweep's, begun or not.
        flag: What `--mlflow` says.

    Raises:
        TrackingError: Nothing can be sent to what the command line, or the variable, names.
    """
    named, known = variable(URI), known_address(folder)
    begun_as, name = experiment_of(folder), variable(EXPERIMENT)
    experiment = begun_as or name or study_name(folder)
    words = []
    if flag:
        uri = checked(flag)
    elif known is not None:
        uri = known
    else:
        uri = checked_variable() or own_database(folder)
    if named and not flag:
        words.append(_of_the_address(named, uri))
    if name and experiment == name != study_name(folder):
        words.append(f"MLflow: in the experiment {name}, as {EXPERIMENT} says.")
    elif name and experiment != name:
        words.append(f"{EXPERIMENT} is {name}, but this sweep has begun in {experiment}: it stays.")
    asked = flag or (named if named and is_spoken(named) else None)
    return Destination(uri, experiment, "\n".join(words), asked)


def _of_the_address(named: str, uri: str) -> str:
    shown = without_secrets(named)
    if _is_same(named, uri):
        return f"MLflow: {shown}, as {URI} says; --mlflow names another."
    move = f" To move it: --mlflow {shown}" if is_spoken(named) else ""
    return f"{URI} is {shown}, but this sweep has begun at {without_secrets(uri)}: it stays.{move}"


def known_address(folder: Path) -> str | None:
    """Return where a sweep's runs are, with the login that the variable has for it."""
    known, named = tracked_at(folder), variable(URI)
    if known is None or named is None or not _is_same(named, known):
        return known
    return named.rstrip("/") + "/" * known.endswith("/")  # to be compared, but for the login


def checked_variable() -> str | None:
    """Return the address that the variable names; None: it names none.

    Raises:
        TrackingError: Nothing can be sent to it.
    """
    mend = (
        "Unset it (then a sweep has a database of its own), or name a server's address: "
        "--mlflow http://localhost:5000."
    )
    named = variable(URI)
    return None if named is None else checked(named, URI, mend)


def variable(name: str) -> str | None:
    """Return what a variable of MLflow's says; None: nothing."""
    return os.environ.get(name, "").strip() or None


def _is_same(one: str, other: str) -> bool:
    """Whether two addresses are one but for the login."""
    first, second = (
        without_secrets(checked(uri) if is_spoken(uri) else uri).rstrip("/") for uri in (one, other)
    )
    return first == second
