"""`sweep confirm`: the runs on Ray, recorded in MLflow. Read it from top to bottom."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from sweep.confirm.confirmation import Confirmation
from sweep.confirm.plan import Run, make_data, plan
from sweep.driver.cards import card_notes
from sweep.driver.interrupt import StopSignals
from sweep.driver.job import EXIT_CODES, Ending
from sweep.driver.session import Session, check_ray, trial_bytes
from sweep.errors import StudyError
from sweep.events import Tracker
from sweep.folder import layout
from sweep.folder.kinds import see_kinds
from sweep.folder.requests import is_asked_to_prune, is_asked_to_stop
from sweep.pruners.own_curve import ByItself
from sweep.report.page import write_report
from sweep.results.confirmed import read_confirmed
from sweep.results.confirmed_words import confirmed_text, verdicts
from sweep.results.reading import StoredSweep, read_sweep
from sweep.screen.choice import make_screen
from sweep.screen.progress import Progress
from sweep.space.loading import space_as_run
from sweep.space.space import Space
from sweep.storage.place import held, note_place, say_versions
from sweep.study.budget import Budget
from sweep.text.numbers import counted
from sweep.tracking.destination import Destination, destination
from sweep.tracking.location import artifacts_dir, command, see_tracked
from sweep.workers.devices import wants_gpus
from trials.trial_folder import read_report


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
    check_ray()
    see_kinds(folder, with_trials=True)
    tracked = destination(folder, options.mlflow)
    see_tracked(folder, tracked.uri)
    with held(folder, console.print, "confirm"):
        note_place(folder)
        say_versions(folder, console.print)
        space = space_as_run(folder / layout.SPACE)
        stored = read_sweep(folder)
        runs = plan(stored, top=options.top, n_seeds=options.seeds)
        on_gpus = wants_gpus(workers=options.workers, gpus=options.gpus)
        if not on_gpus and any("8bit" in run.config.optimizer for run in runs):
            raise StudyError(
                f"{folder.name}: its optimizer {runs[0].config.optimizer} needs a GPU, but none "
                f"is used here. Run this where there is one."
            )
        n_rows = make_data(stored, runs[0].config.model.max_length)
        sweep = Confirmation(
            runs,
            ByItself.of(space),
            is_asked_to_prune=partial(is_asked_to_prune, folder / layout.CONFIRM),
        )
        n_left = len(runs) - sweep.n_ended()
        n_trials = len({run.trial for run in runs})
        console.print(
            f"{folder.name}: {counted(n_trials, 'trial')} × {counted(options.seeds, 'seed')} on "
            f"all {n_rows} eval rows; {n_left} of {counted(len(runs), 'run')} to do."
        )
        code = _run(stored, space, runs, sweep, options, tracked, console) if n_left else 0
        if n_left:
            _write_report(stored, console)
    console.print(confirmed_text(folder.name, read_confirmed(stored), space.objective))
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
    tracked: Destination,
    console: Console,
) -> int:
    folder, budget = stored.folder, Budget(trials=len(runs), hours=None)
    report = read_report(folder / layout.DATA) or {}
    on_gpus = wants_gpus(workers=options.workers, gpus=options.gpus)
    for note in card_notes(report, space.settings.gpus_per_trial) if on_gpus else ():
        console.print(note, style="yellow")
    progress = Progress(budget, objective=space.objective)
    progress.n_ended = sweep.n_ended()
    session = Session(
        space=space,
        folder=folder / layout.CONFIRM,
        model=runs[0].config.model,
        on_gpus=on_gpus,
        workers=options.workers,
        gpus=options.gpus,
        most_slots=len(runs) - sweep.n_ended(),
        trial_bytes=trial_bytes(report),
        budget=budget,
        stop=StopSignals(partial(is_asked_to_stop, folder)),
        progress=progress,
        screen=make_screen(console, progress, folder / layout.CONFIRM),
    )
    status, _ = session.run(sweep, _Recording(stored, runs, tracked, console))
    if status == "KILLED":
        return EXIT_CODES[status]
    return 0 if all(run.result is not None for run in runs) else 1


class _Recording:
    """The runs in MLflow, below a run of their own beside the sweep's."""

    def __init__(
        self, stored: StoredSweep, runs: list[Run], tracked: Destination, console: Console
    ) -> None:
        self._stored, self._runs, self._tracked, self._console = stored, runs, tracked, console

    def open(self) -> Sequence[Tracker]:
        from sweep.tracking.mlflow_tracker import MlflowTracker

        folder = self._stored.folder
        at = self._tracked
        if at.words:
            self._console.print(at.words)
        self._tracker = MlflowTracker(
            uri=at.uri,
            name=at.experiment,
            artifacts_dir=artifacts_dir(at.uri, folder, at.experiment),
            output_dir=folder / layout.CONFIRM,
            run_name=f"{self._stored.name}, confirmed",
        )
        trials = ", ".join(str(number) for number in dict.fromkeys(run.trial for run in self._runs))
        name = self._stored.name
        params, tags = {"confirms": name, "trials": trials}, {"sweep.confirms": name}
        self._tracker.open_sweep(params, tags, folder / layout.SPACE)
        return [self._tracker]

    def close(self, ending: Ending) -> Ending:
        found = read_confirmed(self._stored)
        title = f"**The best trials of {self._stored.name}, retrained with other seeds.**"
        lines = [
            f"- trial {c.trial}: mean {c.mean.mean:.4f} over {c.mean.n}" for c in found if c.mean
        ]
        lines = [title, "", *lines, "", *(f"{line}\n" for line in verdicts(found))]
        self._tracker.close_sweep(ending[0], None, "\n".join(lines))
        if words := self._tracker.in_words:
            self._console.print(words, style="red")
        return ending

    def break_off(self) -> None:
        self._tracker.close_sweep("KILLED", None, "It was aborted; the same command resumes it.")
