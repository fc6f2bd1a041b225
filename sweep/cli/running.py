"""Commands that train: `run`, `trial`, `confirm`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli.errors import INTERRUPTED, errors_in_words, interrupted
from sweep.cli.on_end import and_then
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
    Trials,
    Workers,
    console,
    echo,
    fail,
    known_folder,
    overrides_of,
    print_json,
    tell_of_passwords,
)
from sweep.cli.space_file import load_file
from sweep.folder import layout
from sweep.screen.output import dropped_if_it_fails
from sweep.workers.signals import unheard

if TYPE_CHECKING:
    from sweep.screen.json_events import Events


def run(
    space: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SPACE.yaml]",
            help="The search space; with --resume a sweep's name.",
            show_default=False,
        ),
    ] = None,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    gpus: Gpus = None,
    name: Name = None,
    output: Output = Path("sweeps"),
    seed: Seed = None,
    mlflow: Annotated[
        str | None, typer.Option(help="MLflow server; else MLFLOW_TRACKING_URI, else a database.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Study on PostgreSQL: postgresql://user@host/database.",
            show_default=False,
        ),
    ] = None,
    sets: Sets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with NAME, or the one that has not ended.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON events for programs, one per line.")
    ] = False,
    on_end: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Run in a shell once the sweep has ended, in any way.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a sweep, or resume one that was stopped.

    Example: sweep run my.yaml --trials 24 --gpus 2; sweep run --resume my

    Ctrl-C stops it cleanly; the same command resumes it. --study holds the study in PostgreSQL,
    with the password from PGPASSWORD or ~/.pgpass. The command of --on-end reads SWEEP_NAME,
    SWEEP_OUTCOME, SWEEP_BEST_TRIAL and more in its environment. Exit codes: 0 done, 1 failed, 2 bad
    input, 130 interrupted.
    """
    with dropped_if_it_fails(), _events(as_json) as events:
        overrides = overrides_of(sets, name, seed)
        if trials is not None:
            overrides["budget.trials"] = str(trials)
        if hours is not None:
            overrides["budget.hours"] = str(hours)
        if workers is not None and gpus is not None:
            fail("--workers and --gpus: trials run on CPUs or on GPUs; give one of the two.")

        from sweep.driver.job import Options
        from sweep.driver.run import run

        if resume:
            folder = _to_resume(output, space, name)
            space = folder / layout.SPACE
            echo(f"Going on with {folder.name}, by {space}", err=True)
        elif space is None:
            fail("sweep run: needs SPACE.yaml, or --resume for a sweep that has begun.")
        checked = load_file(space, overrides)
        _make_output(output, space)
        tell_of_passwords(mlflow=mlflow, study=study)
        options = Options(output=output, workers=workers, gpus=gpus, mlflow=mlflow, study=study)
        begin = partial(run, checked, options, console(stderr=as_json), events)
        code = and_then(begin, on_end, output / checked.name)
    unheard()  # all is written: the exit code shall say so
    raise typer.Exit(code)


def _to_resume(output: Path, given: Path | None, name: str | None) -> Path:
    """Return the folder of the sweep that goes on."""
    if name is not None:
        fail("--resume and --name: a sweep keeps its name; leave --name out.")
    if given is not None and given.is_file():
        fail(f"--resume {given}: must be a sweep's name, but is a file. Leave --resume out.")
    if given is not None:
        return known_folder(output, str(given), layout.SPACE)

    from sweep.results.listing import unended

    found = unended(output)
    if not found:
        fail(f"--resume: no sweep in {output.resolve()} waits to go on. Begin one: sweep run FILE.")
    if len(found) > 1:
        names = ", ".join(f"{sweep.folder.name} ({sweep.state})" for sweep in found)
        fail(f"--resume: must name a sweep where several have not ended: {names}.")
    return found[0].folder


def trial(
    space: SpaceFile,
    params: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Its hyperparameters, as JSON or YAML: '{\"rank\": 16}'.",
            show_default=False,
        ),
    ] = None,
    number: Annotated[
        int | None, typer.Option(min=0, help="Repeat this trial of the sweep.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Run on CPUs, with the threads of one of this many workers.",
            show_default=False,
        ),
    ] = None,
    evaluate_base: Annotated[
        bool, typer.Option(help="Measure the base model's eval loss first.")
    ] = True,
    to_the_end: Annotated[
        bool, typer.Option("--to-the-end", help="Do not stop it when it diverges or overfits.")
    ] = False,
    pdb: Annotated[
        bool, typer.Option("--pdb", help="Open a debugger where the trial fails.")
    ] = False,
    name: Name = None,
    output: Output = Path("sweeps"),
    seed: Seed = None,
    sets: Sets = None,
) -> None:
    """Run one trial in this process, to debug it.

    Uses no Ray, MLflow or study. What --params leaves out takes the space's fixed value, else its
    usual one or the nearest. Example: sweep trial my.yaml --params '{"rank": 16}' --pdb. Exit
    codes: 0 it has a value that counts, 1 it has none, 2 bad input, 130 interrupted.
    """
    if params is not None and number is not None:
        fail("--params and --number: both set the hyperparameters; give one of the two.")

    checked = load_file(space, overrides_of(sets, name, seed))
    _make_output(output, space)

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
    raise typer.Exit(run(checked, options, console()))


def _make_output(output: Path, space: Path) -> None:
    for path in (output, space):
        try:
            str(path.resolve()).encode()
        except UnicodeEncodeError:
            fail(f"{path.resolve()}: must be a path in UTF-8. Rename its folder, or use another.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        from trials.faults import mend_of

        mend = mend_of(error) or "Name another."
        fail(f"--output {output}: must be a writable folder: {error.strerror}. {mend}")


@contextmanager
def _events(wanted: bool) -> Iterator[Events | None]:
    """Give where events for programs go; what ends the command there is told to them, too."""
    events = None
    if wanted:
        from sweep.screen.json_events import Events

        events = Events.on_stdout()
    try:
        yield events
    except KeyboardInterrupt:
        if events is not None:
            events.error(INTERRUPTED, 130)
        interrupted(INTERRUPTED)
    except (Exception, Refused) as error:
        words = error.words if isinstance(error, Refused) else errors_in_words(error)
        if events is not None:
            events.error(*((words, 2) if words else (f"Internal error: {error!r}", 1)))
        raise


def confirm(
    name: SweepName,
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per trial, each with another seed.")] = 3,
    workers: Workers = None,
    gpus: Gpus = None,
    mlflow: Annotated[
        str | None,
        typer.Option(help="The sweep's MLflow server, if it needs a password.", show_default=False),
    ] = None,
    output: Output = Path("sweeps"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print known results for programs; run nothing.")
    ] = False,
) -> None:
    """Retrain the best trials with other seeds, to rule out noise.

    Evaluates on all eval rows. Shows mean ± standard error of each, and which differences are
    beyond noise. The same command resumes it; more --seeds or --top add runs. Example: sweep
    confirm my --top 3 --seeds 3. Exit codes: 0 done, 1 runs failed, 2 bad input, 130 interrupted.
    """
    if workers is not None and gpus is not None:
        fail("--workers and --gpus: trials run on CPUs or on GPUs; give one of the two.")
    folder = known_folder(output, name)

    from sweep.results import confirmed_words
    from sweep.results.confirmed import read_confirmed
    from sweep.results.reading import read_sweep

    if as_json:
        print_json(confirmed_words.as_json(name, read_confirmed(read_sweep(folder))))
        return

    from sweep.confirm.run import Options
    from sweep.confirm.run import confirm as run

    tell_of_passwords(mlflow=mlflow)
    options = Options(top=top, seeds=seeds, workers=workers, gpus=gpus, mlflow=mlflow)
    with dropped_if_it_fails(), _events(wanted=False):
        code = run(folder, options, console())
    raise typer.Exit(code)
