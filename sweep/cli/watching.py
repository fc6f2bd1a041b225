"""The commands that look at sweeps and put their result into people's hands."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweep.cli.options import (
    Output,
    SweepName,
    console,
    echo,
    fail,
    known_folder,
    print_file,
    print_json,
    sweep_names,
)
from sweep.folder import layout

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Sort = Literal["objective", "eval_loss", "number", "seconds"]
MOST_COLUMNS = 100
"""Of a plot: a wider one shows no more."""


def list_(output: Output = Path("sweeps"), as_json: AsJson = False) -> None:
    """List the sweeps of a folder.

    Shows state, trials, best eval loss and age of each. Example: sweep list --output /data/sweeps
    """
    from sweep.results import listing

    sweeps = listing.read_all(output)
    if as_json:
        print_json(listing.as_json(sweeps))
    else:
        console().print(listing.sweeps_table(sweeps, output))


def show(
    name: SweepName,
    trial: Annotated[
        int | None, typer.Argument(min=0, metavar="TRIAL", help="One trial, by its number.")
    ] = None,
    output: Output = Path("sweeps"),
    sort: Annotated[
        Sort, typer.Option(help="Order of the trials, best or smallest first.")
    ] = "objective",
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: the trials, or one trial's evaluations.")
    ] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw the train and eval loss of a trial.")
    ] = False,
) -> None:
    """Show all trials of a sweep, or one in detail.

    One trial comes with its curve, its files and why it ended. Example: sweep show my 17 --plot
    """
    if as_json + as_csv + plot > 1:
        fail("--json, --csv and --plot: the output has one format; give one of the three.")
    if plot and trial is None:
        fail(f"--plot: draws one trial, so give its number, such as sweep show {name} 7 --plot.")
    folder = known_folder(output, name)

    from sweep.results import show
    from sweep.results.reading import read_sweep
    from sweep.results.trial_record import record_of

    sweep = read_sweep(folder)
    record = None if trial is None else record_of(sweep, trial)
    if as_csv:
        print_file(show.all_as_csv(sweep, sort) if record is None else show.one_as_csv(record))
    elif as_json:
        print_json(show.all_as_json(sweep, sort) if record is None else show.one_as_json(record))
    elif record is None:
        console().print(show.all_in_words(sweep, sort))
    elif plot:
        screen = console()
        screen.print(show.plotted(record, min(screen.width, MOST_COLUMNS)))
    else:
        console().print(show.one_in_words(record))


def compare(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A sweep's name, or NAME:TRIAL.", autocompletion=sweep_names
        ),
    ],
    other: Annotated[
        str, typer.Argument(metavar="B", help="Another, likewise.", autocompletion=sweep_names)
    ],
    output: Output = Path("sweeps"),
    as_json: AsJson = False,
) -> None:
    """Compare two sweeps, or two trials, side by side.

    A sweep stands for its best trial. Says so where eval losses are not comparable. Example: sweep
    compare my:17 my:4
    """
    from sweep.results import compare
    from sweep.results.reading import read_sweep

    named = [_named(given, output) for given in (one, other)]
    sweeps = {folder: read_sweep(folder) for folder in dict(named)}
    sides = [compare.side_of(sweeps[folder], trial) for folder, trial in named]
    if as_json:
        print_json(compare.as_json(*sides))
    else:
        console().print(compare.comparison(*sides))


def _named(given: str, output: Path) -> tuple[Path, int | None]:
    """`my:17` → the sweep's folder and the trial's number."""
    name, colon, number = given.partition(":")
    if colon and not number.isdecimal():
        fail(f"{given}: a trial must be NAME:TRIAL with its number, such as {name}:17.")
    return known_folder(output, name), int(number) if colon else None


def status(name: SweepName, output: Output = Path("sweeps"), as_json: AsJson = False) -> None:
    """Show the state and the trials of a sweep.

    Changes nothing. Example: sweep status my --json
    """
    folder = known_folder(output, name)

    from sweep.results import status
    from sweep.results.reading import read_sweep

    sweep = read_sweep(folder)
    if as_json:
        print_json(status.as_json(sweep))
    else:
        console().print(status.status_text(sweep))


def ui(
    name: SweepName,
    output: Output = Path("sweeps"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port, or the next free one.")] = 5000,
) -> None:
    """Open a sweep in MLflow's UI, on this machine only.

    Of a sweep that you may only read it shows a copy. Example: sweep ui my --port 8080
    """
    folder = known_folder(output, name, layout.MLFLOW)

    from sweep.tracking.client import ENVIRONMENT
    from sweep.tracking.location import copy_to_look_at, may_write, page_of, to_be_shown, ui_command
    from trials.parent import module_environment, serve
    from trials.unfinished import scratch_dir

    free = _free_port(port)
    with ExitStack() as held:
        if may_write(folder):
            uri, experiment_id = to_be_shown(folder)
        else:
            copy = Path(held.enter_context(scratch_dir()))
            (uri, experiment_id), folder = copy_to_look_at(folder, copy), copy
            echo(f"{name} can only be read: this is a copy of it, as it is now, in {folder}")
        command = ui_command(uri, free)
        address = page_of(f"http://127.0.0.1:{free}", experiment_id, folder)
        echo(f"MLflow shows {name} at {address}  (Ctrl-C stops it)")
        # cwd: uvicorn imports from the current folder, whatever -P says.
        code = serve(command, cwd="/", env={**ENVIRONMENT, **module_environment()})
    raise typer.Exit(code)


def _free_port(wanted: int) -> int:
    import socket

    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    fail(f"--port {wanted}: must be free, but it and the next 99 are taken; choose another.")
    raise AssertionError


def report(
    name: SweepName,
    output: Output = Path("sweeps"),
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it there, and nothing into the sweep's folder."),
    ] = None,
) -> None:
    """Write report.html, one file that works offline.

    Prints its path. Reads the study alone, so it works while the sweep runs and after it died.
    Example: sweep report my
    """
    folder = known_folder(output, name)

    from sweep.report.page import write_report
    from sweep.results.reading import read_sweep

    sweep = read_sweep(folder)
    try:
        if to is not None and not _is_new_or_a_report(to):
            fail(f"--to {to}: must be a new file or an earlier report, but is neither.")
        path = write_report(sweep, to)
    except OSError as error:
        mend = "Name a file elsewhere: --to FILE." if to is None else "Name another file."
        at = folder / layout.REPORT if to is None else f"--to {to}"
        fail(f"{at}: cannot be written: {error.strerror}. {mend}")
    echo(path.resolve())


def _is_new_or_a_report(path: Path) -> bool:
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(15) in (b"", b"<!doctype html>")
