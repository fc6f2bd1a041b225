"""Stop or prune a sweep that runs as a job on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sweep.control.stop import POLL_SECONDS
from sweep.errors import StudyError
from trials.parent import job_command

if TYPE_CHECKING:
    from sweep.cluster.jobs import Cluster, Job

STEER = "sweep.cluster.on_head.steer"


def prune_job(cluster: Cluster, job: Job, number: int, say: Callable[[str], None]) -> int:
    """Prune a trial of a sweep on a cluster, by a small job beside it; returns as `prune` does.

    Raises:
        StudyError: As `prune` raises it there.
    """
    if _is_over(job, say):
        return 1
    command = job_command(STEER, "prune", job.sweep, str(number))
    answer = cluster.ask(command, job.output)
    if answer["code"] is None:
        raise StudyError(answer["words"])
    say(answer["words"])
    return int(answer["code"])


def stop_job(cluster: Cluster, job: Job, *, wait: bool, say: Callable[[str], None]) -> int:
    """Ask the sweep of a job to stop cleanly, by a small job beside it.

    Ray's own way to stop a job kills it after three seconds, before checkpoints are written.

    Returns:
        0: it has ended, or was asked to; 1: it does not run.
    """
    if _is_over(job, say):
        return 1
    answer = cluster.ask(job_command(STEER, "stop", job.sweep), job.output)
    if answer is None:  # not even its folder is there: nothing is lost
        cluster.client.stop_job(job.id)
        say(f"{job.id} had not started; its job is stopped.")
        return 0
    say(f"Asked {answer} to stop {job.id}.")
    while wait and not job.is_over:
        time.sleep(POLL_SECONDS * 5)
        job = cluster.look(job)
    if wait:
        say(f"{job.id} has stopped; submit the sweep again to resume it.")
    return 0


def _is_over(job: Job, say: Callable[[str], None]) -> bool:
    if job.is_over:
        say(f"{job.id} is not running: it is {job.status.lower()}.")
    return job.is_over
