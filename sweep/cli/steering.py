"""Commands that change a sweep that is there: `stop`, `prune`, `sync`, `clean`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sweep.cli import cluster, options
from sweep.folder import layout


def stop(
    name: options.SweepOrJob,
    output: options.Output = Path("sweeps"),
    wait: Annotated[bool, typer.Option(help="Wait until it has stopped.")] = True,
    address: cluster.Address = None,
) -> None:
    """Stop a running sweep cleanly, as Ctrl-C does.

    The same `sweep run` resumes it. Works from another machine that shares the folder, or with a
    cluster's --address. Example: sweep stop my. Exit codes: 0 it has stopped, 1 it is not running.
    """
    if not (output / name).exists():
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is not None:
        raise typer.Exit(cluster.stop(name, address, wait=wait))

    folder = options.known_folder(output, name)

    from sweep.control.stop import stop

    raise typer.Exit(stop(folder, wait=wait, say=options.echo))


def prune(
    name: options.SweepOrJob,
    trial: Annotated[int, typer.Argument(min=0, metavar="TRIAL", help="The trial's number.")],
    output: options.Output = Path("sweeps"),
    address: cluster.Address = None,
) -> None:
    """Stop one running trial; the sweep goes on.

    Example: sweep prune my 17

    It ends as `stopped` at its next evaluation. Exit codes: 0 it will end, 1 it is not running.
    """
    if not (output / name).exists():
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is not None:
        raise typer.Exit(cluster.prune(name, trial, address))

    folder = options.known_folder(output, name)

    from sweep.control.prune import prune

    raise typer.Exit(prune(folder, trial, options.echo))


def sync(
    name: options.SweepName,
    output: options.Output = Path("sweeps"),
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The server, if its address changed or needs a password.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Send MLflow the writes it missed while it was away.

    The sweep must have ended. Example: sweep sync my. Exit codes: 0 all sent, 1 some left.
    """
    folder = options.known_folder(output, name)

    from sweep.storage.place import held, note_place
    from sweep.tracking.destination import known_address
    from sweep.tracking.location import own_database, see_tracked
    from sweep.tracking.mlflow_tracker import send_rest

    options.tell_of_passwords(mlflow=mlflow)
    with held(folder, options.echo):
        note_place(folder)
        uri = mlflow or known_address(folder)
        see_tracked(folder, uri or own_database(folder))
        n_left = send_rest(folder, uri, options.echo)
    raise typer.Exit(1 if n_left else 0)


def clean(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The sweep's name, or --all.", autocompletion=options.sweep_names
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All sweeps of the folder, and caches that none uses.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; else only list.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="With --all: list each file and folder.")
    ] = False,
    output: options.Output = Path("sweeps"),
) -> None:
    """List what can be deleted; delete it with --yes.

    Checkpoints of ended trials and what killed processes left; with --all also cached tokenised
    data that no sweep uses. Never the study, adapters, logs or MLflow's files, and nothing of a
    running sweep. Example: sweep clean my --yes. Exit codes: 0 done, 2 that sweep was left alone.
    """
    if (name is None) == (not every):
        options.fail("sweep clean: needs the name of a sweep, or --all; give one of the two.")
    folders = layout.sweep_folders(output) if name is None else [options.known_folder(output, name)]

    from sweep.control import clean

    found, left_alone = clean.clean(folders, caches=every, delete=yes)
    listed = verbose or name is not None
    options.console().print(clean.cleanable_text(found, left_alone, deleted=yes, listed=listed))
    if yes and name is not None and left_alone:
        raise typer.Exit(2)
