"""The commands: words in, words out."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweep.cli import cli_confirm, cli_report, cluster, watching
from sweep.cli.options import (
    Gpus,
    Hours,
    Name,
    Output,
    Refused,
    Seed,
    Sets,
    SpaceFile,
    SweepName,
    SweepOrJob,
    Trials,
    Workers,
    console,
    fail,
    known_folder,
    overrides_of,
)

if TYPE_CHECKING:
    from sweep.screen.json_events import Events

app = typer.Typer(
    help="Find good LoRA and QLoRA hyperparameters without babysitting.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"sweep {version('sweep')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    space: SpaceFile,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    gpus: Gpus = None,
    name: Name = None,
    output: Output = Path("sweeps"),
    seed: Seed = None,
    mlflow: Annotated[
        str | None,
        typer.Option(help="An MLflow server; by default a database in the sweep's folder."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A PostgreSQL database for the study, postgresql://user@host/database, with its "
            "password from PGPASSWORD or ~/.pgpass; by default a file in the sweep's folder.",
            show_default=False,
        ),
    ] = None,
    sets: Sets = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write events for programs, one JSON object a line."),
    ] = False,
) -> None:
    """Run a sweep, or continue it: the same command goes on where it was stopped.

    Example: sweep run my.yaml --trials 24 --gpus 2

    Ctrl-C ends it in order. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
    """
    import signal

    # Before the first trial; from then on `run` listens itself.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _events(as_json) as events:
        overrides = overrides_of(sets, name, seed)
        if trials is not None:
            overrides["budget.trials"] = str(trials)
        if hours is not None:
            overrides["budget.hours"] = str(hours)
        if workers is not None and gpus is not None:
            fail("--workers and --gpus: trials run on processors or on GPUs; give one of the two.")

        from sweep.driver.run import Options, run
        from sweep.space.loading import load_space

        checked = load_space(space, overrides)
        _make_output(output)
        options = Options(output=output, workers=workers, gpus=gpus, mlflow=mlflow, study=study)
        code = run(checked, options, console(stderr=as_json), events)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is written: the exit code shall say so
    raise typer.Exit(code)


@contextmanager
def _events(wanted: bool) -> Iterator[Events | None]:
    """Give where events for programs go; what ends the command there is told to them, too."""
    events = None
    if wanted:
        from sweep.screen.json_events import Events

        events = Events.on_stdout()
    try:
        yield events
    except KeyboardInterrupt:  # typer would make it an Abort
        if events is not None:
            events.error(INTERRUPTED, 130)
        _interrupted()
    except (Exception, Refused) as error:
        words = error.words if isinstance(error, Refused) else _in_words(error)
        if events is not None:
            events.error(*((words, 2) if words else (f"A fault of the program: {error!r}", 1)))
        raise


@app.command()
def check(
    space: SpaceFile,
    workers: Workers = None,
    name: Name = None,
    output: Output = Path("sweeps"),
    seed: Seed = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            help="The MLflow server of the run, for sweeps of start_from.", show_default=False
        ),
    ] = None,
    sets: Sets = None,
) -> None:
    """Check a search space, its data and its model; show what would run. Trains nothing.

    Example: sweep check my.yaml --set search.rank=[8,16]
    """
    import tempfile

    from sweep.driver import preparation
    from sweep.driver.start_from import with_earlier
    from sweep.samplers.search_space import check_sampler
    from sweep.space.loading import load_space
    from sweep.workers.devices import wants_gpus

    checked = load_space(space, overrides_of(sets, name, seed))
    check_sampler(checked)
    checked = with_earlier(checked, output, mlflow)
    terminal = console()
    on_gpus = wants_gpus(workers=workers)
    with tempfile.TemporaryDirectory() as scratch:
        found = preparation.prepare_data(
            checked,
            Path(scratch) / "data",
            on_gpus=on_gpus,
            say=terminal.print,
        )
    terminal.print(preparation.in_words(checked, found))


@app.command()
def trial(
    space: SpaceFile,
    params: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Its hyperparameters, as JSON or YAML: '{\"rank\": 16}'. Others have the space's "
            "fixed value, or the usual one or the nearest to it.",
            show_default=False,
        ),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option(min=0, help="Repeat this trial of the sweep.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Run on processors, with the threads of one of so many workers.",
            show_default=False,
        ),
    ] = None,
    evaluate_base: Annotated[
        bool, typer.Option(help="Measure the base model's own eval loss first.")
    ] = True,
    to_the_end: Annotated[
        bool, typer.Option("--to-the-end", help="Go on when it has diverged or overfits.")
    ] = False,
    pdb: Annotated[
        bool, typer.Option("--pdb", help="Open a debugger where the trial fails.")
    ] = False,
    name: Name = None,
    output: Output = Path("sweeps"),
    seed: Seed = None,
    sets: Sets = None,
) -> None:
    """Run one trial in this process, to debug it: without Ray, MLflow or a study.

    Example: sweep trial my.yaml --params '{"rank": 16}' --pdb. Exit codes: 0 it has a value that
    counts, 1 it has none, 2 bad input, 130 interrupted.
    """
    if params is not None and number is not None:
        fail("--params and --number: a trial has the hyperparameters of one of the two; give one.")

    from sweep.space.loading import load_space

    checked = load_space(space, overrides_of(sets, name, seed))

    _make_output(output)

    from sweep.driver.one_trial import Options, run

    options = Options(
        output=output,
        workers=workers,
        params="{}" if params is None else params,
        number=number,
        evaluate_base=evaluate_base,
        to_the_end=to_the_end,
        pdb=pdb,
    )
    try:
        code = run(checked, options, console())
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        code = 130
    raise typer.Exit(code)


@app.command()
def status(
    name: SweepName,
    output: Output = Path("sweeps"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say how a sweep is: its trials, whether it runs, was stopped or died. Changes nothing.

    Example: sweep status my --json
    """
    folder = known_folder(output, name, "sweep.json")

    from sweep.results import status

    found = status.read_status(folder)
    if as_json:
        typer.echo(json.dumps(status.as_json(found), indent=1, ensure_ascii=False))
    else:
        console().print(status.in_words(found))


@app.command()
def stop(
    name: SweepOrJob,
    output: Output = Path("sweeps"),
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = True,
    address: cluster.Address = None,
) -> None:
    """End a running sweep in order, as Ctrl-C does; the same `sweep run` continues it.

    Works from another machine too: where the folder is shared, or with the cluster's --address.
    Example: sweep stop my. Exit codes: 0 it has ended, 1 it does not run.
    """
    if not (output / name).exists():
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is not None:
        raise typer.Exit(cluster.stop(name, address, wait=wait))

    folder = known_folder(output, name, "lock")

    from sweep.control.stop import stop

    raise typer.Exit(stop(folder, wait=wait, say=typer.echo))


@app.command()
def prune(
    name: SweepOrJob,
    trial: Annotated[int, typer.Argument(min=0, metavar="TRIAL", help="Its number.")],
    output: Output = Path("sweeps"),
    address: cluster.Address = None,
) -> None:
    """End one running trial by hand: its outcome is `stopped`, and the sweep goes on.

    Example: sweep prune my 17

    It ends at its next evaluation. Exit codes: 0 it will end, 1 it does not run.
    """
    if not (output / name).exists():
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address is not None:
        raise typer.Exit(cluster.prune(name, trial, address))

    folder = known_folder(output, name, "lock")

    from sweep.control.prune import prune

    raise typer.Exit(prune(folder, trial, typer.echo))


@app.command()
def sync(
    name: SweepName,
    output: Output = Path("sweeps"),
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The server, where its address has changed or needs a password.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Send to MLflow what it does not have yet of a sweep that has ended: it was away.

    Example: sweep sync my. Exit codes: 0 everything is sent, 1 some is left.
    """
    folder = known_folder(output, name, "lock")

    from sweep.folder.lock import locked
    from sweep.tracking.mlflow_tracker import send_rest

    with locked(folder):
        n_left = send_rest(folder, mlflow, typer.echo)
    raise typer.Exit(1 if n_left else 0)


@app.command()
def ui(
    name: SweepName,
    output: Output = Path("sweeps"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Show a sweep in MLflow's UI, on this machine only.

    Example: sweep ui my --port 8080
    """
    where = json.loads((known_folder(output, name, "mlflow.json") / "mlflow.json").read_text())

    from sweep.tracking.location import page_of
    from sweep.tracking.mlflow_tracker import TrackingError, ui_command

    free = _free_port(port)
    try:
        command = ui_command(where["uri"], free)
    except TrackingError as error:
        fail(str(error))
    address = page_of(f"http://127.0.0.1:{free}", where["experiment_id"], output / name)
    typer.echo(f"MLflow shows {name} at {address}  (Ctrl-C ends it)")
    sys.stdout.flush()
    os.execv(command[0], command)


app.add_typer(cluster.app)
app.add_typer(cli_confirm.app)
app.add_typer(cli_report.app)
app.add_typer(watching.app)


INTERRUPTED = "Interrupted; what had ended is kept, and the same command goes on."


def main() -> None:
    """Run a command; what a user got wrong is said in words and exits with 2."""
    try:
        app()
    except (ValueError, OSError) as error:
        words = _in_words(error)
        if words is None:
            raise
        fail(words)
    except KeyboardInterrupt:
        _interrupted()


def _in_words(error: Exception) -> str | None:
    """What a user got wrong; None: a fault of ours, which deserves its traceback."""
    if isinstance(error, ValueError) and type(error).__module__.split(".")[0] in (
        "sweep",
        "trials",
    ):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No room on the disk: {error.filename or error}. Make some and try again."
    return None


def _interrupted() -> NoReturn:
    typer.echo(INTERRUPTED, err=True)
    sys.exit(130)


def _make_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--output {output}: must be a folder that can be written to; {error.strerror}.")


def _free_port(wanted: int) -> int:
    import socket

    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    fail(f"--port {wanted}: it and the next 100 are taken; choose another.")
    raise AssertionError
