"""Workers, screen and loop from start to end: the same for `run` and `confirm`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sweep.driver import loop
from sweep.driver.job import Job, Status
from sweep.errors import StudyAway, SweepFailed
from sweep.folder.disk_space import Room
from sweep.screen.screen import Screen
from sweep.study.budget import Budget
from sweep.study.sweep import Sweep
from sweep.text.trials import an
from sweep.workers.devices import n_gpu_slots

if TYPE_CHECKING:
    from sweep.workers.runner import RayRunner


def run_loop(
    sweep: Sweep, runner: RayRunner, budget: Budget, screen: Screen, room: Room
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
        failure = f"No trial reached {an(sweep.objective)} that counts."
    return ("FINISHED" if failure is None else "FAILED"), failure


def _cut_off(why: str) -> str:
    return f"{why[0].upper()}{why[1:]}: trials that still run are set aside."


def gpu_slots(job: Job, n_gpus: int) -> Callable[[], int]:
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
