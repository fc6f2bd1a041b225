"""`sweep run`: from a checked space to the best adapter. Read it from top to bottom."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from sweep.control.prune import Words
from sweep.driver import loop, preparation
from sweep.driver.adapters import Adapters
from sweep.driver.interrupt import ends_in_order
from sweep.driver.start_from import with_earlier
from sweep.folder.disk_space import Room
from sweep.folder.lock import (
    is_asked_to_prune,
    is_asked_to_stop,
    locked,
    open_folder,
    study_writer,
    sweep_id,
)
from sweep.report.charts import curve_values, value_range
from sweep.report.plots import write_plots
from sweep.report.sections import FILE_NAME, beyond_noise, write_report
from sweep.results.sweep_data import read_data
from sweep.samplers.search_space import check_sampler
from sweep.screen import summary as report
from sweep.screen.choice import make_screen
from sweep.screen.json_events import Events
from sweep.screen.plain import Screen
from sweep.screen.progress import Progress
from sweep.space.loading import Space
from sweep.storage.patient import Patience, PatientStorage, StudyAway
from sweep.storage.postgresql import Address
from sweep.study.next_trial import search_changes
from sweep.study.sweep import Sweep, SweepFailed, open_study
from sweep.study.task import keep_to_task, rows_so_far
from sweep.study.trial_config import choose_backend, model_config, resolver
from sweep.text.numbers import counted
from sweep.tracking import run_data
from sweep.tracking.description import Describer, as_markdown
from sweep.tracking.journal import is_closed
from sweep.tracking.location import artifacts_dir, command, own_database, page_of
from sweep.tracking.registry import TASK
from sweep.workers.devices import n_gpu_slots, n_visible_gpus, n_workers, wants_gpus
from trials.config import Backend
from trials.trial_folder import read_result
from trials.whole_file import write_whole

if TYPE_CHECKING:
    from sweep.tracking.mlflow_tracker import MlflowTracker
    from sweep.workers.runner import RayRunner

RECORDED_VERSIONS = ("sweep", "torch", "transformers", "peft", "bitsandbytes", "optuna", "ray")


Status = Literal["FINISHED", "FAILED", "KILLED"]
"""Of a sweep, in MLflow's words."""
STATES: dict[Status, str] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
"""The same, for `sweep status`."""
EXIT_CODES: dict[Status, int] = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line says beside the space."""

    output: Path
    """Folder of all sweeps; this one's is below it, by its name."""
    workers: int | None
    """CPU workers; None: GPUs where there are any."""
    gpus: int | None
    """GPUs to use at most; None: all."""
    mlflow: str | None
    """An MLflow server's address; None: a database in the sweep's folder."""
    study: str | None = None
    """A PostgreSQL database's address; None: where the study is, or a file of the sweep's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A checked space, the data prepared for it, and where it runs."""

    space: Space
    options: Options
    output_dir: Path
    on_gpus: bool
    backend: Backend
    found: preparation.Check
    storage: PatientStorage
    """The study's database."""


def run(space: Space, options: Options, console: Console, events: Events | None = None) -> int:
    """Run the sweep and return the exit code: 0 done, 1 failed, 130 interrupted.

    Args:
        events: Where programs read what happens.

    Raises:
        SpaceError, StudyError, TrackingError: In words for the user, before any trial starts.
    """
    output_dir = options.output / space.name
    server = Address.parse(options.study) if options.study else None
    open_folder(output_dir, server)
    patience = Patience(say=console.print)
    with locked(output_dir), study_writer(output_dir, server, patience) as storage:
        on_gpus = wants_gpus(workers=options.workers, gpus=options.gpus)
        backend = choose_backend(space, on_gpus=on_gpus)
        _check_options(space, options, on_gpus=on_gpus)
        space = with_earlier(space, options.output, options.mlflow, storage)
        so_far = rows_so_far(space, output_dir, storage)
        found = preparation.prepare_data(
            space,
            output_dir / "data",
            on_gpus=on_gpus,
            say=console.print,
            n_sample_rows=so_far.sample,
            n_generated_rows=so_far.generated,
        )
        console.print(preparation.in_words(space, found))
        job = Job(
            space=space,
            options=options,
            output_dir=output_dir,
            on_gpus=on_gpus,
            backend=backend,
            found=found,
            storage=storage,
        )
        sweep = _open_sweep(job, say=console.print)
        write_whole(output_dir / "space.yaml", space.text)
        budget = loop.Budget(
            **space.settings.budget.model_dump(), is_asked=lambda: is_asked_to_stop(output_dir)
        )
        if events is not None:
            events.sweep_started(_summary(job, sweep, wall_seconds=0.0), output_dir, space.settings)
        enough = budget.why_enough(sweep, sweep.n_ended() + sweep.n_paused())
        if enough is not None and not sweep.n_paused():
            console.print(f"{space.name}: {enough}; {_more(enough)} to go on.")
            if sweep.has_untold() or not is_closed(output_dir):
                _end_in_order(job, sweep, console)
            console.print(report.in_words(_summary(job, sweep, wall_seconds=0.0)))
            return _end(events, job, sweep, "FINISHED", None)
        if sweep.n_ended() or sweep.n_waiting() or sweep.n_paused():
            ended = counted(sweep.n_ended(), "trial")
            paused = f"; paused: {sweep.n_paused()}" if sweep.n_paused() else ""
            console.print(
                f"\nContinuing {space.name}: ended so far: {ended}; "
                f"cut off, to go on: {sweep.n_waiting()}{paused}."
            )
        console.print("\nStarting Ray; the workers load the base model …")
        status, failure = _run_trials(job, sweep, budget, console, events)
        return _end(events, job, sweep, status, failure)


def _end(events: Events | None, job: Job, sweep: Sweep, status: Status, failure: str | None) -> int:
    if events is not None:
        summary = _summary(job, sweep, wall_seconds=0.0)
        events.sweep_ended(summary, STATES[status], EXIT_CODES[status], failure)
    return EXIT_CODES[status]


def _check_options(space: Space, options: Options, *, on_gpus: bool) -> None:
    """Refuse what cannot be before the data is read, which may take minutes."""
    check_sampler(space)
    n_gpus = n_visible_gpus()
    if on_gpus and n_gpus is not None and "RAY_ADDRESS" not in os.environ:
        n_gpu_slots(space, asked=options.gpus, there=n_gpus)
    if options.mlflow is not None:
        _new_tracker(space, options, options.output / space.name)


def _open_sweep(job: Job, say: Callable[[str], None]) -> Sweep:
    trials_dir = job.output_dir / "trials"
    study = open_study(
        job.space,
        job.storage,
        written=lambda number: read_result(trials_dir / f"{number:03d}"),
        sweep_id=sweep_id(job.output_dir),
    )
    keep_to_task(study, job.space, job.found, job.backend)
    if words := search_changes(study, job.space):
        say(f"\n{words}")
    resolve = resolver(
        job.space,
        backend=job.backend,
        on_gpus=job.on_gpus,
        output_dir=job.output_dir,
        data_dir=job.found.data_dir,
    )
    return Sweep(job.space, study, resolve, partial(is_asked_to_prune, job.output_dir))


def _run_trials(
    job: Job, sweep: Sweep, budget: loop.Budget, console: Console, events: Events | None
) -> tuple[Status, str | None]:
    """Returns how the sweep has ended, and what failed."""
    from sweep.workers import connection
    from sweep.workers.runner import RayRunner

    began = time.monotonic()
    progress = Progress(
        budget,
        sweep.ended(),
        sweep.base_eval_loss,
        queued=sweep.queued(),
        paused=sweep.paused,
        gpu_seconds=sweep.gpu_seconds,
        gpus_per_trial=job.space.settings.gpus_per_trial,
        objective=job.space.objective,
    )
    screen = make_screen(console, progress, job.output_dir, events)
    n_cpu_workers = n_workers(job.space, job.options.workers)
    n_gpus = connection.connect(n_cpu_workers=None if job.on_gpus else n_cpu_workers)
    with ends_in_order(budget, screen.say):  # after Ray's start, which takes the signals too
        try:
            n_slots = _gpu_slots(job, n_gpus) if job.on_gpus else lambda: n_cpu_workers
            runner = RayRunner(  # workers load the base model while MLflow is opened
                model_config(job.space, job.backend),
                n_slots=n_slots,
                on_gpus=job.on_gpus,
                gpus_per_trial=job.space.settings.gpus_per_trial,
                sweep=sweep,
                folder=job.output_dir,
                say=screen.say,
            )
            progress.usage = runner.usage
            job.storage.patience = Patience(screen.say, budget.stop.is_set)
            room = Room(job.output_dir, _trial_bytes(job), screen.say)
            tracker, adapters = _open_trackers(job, sweep)
            if tracker.is_away:
                screen.say(f"MLflow is away, its writes are kept for later: {tracker.first_error}")
            describer = Describer(lambda: tracker.describe(_so_far(job, sweep, began)))
            sweep.trackers = [screen, tracker, adapters, describer, Words(job.output_dir)]
            sweep.note("running", "")
            try:
                status, failure = _loop(sweep, runner, budget, screen, room)
            except BaseException:  # a third Ctrl-C, or a fault of ours: no run is left RUNNING
                tracker.close_sweep("KILLED", None, "The sweep was broken off; run it again.")
                raise
            summary = None
            try:
                adapters.put_right()
                with suppress(StudyAway):
                    sweep.note(STATES[status], failure or "")
                summary = _summary(job, sweep, wall_seconds=time.monotonic() - began)
                _close_tracker(job, sweep, tracker, status, summary, screen.say)
            except StudyAway as error:  # best/ and the summary are the next run's
                failure = failure or str(error)
                status = "FAILED" if status == "FINISHED" else status
                tracker.close_sweep("KILLED", None, failure)
        finally:
            connection.disconnect()
        timings = json.dumps({**asdict(runner.timings), **runner.usage.seconds}, indent=1)
        with suppress(OSError):
            write_whole(job.output_dir / "timings.json", timings)
        if summary is not None:
            console.print(report.in_words(summary))
    if words := tracker.in_words:
        console.print(words, style="red", markup=False)
    if failure:
        console.print(failure, style="bold red", markup=False)
    return status, failure


def _gpu_slots(job: Job, n_gpus: int) -> Callable[[], int]:
    """Return what tells how many trials there should be at once.

    On a cluster that is as many as its GPUs hold now, or as --gpus says: what is not there yet is
    waited for, which is also what has an autoscaler bring it.

    Args:
        n_gpus: That are there.
    """
    from sweep.workers.connection import gpu_places, is_joined

    asked, per_trial = job.options.gpus, job.space.settings.gpus_per_trial
    if not is_joined() or (asked is None and n_gpus == 0):
        n_slots = n_gpu_slots(job.space, asked=asked, there=n_gpus)
        return lambda: n_slots
    if asked is None:
        return lambda: gpu_places(per_trial)
    n_asked = n_gpu_slots(job.space, asked=asked, there=max(asked, n_gpus))
    return lambda: n_asked


def _new_tracker(space: Space, options: Options, output_dir: Path) -> MlflowTracker:
    """Connect with the server that was named, else open the database of this sweep alone."""
    from sweep.tracking.mlflow_tracker import MlflowTracker

    uri = options.mlflow or own_database(output_dir)
    return MlflowTracker(
        uri=uri,
        name=space.name,
        artifacts_dir=artifacts_dir(uri, output_dir),
        output_dir=output_dir,
    )


def _open_trackers(job: Job, sweep: Sweep) -> tuple[MlflowTracker, Adapters]:
    """Open MLflow and the adapters; they hear of what a process that was killed did not tell."""
    tracker = _new_tracker(job.space, job.options, job.output_dir)
    datasets = run_data.datasets(
        str(job.space.source("train")), job.space.source("eval"), job.found.report
    )
    tracker.open_sweep(_parent_params(job), _parent_tags(), job.output_dir / "space.yaml", datasets)
    keep = job.space.settings.keep_adapters
    adapters = Adapters(sweep, job.output_dir, keep=keep, drop=tracker.drop_adapter)
    sweep.trackers = [tracker, adapters]
    sweep.catch_up()
    adapters.put_right()
    return tracker, adapters


def _so_far(job: Job, sweep: Sweep, began: float) -> str:
    summary = _summary(job, sweep, wall_seconds=time.monotonic() - began)
    return as_markdown(summary, lives=True)


def _close_tracker(
    job: Job,
    sweep: Sweep,
    tracker: MlflowTracker,
    status: Status,
    summary: report.Summary,
    say: Callable[[str], None],
) -> None:
    """Send MLflow the end of the sweep, with its report and the winner."""
    page, plots, noise, shown = None, [], "", None
    try:
        data = read_data(job.output_dir, job.storage)
        if found := curve_values(data.trials):
            shown = value_range(found, data.objective)
        plots = write_plots(job.output_dir, data)
        noise = beyond_noise(data) if summary.winner else ""
        page = write_report(job.output_dir, data)
    except Exception as error:  # a sweep must end in order whatever becomes of its report
        again = command("report", job.output_dir)
        say(f"{FILE_NAME} was not written: {error}. Try again: {again}")
    text = as_markdown(summary, noise=noise, plots=plots)
    winner, name = summary.winner, job.space.settings.register_as
    if winner is not None and name is not None:
        tags = {
            "objective": job.space.objective.name,
            "direction": job.space.objective.direction,
            "value": f"{winner.value:.6f}",
            "eval_loss": f"{winner.eval_loss_best:.6f}",
            TASK: run_data.comparable(sweep.task),
            "sweep": job.space.name,
            "base_model": job.space.settings.base_model,
        }
        tracker.register(name, winner.number, tags, as_markdown(summary))
    tracker.close_sweep(status, _winner(summary), text, page, plots, shown)
    if tracker.registered is not None:
        say(f"The winner is registered as {tracker.registered}")


def _end_in_order(job: Job, sweep: Sweep, console: Console) -> None:
    """Bring best/ and MLflow to the end of the study, which a killed process had reached alone."""
    tracker, _ = _open_trackers(job, sweep)
    summary = _summary(job, sweep, wall_seconds=0.0)
    sweep.note("finished", "")
    _close_tracker(job, sweep, tracker, "FINISHED", summary, console.print)
    if words := tracker.in_words:
        console.print(words, style="red", markup=False)


def _loop(
    sweep: Sweep, runner: RayRunner, budget: loop.Budget, screen: Screen, room: Room
) -> tuple[Status, str | None]:
    """Run the trials; whatever ends them, no process and no running trial is left."""
    failure: str | None = None
    with screen:
        try:
            why = loop.run(sweep, runner, budget, room)
            screen.say(f"{why[0].upper()}{why[1:]}." if not sweep.running else _cut_off(why))
            for ended in runner.set_aside(until=budget.hurry.is_set):
                sweep.tell(*ended)
        except (SweepFailed, StudyAway) as error:
            failure = str(error)
        finally:
            runner.shutdown()
            with suppress(StudyAway):  # the next run puts back what is still there as running
                sweep.interrupt()
    if budget.stop.is_set():
        return "KILLED", failure
    if failure is None and sweep.ended() and not sweep.ranked():
        failure = f"No trial reached {report.an(sweep.objective)} that counts."
    return ("FINISHED" if failure is None else "FAILED"), failure


def _cut_off(why: str) -> str:
    return f"{why[0].upper()}{why[1:]}: trials that still run are set aside."


def _more(enough: str) -> str:
    """What to raise."""
    return {
        "all trials have run": "raise --trials",
        "the gpu_hours are used up": "raise budget.gpu_hours",
        "every point of the space has been tried": "widen the search",
    }.get(enough, "take out budget.stop_when_flat")


def _trial_bytes(job: Job) -> int:
    """What the largest trial leaves on the disk: adapter, MLflow's copy, a checkpoint."""
    adapter = 4 * int(job.found.report["memory"]["adapter_parameters"])  # float32
    return 2 * adapter + 4 * adapter  # a checkpoint: weights, two moments, the best weights


def _parent_params(job: Job) -> dict[str, object]:
    space, settings, found = job.space, job.space.settings, job.found
    params: dict[str, object] = {
        f"search.{name}": str(domain) for name, domain in space.domains.items()
    }
    params |= {
        "base_model": settings.base_model,
        "backend": job.backend,
        "quantization": settings.quantization,
        "compute_dtype": settings.compute_dtype,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "start_from": ", ".join(settings.earlier) or None,
        "objective": space.objective.python or space.objective.name,
        "objective.direction": space.objective.direction,
        "evaluate.times": settings.evaluate.times,
        "evaluate.sample_rows": found.report["sample_rows"],
        "data.train": settings.data.train,
        "data.eval": settings.data.eval,
        "data.train_fingerprint": found.report["train_fingerprint"],
        "data.eval_fingerprint": found.report["eval_fingerprint"],
    }
    return params


def _parent_tags() -> dict[str, str]:
    versions = {f"version.{name}": version(name) for name in RECORDED_VERSIONS}
    return versions | {"version.python": platform.python_version()}


def _summary(job: Job, sweep: Sweep, *, wall_seconds: float) -> report.Summary:
    best_dir = job.output_dir / "best"
    return report.Summary(
        name=job.space.name,
        ended=sweep.ended(),
        ranked=sweep.ranked(),
        base_eval_loss=sweep.base_eval_loss,
        best_dir=best_dir if best_dir.exists() else None,
        see_it_all=_see_it_all(job.output_dir),
        wall_seconds=wall_seconds,
        n_waiting=sweep.n_waiting(),
        n_paused=sweep.n_paused(),
        report=job.output_dir / FILE_NAME,
        objective=job.space.objective,
        base_value=sweep.base_value,
    )


def _see_it_all(output_dir: Path) -> str:
    """Where the sweep is in MLflow: a server's page, or the command that shows its database."""
    known = output_dir / "mlflow.json"
    where = json.loads(known.read_text()) if known.exists() else {"uri": "sqlite:"}
    if not where["uri"].startswith("sqlite:"):
        return page_of(where["uri"], where["experiment_id"], output_dir)
    return command("ui", output_dir)


def _winner(summary: report.Summary) -> dict[str, object] | None:
    winner, objective = summary.winner, summary.objective
    if winner is None:
        return None
    return {
        "trial": winner.number,
        "eval_loss": winner.eval_loss_best,
        **({} if objective.is_eval_loss else {"objective": objective.name, "value": winner.value}),
        **{name: winner.hyperparameters[name] for name in report.SHOWN},
    }
