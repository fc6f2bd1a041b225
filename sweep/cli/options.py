"""What several commands share: their options, and how they say what is wrong."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sweep.folder import layout
from sweep.screen.in_ascii import as_shown
from trials.foreign_text import cleaned, harmless, has_secret

if TYPE_CHECKING:
    from rich.console import Console

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The search space.")]
Trials = Annotated[
    int | None, typer.Option(min=1, help="Trials in the whole study.", show_default=False)
]
Hours = Annotated[
    float | None, typer.Option(help="Stop after this many hours of this run.", show_default=False)
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Run on CPUs, this many trials at once.", show_default=False),
]
Gpus = Annotated[
    int | None, typer.Option(min=1, help="GPUs to use; default: all.", show_default=False)
]
Name = Annotated[
    str | None, typer.Option(help="Name of the sweep, in place of the file's.", show_default=False)
]


def sweep_names(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: the sweeps below --output, if that stands before."""
    output = Path(context.params.get("output") or "sweeps")
    names = [folder.name for folder in layout.sweep_folders(output)]
    return [name for name in names if name.startswith(incomplete)]


SweepName = Annotated[
    str, typer.Argument(metavar="NAME", help="The sweep's name.", autocompletion=sweep_names)
]
SweepOrJob = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The sweep's name, or its job on a cluster.",
        autocompletion=sweep_names,
    ),
]
Output = Annotated[Path, typer.Option(help="Folder of sweeps.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the sampler and of every trial.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting: search.rank=[8,16]; repeatable.",
        show_default=False,
    ),
]


class Refused(SystemExit):
    """What a user got wrong has been said; the command ends with 2."""

    def __init__(self, words: str) -> None:
        super().__init__(2)
        self.words = words


def echo(words: object, *, err: bool = False, nl: bool = True) -> None:
    """Say words, which may hold those of a file or a server."""
    typer.echo(cleaned(str(words)), err=err, nl=nl)


def print_json(value: Any) -> None:
    """Print for programs; ASCII where the screen has no more, which JSON can spell."""
    is_utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
    echo(json.dumps(value, indent=1, ensure_ascii=not is_utf8, allow_nan=False))


def print_file(text: str) -> None:
    """Print what becomes a file, so that it is the same in every locale."""
    text = cleaned(text)
    # A notebook, or whoever redirects it, may have a stream of characters alone.
    typer.echo(text.encode() if hasattr(sys.stdout, "buffer") else text, nl=False)


def print_yaml(text: str) -> None:
    """Print YAML, its comments in ASCII where the screen has no more, unless values need more."""
    from ruamel.yaml import YAML

    shown, load = as_shown(text, sys.stdout), YAML(typ="safe").load
    print_file(shown if load(shown) == load(text) else text)


def fail(words: str) -> NoReturn:
    """Say what a user got wrong, and end."""
    shown = harmless(words)
    with suppress(OSError):  # nobody may read it; the exit code says it too
        echo(shown, err=True)
    raise Refused(shown)


PASSWORDS = {
    "--mlflow": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "--study": "PGPASSWORD",
}
"""The variables that hold what an address must not."""


def tell_of_passwords(**addresses: str | None) -> None:
    """Say that a password on the command line is none: every user of the machine reads it."""
    for name, address in addresses.items():
        if address is not None and has_secret(address):
            echo(
                f"--{name}: everybody on this machine can read its password, with `ps`. Set "
                f"{PASSWORDS[f'--{name}']}, and leave it out of the address.",
                err=True,
            )


def overrides_of(sets: list[str] | None, name: str | None, seed: int | None) -> dict[str, str]:
    """Return settings in place of the file's: dotted key → value as YAML."""
    overrides: dict[str, str] = {}
    for given in sets or []:
        key, equals, value = given.partition("=")
        if not equals or not key:
            fail(f"--set {given}: must be KEY=VALUE, such as --set search.epochs=[1,2].")
        overrides[key] = value
    if name is not None:
        overrides["name"] = json.dumps(name)  # a text, whatever YAML would think of it
    if seed is not None:
        overrides["seed"] = str(seed)
    return overrides


def known_folder(output: Path, name: str, with_file: str = layout.SWEEP) -> Path:
    """The folder of a sweep that has got as far as writing a certain file."""
    known = [folder.name for folder in layout.sweep_folders(output, with_file)]
    if name not in known:
        folder = (output / name).resolve()
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
            fail(f"{folder}: must be open to you, but is not. Ask its owner for the right.")
        there = f"There are: {', '.join(known)}." if known else "There is none yet."
        fail(f"{folder}: no such sweep. {there} Look elsewhere with --output.")
    return output / name


def console(*, stderr: bool = False) -> Console:
    """Where words for people go, without markup of their own."""
    from sweep.screen.console import CleanConsole

    # A log has no width, unless COLUMNS names one; rich would cut its tables at 80 columns.
    named = os.environ.get("COLUMNS", "")
    given = int(named) if named.isdecimal() and int(named) else 120
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else given
    # markup=False: names and rows of a user may hold square brackets.
    return CleanConsole(highlight=False, markup=False, emoji=False, width=width, stderr=stderr)
