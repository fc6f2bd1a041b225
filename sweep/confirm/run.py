"""`sweep confirm`: the runs on Ray, recorded in MLflow. Read it from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sweep.confirm.confirmation import Confirmation
from sweep.confirm.plan import Run, make_data, plan
from sweep.control.prune import Words
from sweep.driver import loop
from sweep.driver.interrupt import ends_in_order
from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.lock import locked
from sweep.folder.requests import is_asked_to_prune, is_asked_to_stop
from sweep.pruners.own_curve import ByItself
from sweep.report.page import write_report
from sweep.results.confirmed import read_confirmed
from sweep.results.confirmed_words import in_words, verdicts
from sweep.results.reading import StoredSweep, read_sweep
from sweep.screen.choice import make_screen
from sweep.screen.progress import Progress
from sweep.space.loading import space_as_run
from sweep.space.space import Space
from sweep.study.budget import Budget
from sweep.text.numbers import counted
from sweep.tracking.location import artifacts_dir, command, own_database, tracked_at
from sweep.workers.devices import n_gpu_slots, n_workers, wants_gpus

if TYPE_CHECKING:
    from sweep.tracking.mlflow_tracker import MlflowTracker


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line says."""

    top: int
    seeds: int
    workers: int | None
    gpus: int | None
    mlflow: str | None


def confirm(folder: Path, options: Options, console: Console) -> int:
    """Train the best trials again and say what that tells; return the exit code.

    Args:
        folder: The sweep's.

    Raises:
        StudyError, SpaceError, TrackingError: In words for the user, before any run starts.
    """
    with locked(folder, "confirm"):
        space = space_as_run(folder / layout.SPACE)
        stored = read_sweep(folder)
        runs = plan(stored, top=options.top, n_seeds=options.seeds)
        on_gpus = wants_gpus(workers=options.workers, gpus=options.gpus)
        if not on_gpus and any("8bit" in run.config.optimizer for run in runs):
            raise StudyError(
                f"{folder.name}: its trials had the optimizer {runs[0].config.optimizer}, which "
                f"needs a GPU, and so do their confirmations. Run this where there is one."
            )
        n_rows = make_data(stored, runs[0].config.model.max_length)
        sweep = Confirmation(
            runs,
            ByItself(
                space.settings.pruning,
                space.objective,
                n_evaluations=space.settings.evaluate.times,
            ),
            is_asked_to_prune=partial(is_asked_to_prune, folder / layout.CONFIRM),
        )
        n_left = len(runs) - sweep.n_ended()
        n_trials = len({run.trial for run in runs})
        console.print(
            f"{folder.name}: {counted(n_trials, 'trial')} × {counted(options.seeds, 'seed')} on "
            f"all {n_rows} eval rows; {n_left} of {counted(len(runs), 'run')} to do."
        )
        code = _run(stored, space, runs, sweep, options, on_gpus, console) if n_left else 0
        if n_left:
            _write_report(stored, console)
    console.print(in_words(folder.name, read_confirmed(stored), space.objective))
    return code


def _write_report(stored: StoredSweep, console: Console) -> None:
    """Let the sweep's report say it too; without it all else is there."""
    try:
        write_report(stored)
    except OSError as error:
        again = command("report", stored.folder)
        console.print(f"{layout.REPORT} was not written: {error}. Try again: {again}")


def _run(
    stored: StoredSweep,
    space: Space,
    runs: list[Run],
    sweep: Confirmation,
    options: Options,
    on_gpus: bool,
    console: Console,
) -> int:
    from sweep.workers import connection
    from sweep.workers.runner import RayRunner

    folder = stored.folder
    budget = Budget(trials=len(runs), hours=None, is_asked=lambda: is_asked_to_stop(folder))
    progress = Progress(budget, objective=space.objective)
    progress.n_ended = sweep.n_ended()
    screen = make_screen(console, progress, folder / layout.CONFIRM)
    tracker = _open_tracker(folder, runs, options)
    n_cpu_workers = n_workers(space, options.workers)
    n_gpus = connection.connect(n_cpu_workers=None if on_gpus else n_cpu_workers)
    n_slots = n_gpu_slots(space, asked=options.gpus, there=n_gpus) if on_gpus else n_cpu_workers
    n_slots = min(n_slots, len(runs) - sweep.n_ended())
    with ends_in_order(budget, screen.say):
        try:
            runner = RayRunner(
                runs[0].config.model,
                n_slots=lambda: n_slots,
                on_gpus=on_gpus,
                gpus_per_trial=space.settings.gpus_per_trial,
                sweep=sweep,
                folder=folder / layout.CONFIRM,
                say=screen.say,
            )
            progress.usage = runner.usage
            sweep.trackers = [screen, tracker, Words(folder / layout.CONFIRM)]
            try:
                with screen:
                    try:
                        loop.run(sweep, runner, budget)
                        for ended in runner.set_aside(until=budget.hurry.is_set):
                            sweep.tell(*ended)
                    finally:
                        runner.shutdown()
                        sweep.interrupt()
            finally:
                _close_tracker(stored, tracker, is_stopped=budget.stop.is_set())
        finally:
            connection.disconnect()
    if words := tracker.in_words:
        console.print(words, style="red")
    if budget.stop.is_set():
        return 130
    return 0 if all(run.result is not None for run in runs) else 1


def _open_tracker(folder: Path, runs: list[Run], options: Options) -> MlflowTracker:
    from sweep.tracking.mlflow_tracker import MlflowTracker

    uri = options.mlflow or tracked_at(folder) or own_database(folder)
    tracker = MlflowTracker(
        uri=uri,
        name=folder.name,
        artifacts_dir=artifacts_dir(uri, folder),
        output_dir=folder / layout.CONFIRM,
        run_name=f"{folder.name}, confirmed",
    )
    trials = ", ".join(str(number) for number in dict.fromkeys(run.trial for run in runs))
    tracker.open_sweep(
        {"confirms": folder.name, "trials": trials},
        {"sweep.confirms": folder.name},
        folder / layout.SPACE,
    )
    return tracker


def _close_tracker(stored: StoredSweep, tracker: MlflowTracker, *, is_stopped: bool) -> None:
    found = read_confirmed(stored)
    lines = [f"**The best trials of {stored.name}, trained again with other seeds.**", ""]
    lines += [f"- trial {c.trial}: mean {c.mean.mean:.4f} over {c.mean.n}" for c in found if c.mean]
    lines += ["", *(f"{line}\n" for line in verdicts(found))]
    tracker.close_sweep("KILLED" if is_stopped else "FINISHED", None, "\n".join(lines))
