"""`sweep run`: from a checked space to the best adapter. Read it from top to bottom."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial

from rich.console import Console

from sweep.control.prune import Words
from sweep.driver import preparation
from sweep.driver.interrupt import ends_in_order
from sweep.driver.job import EXIT_CODES, STATES, Job, Options, Status
from sweep.driver.recording import (
    close_tracker,
    end_in_order,
    new_tracker,
    open_trackers,
    summary_of,
    summary_so_far,
)
from sweep.driver.session import gpu_slots, run_loop
from sweep.driver.start_from import with_earlier
from sweep.errors import StudyAway
from sweep.folder import layout
from sweep.folder.disk_space import Room
from sweep.folder.lock import locked
from sweep.folder.requests import is_asked_to_prune, is_asked_to_stop
from sweep.samplers.choice import check_sampler
from sweep.screen import summary as report
from sweep.screen.choice import make_screen
from sweep.screen.json_events import Events
from sweep.screen.progress import Progress
from sweep.space.backend import choose_backend
from sweep.space.space import Space
from sweep.storage.of_folder import open_folder, study_writer, sweep_id
from sweep.storage.patient import Patience
from sweep.storage.postgresql import Address
from sweep.study.budget import Budget
from sweep.study.opening import open_study
from sweep.study.search_changes import search_changes
from sweep.study.sweep import Sweep
from sweep.study.task import keep_to_task, rows_so_far
from sweep.study.trial_config import model_config, resolver
from sweep.text.numbers import counted
from sweep.tracking.description import Describer
from sweep.tracking.journal import is_closed
from sweep.workers.devices import n_gpu_slots, n_visible_gpus, n_workers, wants_gpus
from trials.trial_folder import read_result
from trials.whole_file import write_whole


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
            output_dir / layout.DATA,
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
        write_whole(output_dir / layout.SPACE, space.text)
        budget = Budget(
            **space.settings.budget.model_dump(), is_asked=lambda: is_asked_to_stop(output_dir)
        )
        if events is not None:
            events.sweep_started(
                summary_of(job, sweep, wall_seconds=0.0), output_dir, space.settings
            )
        enough = budget.why_enough(sweep, sweep.n_ended() + sweep.n_paused())
        if enough is not None and not sweep.n_paused():
            console.print(f"{space.name}: {enough}; {_more(enough)} to go on.")
            if sweep.has_untold() or not is_closed(output_dir):
                end_in_order(job, sweep, console)
            console.print(report.in_words(summary_of(job, sweep, wall_seconds=0.0)))
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
        summary = summary_of(job, sweep, wall_seconds=0.0)
        events.sweep_ended(summary, STATES[status], EXIT_CODES[status], failure)
    return EXIT_CODES[status]


def _check_options(space: Space, options: Options, *, on_gpus: bool) -> None:
    """Refuse what cannot be before the data is read, which may take minutes."""
    check_sampler(space)
    n_gpus = n_visible_gpus()
    if on_gpus and n_gpus is not None and "RAY_ADDRESS" not in os.environ:
        n_gpu_slots(space, asked=options.gpus, there=n_gpus)
    if options.mlflow is not None:
        new_tracker(space, options, options.output / space.name)


def _open_sweep(job: Job, say: Callable[[str], None]) -> Sweep:
    study = open_study(
        job.space,
        job.storage,
        written=lambda number: read_result(layout.trial_dir(job.output_dir, number)),
        sweep_id=sweep_id(job.output_dir),
    )
    keep_to_task(study, job.space, job.found.report, job.backend, on_gpus=job.on_gpus)
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
    job: Job, sweep: Sweep, budget: Budget, console: Console, events: Events | None
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
            n_slots = gpu_slots(job, n_gpus) if job.on_gpus else lambda: n_cpu_workers
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
            tracker, adapters = open_trackers(job, sweep)
            if tracker.is_away:
                screen.say(f"MLflow is away, its writes are kept for later: {tracker.first_error}")
            describer = Describer(lambda: tracker.describe(summary_so_far(job, sweep, began)))
            sweep.trackers = [screen, tracker, adapters, describer, Words(job.output_dir)]
            sweep.note("running", "")
            try:
                status, failure = run_loop(sweep, runner, budget, screen, room)
            except BaseException:  # a third Ctrl-C, or a fault of ours: no run is left RUNNING
                tracker.close_sweep("KILLED", None, "The sweep was broken off; run it again.")
                raise
            summary = None
            try:
                adapters.put_right()
                with suppress(StudyAway):
                    sweep.note(STATES[status], failure or "")
                summary = summary_of(job, sweep, wall_seconds=time.monotonic() - began)
                close_tracker(job, sweep, tracker, status, summary, screen.say)
            except StudyAway as error:  # best/ and the summary are the next run's
                failure = failure or str(error)
                status = "FAILED" if status == "FINISHED" else status
                tracker.close_sweep("KILLED", None, failure)
        finally:
            connection.disconnect()
        timings = json.dumps({**asdict(runner.timings), **runner.usage.seconds}, indent=1)
        with suppress(OSError):
            write_whole(job.output_dir / layout.TIMINGS, timings)
        if summary is not None:
            console.print(report.in_words(summary))
    if words := tracker.in_words:
        console.print(words, style="red", markup=False)
    if failure:
        console.print(failure, style="bold red", markup=False)
    return status, failure


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
