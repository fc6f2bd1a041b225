"""The commands that look at sweeps and put their result into people's hands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sweep.cli.options import Output, SweepName, console, fail, known_folder, sweep_names

if TYPE_CHECKING:
    from sweep.results.trial_record import Record

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
OtherTrial = Annotated[
    int | None,
    typer.Option("--trial", min=0, help="Another trial than the best.", show_default=False),
]

# As in sweep.export.trainer_yaml and sweep.results.show, imported only when they are needed.
Trainer = Literal["trl", "axolotl", "llama-factory"]
Sort = Literal["objective", "eval_loss", "number", "seconds"]


@app.command("list")
def list_(output: Output = Path("sweeps"), as_json: AsJson = False) -> None:
    """List the sweeps of a folder: state, trials, best eval loss, when.

    Example: sweep list --output /data/sweeps
    """
    from sweep.results import listing

    sweeps = listing.read_all(output)
    if as_json:
        _print_json(listing.as_json(sweeps))
    else:
        console().print(listing.in_words(sweeps, output))


@app.command()
def show(
    name: SweepName,
    trial: Annotated[
        int | None, typer.Argument(min=0, metavar="TRIAL", help="One trial, by its number.")
    ] = None,
    output: Output = Path("sweeps"),
    sort: Annotated[
        Sort, typer.Option(help="Of the table of trials, the best or smallest first.")
    ] = "objective",
    as_json: AsJson = False,
) -> None:
    """Show all trials of a sweep, or one with its curve, its files and why it ended.

    Example: sweep show my 17
    """
    folder = known_folder(output, name, "sweep.json")

    from sweep.results import show
    from sweep.results.status import read_status
    from sweep.results.trial_record import read_record

    if trial is None:
        status = read_status(folder)
        if as_json:
            _print_json(show.all_as_json(status, sort))
        else:
            console().print(show.all_in_words(status, sort))
        return
    record = read_record(folder, trial)
    if as_json:
        _print_json(show.one_as_json(record))
    else:
        console().print(show.one_in_words(record))


@app.command()
def best(
    name: SweepName,
    output: Output = Path("sweeps"),
    trial: OtherTrial = None,
    as_json: AsJson = False,
    yaml: Annotated[
        Trainer | None,
        typer.Option(help="Print a training configuration for it.", show_default=False),
    ] = None,
) -> None:
    """Say which trial is the best, or print its configuration for another trainer.

    Example: sweep best my --yaml trl > sft.yaml. Exit codes: 0 there is one, 1 there is none yet.
    """
    if as_json and yaml is not None:
        fail("--json and --yaml: the output is one of the two; give one.")
    folder = known_folder(output, name, "sweep.json")

    from sweep.results import best

    record = _best_or(trial, folder)
    if yaml is not None:
        from sweep.export.trainer_yaml import training_yaml

        typer.echo(training_yaml(record, yaml), nl=False)
    elif as_json:
        _print_json(best.as_json(record))
    else:
        console().print(best.in_words(record), soft_wrap=True)


@app.command()
def compare(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A sweep's name, or NAME:TRIAL.", autocompletion=sweep_names
        ),
    ],
    other: Annotated[
        str, typer.Argument(metavar="B", help="The same.", autocompletion=sweep_names)
    ],
    output: Output = Path("sweeps"),
    as_json: AsJson = False,
) -> None:
    """Set two sweeps, or two trials, side by side; say whether their eval losses compare.

    A sweep stands for its best trial. Example: sweep compare my:17 my:4
    """
    from sweep.results import compare

    sides = [compare.read_side(*_named(given, output)) for given in (one, other)]
    if as_json:
        _print_json(compare.as_json(*sides))
    else:
        console().print(compare.in_words(*sides))


def _named(given: str, output: Path) -> tuple[Path, int | None]:
    """`my:17` → the sweep's folder and the trial's number."""
    name, colon, number = given.partition(":")
    if colon and not number.isdecimal():
        fail(f"{given}: a trial is named as NAME:TRIAL with its number, such as {name}:17.")
    return known_folder(output, name, "sweep.json"), int(number) if colon else None


@app.command()
def export(
    name: SweepName,
    to: Annotated[Path, typer.Option(metavar="DIR", help="A folder that does not exist yet.")],
    trial: OtherTrial = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="The whole model in 16 bits, the adapter merged in.")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Load it in a fresh process and measure its eval loss.")
    ] = True,
    output: Output = Path("sweeps"),
) -> None:
    """Copy the best adapter with a model card, or the model merged with it, and check it.

    Example: sweep export my --to my-adapter. Exit codes: 0 done, 1 its eval loss is not the logged
    one (within 1 %) or there is no best trial, 2 bad input.
    """
    folder = known_folder(output, name, "sweep.json")

    from sweep.export import adapter

    record = _best_or(trial, folder)
    measured = adapter.export(record, to, merge=merge, check=check, say=typer.echo)
    for each in measured:
        typer.echo(adapter.in_words(each, is_merged=merge))
    what = "model" if merge else "adapter"
    typer.echo(f"The {what} of trial {record.trial.number}, with a model card:  {to}")
    if wrong := adapter.verdict(measured, record, is_merged=merge):
        typer.echo(wrong, err=True)
        raise typer.Exit(1)


@app.command()
def clean(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The sweep's name, or --all.", autocompletion=sweep_names
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All sweeps of the folder, and caches none of them uses.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is.")] = False,
    output: Output = Path("sweeps"),
) -> None:
    """Say what may be deleted and how much that frees; delete it with --yes.

    Checkpoints of ended trials, what killed processes left, with --all also tokenised data in the
    cache that no sweep uses. Never the study, adapters, logs or MLflow's files; never of a sweep
    that runs. Example: sweep clean my --yes
    """
    if (name is None) == (not every):
        fail("sweep clean: must have the name of one sweep, or --all; give one of the two.")
    if name is not None:
        folders = [known_folder(output, name, "sweep.json")]
    else:
        folders = sorted({path.parent for path in output.glob("*/sweep.json")})

    from sweep.control import clean

    found, left_alone = clean.clean(folders, caches=every, delete=yes)
    console().print(clean.in_words(found, left_alone, deleted=yes))


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables of all keys, for people.")
    ] = False,
) -> None:
    """Print the JSON schema of SPACE.yaml, for editors; or what every key means, for people.

    Example: sweep schema > space.schema.json; then, as first line of the file:
    # yaml-language-server: $schema=space.schema.json
    """
    if markdown:
        from sweep.space.schema_tables import tables

        typer.echo(tables(), nl=False)
        return

    from sweep.space.schema import space_schema

    _print_json(space_schema())


def _best_or(trial: int | None, folder: Path) -> Record:
    """Read the best trial, or another one; ends the command where there is none."""
    from sweep.results.trial_record import NoWinner, read_record

    try:
        return read_record(folder, trial)
    except NoWinner as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
