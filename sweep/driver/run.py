"""`sweep run`: from a checked space to the best adapter. Read it from top to bottom."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from sweep.driver import preparation
from sweep.driver.answers import Asking
from sweep.driver.final import Finish
from sweep.driver.interrupt import StopSignals, ends_in_order
from sweep.driver.job import EXIT_CODES, STATES, Ending, Job, Options
from sweep.driver.recording import SweepRecording, new_tracker, summary_at_end, summary_of
from sweep.driver.session import Session, check_ray, trial_bytes
from sweep.driver.start_from import with_earlier
from sweep.folder import layout
from sweep.folder.requests import is_asked_to_prune, is_asked_to_stop
from sweep.results.final import read_final
from sweep.samplers.choice import check_sampler
from sweep.screen.choice import make_screen
from sweep.screen.json_events import Events
from sweep.screen.progress import Progress, expected_of
from sweep.screen.summary import summary_text
from sweep.space.backend import choose_backend
from sweep.space.space import Space
from sweep.storage.attributes import PRICE
from sweep.storage.of_folder import open_folder, study_name, study_writer, sweep_id
from sweep.storage.patient import Patience, PatientStorage
from sweep.storage.place import held, note_run, say_versions
from sweep.storage.postgresql import Address
from sweep.study.budget import Budget
from sweep.study.opening import name_objective, open_study
from sweep.study.sweep import Sweep
from sweep.study.task import keep_to_task, rows_so_far, search_changes, with_its_optimizer
from sweep.study.trial_config import model_config, resolver
from sweep.tracking.destination import Destination, destination
from sweep.tracking.journal import is_closed
from sweep.tracking.location import own_database, see_tracked
from sweep.workers.devices import n_gpu_slots, n_visible_gpus, wants_gpus
from trials.trial_folder import read_result
from trials.whole_file import write_whole


def run(space: Space, options: Options, console: Console, events: Events | None = None) -> int:
    """Run the sweep and return the exit code: 0 done, 1 failed, 130 interrupted.

    Args:
        events: Where programs read what happens.

    Raises:
        SpaceError, StudyError, TrackingError: In words for the user, before any trial starts.
    """
    check_ray()
    output_dir = options.output / space.name
    server = Address.parse(options.study) if options.study else None
    open_folder(output_dir, server)
    tracked = destination(output_dir, options.mlflow)
    see_tracked(output_dir, tracked.uri)
    read_final(output_dir)  # a file that cannot be read is told now, not when all trials have run
    patience = Patience(say=console.print)
    with held(output_dir, say=console.print), study_writer(output_dir, server, patience) as storage:
        job = _prepare(space, output_dir, options, tracked, storage, console)
        sweep = _open_sweep(job, say=console.print)
        say_versions(output_dir, console.print)
        note_run(output_dir, job.space.folder)
        write_whole(output_dir / layout.SPACE, job.space.text)
        if events is not None:
            summary = summary_of(job, sweep)
            events.sweep_started(summary, output_dir, job.space.settings)
        finish = Finish(job, sweep, say=console.print)
        asking = Asking(finish)
        were_answers = asking.forget_unwanted()
        limits = job.space.settings.budget.limits
        budget = Budget(**limits, objective=job.space.objective, reserve=finish.reserve)
        enough = budget.why_enough(sweep, sweep.n_ended() + sweep.n_paused())
        if enough is not None and not (sweep.n_paused() or finish.is_due or asking.is_due):
            words = f"{budget.in_words(enough)}; {enough.advice} to go on."
            console.print(f"{job.space.name}: {words}")
            is_stale = were_answers or sweep.has_untold() or not is_closed(output_dir)
            status, failure = _end_in_order(job, sweep, console, is_stale=is_stale)
        else:
            status, failure = _run_trials(job, sweep, budget, asking, console, events)
        if events is not None:
            summary = summary_at_end(job, sweep)
            events.sweep_ended(summary, STATES[status], EXIT_CODES[status], failure)
        return EXIT_CODES[status]


def _prepare(
    space: Space,
    output_dir: Path,
    options: Options,
    tracked: Destination,
    storage: PatientStorage,
    console: Console,
) -> Job:
    if tracked.words:
        console.print(tracked.words)
    space = space.named(study_name(output_dir))
    on_gpus = wants_gpus(workers=options.workers, gpus=options.gpus)
    backend = choose_backend(space, on_gpus=on_gpus)
    _check_options(space, options, on_gpus=on_gpus)
    if tracked.uri != own_database(output_dir):
        new_tracker(space.name, tracked, output_dir)
    so_far = rows_so_far(space, output_dir, storage)
    space = with_its_optimizer(space, so_far)
    space = with_earlier(space, options.output, tracked.asked, storage, output_dir)
    found = preparation.prepare_data(
        space, output_dir / layout.DATA, on_gpus=on_gpus, say=console.print, so_far=so_far
    )
    console.print(preparation.check_table(space, found))
    return Job(
        space=space,
        options=options,
        output_dir=output_dir,
        on_gpus=on_gpus,
        backend=backend,
        found=found,
        storage=storage,
        tracked=tracked,
    )


def _check_options(space: Space, options: Options, *, on_gpus: bool) -> None:
    """Refuse what cannot be before the data is read, which may take minutes."""
    check_sampler(space)
    n_gpus = n_visible_gpus()
    if on_gpus and n_gpus is not None and "RAY_ADDRESS" not in os.environ:
        n_gpu_slots(space, asked=options.gpus, there=n_gpus)


def _open_sweep(job: Job, say: Callable[[str], None]) -> Sweep:
    study = open_study(
        job.space,
        job.storage,
        written=lambda number: read_result(layout.trial_dir(job.output_dir, number)),
        sweep_id=sweep_id(job.output_dir),
    )
    keep_to_task(study, job.space, job.found.report, job.backend, on_gpus=job.on_gpus)
    price = job.space.settings.budget.price_per_gpu_hour
    if study.user_attrs.get(PRICE) != price:
        study.set_user_attr(PRICE, price)
    name_objective(study, job.space.objective.name)
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


def _end_in_order(job: Job, sweep: Sweep, console: Console, *, is_stale: bool) -> Ending:
    """Bring best/ and MLflow to the end of the study, which a killed process had reached alone."""
    if not is_stale:
        console.print(summary_text(summary_at_end(job, sweep)))
        return "FINISHED", None
    recording, stop = SweepRecording(job, sweep, console, console.print), StopSignals()
    with ends_in_order(stop, console.print):
        recording.open()
        status, failure = recording.close(("FINISHED", None))
    return "KILLED" if stop.heard.is_set() else status, failure


def _run_trials(
    job: Job, sweep: Sweep, budget: Budget, asking: Asking, console: Console, events: Events | None
) -> Ending:
    finish = asking.finish
    if sweep.n_ended() or sweep.n_waiting() or sweep.n_paused():
        paused = f", {sweep.n_paused()} paused" if sweep.n_paused() else ""
        counts = f"{sweep.n_ended()} done, {sweep.n_waiting()} interrupted{paused}"
        console.print(f"\nResuming {job.space.name}: {counts}")
    console.print("\nStarting Ray; workers load the base model …")
    progress = Progress(
        budget,
        sweep.ended(),
        sweep.base.eval_loss,
        queued=sweep.queued(),
        paused=sweep.paused,
        gpu_seconds=sweep.gpu_seconds,
        gpus_per_trial=job.space.settings.gpus_per_trial,
        objective=job.space.objective,
        expected=expected_of(job.space),
    )
    session = Session(
        space=job.space,
        folder=job.output_dir,
        model=model_config(job.space, job.backend),
        on_gpus=job.on_gpus,
        workers=job.options.workers,
        gpus=job.options.gpus,
        trial_bytes=trial_bytes(job.found.report),
        budget=budget,
        stop=StopSignals(partial(is_asked_to_stop, job.output_dir)),
        progress=progress,
        screen=make_screen(console, progress, job.output_dir, events),
        final=asking.evaluations,
    )
    finish.say, finish.n_slots = session.screen.say, lambda: max(1, progress.usage.n_slots)
    job.storage.patience = Patience(session.screen.say, session.stop.heard.is_set)
    return session.run(sweep, SweepRecording(job, sweep, console, session.screen.say))
