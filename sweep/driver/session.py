"""Workers, disk, trackers, screen and loop from start to end: the same for `run` and `confirm`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sweep.clock import WORK
from sweep.control.prune import ClearPruneRequests
from sweep.driver import loop
from sweep.driver.interrupt import StopSignals, ends_in_order
from sweep.driver.job import Ending
from sweep.errors import StudyAway, SweepFailed
from sweep.events import Tracker
from sweep.folder import layout
from sweep.folder.disk_space import DiskSpace
from sweep.screen.choice import Screen
from sweep.screen.progress import Progress
from sweep.space.space import Space
from sweep.study.ask_tell import AskTell
from sweep.study.budget import Budget
from sweep.study.final import FinalEvaluation
from sweep.text.numbers import duration
from sweep.workers import ray_folder
from sweep.workers.devices import n_gpu_slots, n_workers
from trials.config import ModelConfig
from trials.whole_file import write_whole

if TYPE_CHECKING:
    from sweep.workers.runner import RayRunner


class Study(AskTell, Protocol):
    """A study whose trackers hear of its trials."""

    trackers: Sequence[Tracker]

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that run."""

    def interrupt(self) -> None:
        """Put every running trial back in the queue."""

    def why_failed(self) -> str | None:
        """Say why trials that all ran in order have come to nothing; None: they have not."""


class Recording(Protocol):
    """What is written of a session beside the study: MLflow, the report, the best adapter."""

    def open(self) -> Sequence[Tracker]:
        """Open it; return who hears of the trials."""

    def close(self, ending: Ending) -> Ending:
        """Write the end and tell the user; return how it has ended after all."""

    def break_off(self) -> None:
        """Leave no run of MLflow as if it ran."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What trials run with, from the first to the last of a command."""

    space: Space
    folder: Path
    """Of the trials, and of who asks to prune them."""
    model: ModelConfig
    on_gpus: bool
    workers: int | None
    gpus: int | None
    """Both as on the command line."""
    most_slots: float = math.inf
    trial_bytes: int
    """That the largest trial leaves on the disk."""
    budget: Budget
    stop: StopSignals
    progress: Progress
    screen: Screen
    final: Callable[[], Iterator[FinalEvaluation]] = lambda: iter(())
    """Asked for what is measured once all trials have ended."""

    def run(self, study: Study, recording: Recording) -> Ending:
        """Run the trials; whatever ends them, no process of Ray's is left.

        Raises:
            StudyError: There are too few GPUs.
            TrackingError: As `MlflowTracker`.
        """
        from sweep.workers import connection

        n_cpu_workers = None if self.on_gpus else n_workers(self.space, self.workers)
        with WORK.looked_at(self._stood_still), ends_in_order(self.stop, self.screen.say):
            try:
                n_gpus = connection.connect(n_cpu_workers=n_cpu_workers)
                make = partial(self._make_runner, n_gpus)
                runner = make(self.model)  # its workers load while MLflow is opened
                return self._run(study, recording, runner, make)
            finally:
                connection.disconnect()

    def _stood_still(self, seconds: float) -> None:
        why = "Ctrl-Z, or a machine asleep or too busy"
        words = f"The command stood still for {duration(seconds)} ({why})"
        self.screen.say(f"{words}; that counts toward no limit.")

    def _make_runner(self, n_gpus: int, model: ModelConfig) -> RayRunner:
        from sweep.workers.connection import check_alive
        from sweep.workers.runner import RayRunner

        n_cpu_workers = n_workers(self.space, self.workers)
        n_slots = self._gpu_slots(n_gpus) if self.on_gpus else lambda: n_cpu_workers

        def n_slots_now() -> int:  # asked every other second
            check_alive()
            return int(min(n_slots(), self.most_slots))

        runner = RayRunner(
            model,
            n_slots=n_slots_now,
            on_gpus=self.on_gpus,
            gpus_per_trial=self.space.settings.gpus_per_trial,
            folder=self.folder,
            say=self.screen.say,
        )
        self.progress.usage = runner.usage
        self.progress.is_stopping = self.stop.heard.is_set
        return runner

    def _gpu_slots(self, n_gpus: int) -> Callable[[], int]:
        """Return what tells how many trials there should be at once.

        On a cluster that is as many as its GPUs hold now, or as --gpus says: what is not there yet
        is waited for, which is also what has an autoscaler bring it.

        Args:
            n_gpus: That are there.
        """
        from sweep.workers.connection import gpu_places, is_joined

        per_trial = self.space.settings.gpus_per_trial
        if not is_joined() or (self.gpus is None and n_gpus == 0):
            n_slots = n_gpu_slots(self.space, asked=self.gpus, there=n_gpus)
            return lambda: n_slots
        if self.gpus is None:
            return lambda: gpu_places(per_trial)
        n_asked = n_gpu_slots(self.space, asked=self.gpus, there=max(self.gpus, n_gpus))
        return lambda: n_asked

    def _run(
        self,
        study: Study,
        recording: Recording,
        runner: RayRunner,
        make: Callable[[ModelConfig], RayRunner],
    ) -> Ending:
        disk = DiskSpace(self.folder, self.trial_bytes, self.screen.say)
        hear = recording.open()
        study.trackers = [self.screen, *hear, ClearPruneRequests(self.folder), disk]
        try:
            ending = self._run_loop(study, runner, disk, make)
        except BaseException:  # a third Ctrl-C, or a fault of ours: no run is left RUNNING
            recording.break_off()
            raise
        ending = recording.close(ending)
        if self.stop.heard.is_set():  # while the report was written, too
            ending = "KILLED", ending[1]
        timings = {**asdict(runner.timings), **runner.usage.seconds}
        with suppress(OSError):
            write_whole(self.folder / layout.TIMINGS, json.dumps(timings, indent=1))
        return ending

    def _run_loop(
        self,
        study: Study,
        runner: RayRunner,
        disk: DiskSpace,
        make: Callable[[ModelConfig], RayRunner],
    ) -> Ending:
        """Run the trials; whatever ends them, no process and no running trial is left."""
        failure: str | None = None
        with self.screen:
            try:
                why = loop.run(study, runner, self.budget, self.stop.is_given, disk.has_room)
                words = self.budget.in_words(why)
                rest = ": running trials are interrupted, to resume later" if study.running else ""
                self.screen.say(f"{words[0].upper()}{words[1:]}{rest}.")
                for event in runner.set_aside(until=self.stop.hurry.is_set):
                    loop.take(study, event)
                loaded = self.model
                finals = self.final()
                while not self.stop.is_given() and (final := next(finals, None)) is not None:
                    if (model := final.measurements[0].config.model) != loaded:
                        runner.shutdown()
                        runner, loaded = make(model), model
                    self._measure(final, runner, disk)
            except (SweepFailed, StudyAway) as error:
                failure = str(error)
            finally:
                runner.shutdown()
                with suppress(StudyAway):  # the next run puts back what is still there as running
                    study.interrupt()
        if self.stop.heard.is_set():
            return "KILLED", failure
        failure = failure or study.why_failed()
        return ("FINISHED" if failure is None else "FAILED"), failure

    def _measure(self, final: FinalEvaluation, runner: RayRunner, disk: DiskSpace) -> None:
        """Make the final evaluation; what is not measured by the end of it, the next run is."""
        loop.run(final, runner, Budget(None, None), self.stop.is_given, disk.has_room)
        for event in runner.set_aside(until=self.stop.hurry.is_set):
            loop.take(final, event)
        for failure in final.failures:
            self.screen.say(f"{final.title}: not made: {failure}")


def check_ray() -> None:
    """Refuse a cluster that does not answer, or a place where Ray cannot run.

    Before anything is written, and before the data is read, which may take minutes.
    """
    if "RAY_ADDRESS" not in os.environ:
        ray_folder.check()
        return
    from sweep.workers.connection import check_address

    check_address()


def trial_bytes(report: Mapping[str, Any]) -> int:
    """Return what the largest trial leaves on the disk: adapter, MLflow's copy, a checkpoint."""
    adapter = 4 * int(report["memory"]["adapter_parameters"])  # float32
    tokenizer = int(report.get("tokenizer_bytes", 0))
    # A checkpoint: weights, two moments, the best weights.
    return 2 * (adapter + tokenizer) + 4 * adapter
