"""Commands about what a sweep has found: `best`, `export`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sweep.cli.options import (
    Output,
    SweepName,
    console,
    echo,
    fail,
    known_folder,
    print_json,
    print_yaml,
)
from sweep.cli.watching import AsJson
from trials.unfinished import scratch_dir

if TYPE_CHECKING:
    from sweep.results.trial_record import Record


def best(
    name: SweepName,
    output: Output = Path("sweeps"),
    trial: OtherTrial = None,
    as_json: AsJson = False,
    yaml: Annotated[
        Trainer | None,
        typer.Option(help="Print its configuration for this trainer.", show_default=False),
    ] = None,
) -> None:
    """Show the best trial, or its config for another trainer.

    Example: sweep best my --yaml trl > sft.yaml. Exit codes: 0 there is one, 1 none
    yet.
    """
    if as_json and yaml is not None:
        fail("--json and --yaml: the output has one format; give one of the two.")
    folder = known_folder(output, name)

    from sweep.results import best

    record = best_or(trial, folder)
    if yaml is not None:
        from sweep.export.trainer_yaml import training_yaml

        print_yaml(training_yaml(record, yaml))
    elif as_json:
        print_json(best.as_json(record))
    else:
        console().print(best.winner_text(record), soft_wrap=True)


def export(
    name: SweepName,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder that does not exist yet.", show_default=False),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME",
            help="Upload to the Hugging Face hub; a new one is private.",
            show_default=False,
        ),
    ] = None,
    trial: OtherTrial = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the whole model in 16 bits, adapter merged.")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Reload it in a fresh process; check its eval loss.")
    ] = True,
    output: Output = Path("sweeps"),
) -> None:
    """Copy the best adapter, or merge it into its model.

    Adds a model card and checks the result; what fails the check is not pushed. Example: sweep
    export my --to my-adapter. Exit codes: 0 done, 1 its eval loss is over 1 % off the logged one or
    there is no best trial, 2 bad input.
    """
    if to is None and push is None:
        fail("sweep export: needs --to DIR, or --push ORG/NAME, or both.")
    folder = known_folder(output, name)

    from sweep.export import adapter
    from sweep.export import push as hub

    record = best_or(trial, folder)
    if push is not None:
        hub.check_hub(push)
    with scratch_dir() if to is None else nullcontext() as scratch:
        target = to or Path(scratch or "") / "exported"
        measured = adapter.export(record, target, merge=merge, check=check, say=echo, repo=push)
        for each in measured:
            echo(adapter.measured_text(each, is_merged=merge))
        title = f"{'model' if merge else 'adapter'} of trial {record.trial.number}"
        if to is not None:
            echo(f"Exported the {title}, with a model card:  {to}")
        if wrong := adapter.verdict(measured, record, is_merged=merge):
            echo(wrong, err=True)
            raise typer.Exit(1)
        if push is not None:
            echo(hub.push(target, push, f"The {title} of sweep {record.sweep.name}"))


def best_or(trial: int | None, folder: Path) -> Record:
    """Read the best trial, or another one; ends the command where there is none."""
    from sweep.errors import NoWinner
    from sweep.results.reading import read_sweep
    from sweep.results.trial_record import record_of

    try:
        return record_of(read_sweep(folder), trial)
    except NoWinner as error:
        echo(str(error), err=True)
        raise typer.Exit(1) from None


OtherTrial = Annotated[
    int | None,
    typer.Option("--trial", min=0, help="Another trial than the best.", show_default=False),
]
# As in sweep.export.trainer_yaml and sweep.results.show, imported only when they are needed.
Trainer = Literal["trl", "axolotl", "llama-factory"]
