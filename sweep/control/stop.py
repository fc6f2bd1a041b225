"""`sweep stop`: end a sweep in order, from another terminal, another machine or off the cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.folder.lock import ask_to_stop, holder

if TYPE_CHECKING:
    from sweep.cluster.jobs import Cluster, Job

POLL_SECONDS = 0.2


def stop(folder: Path, *, wait: bool, say: Callable[[str], None]) -> int:
    """Ask the process that runs the sweep to end in order.

    Returns:
        0: it has ended, or was asked to; 1: no process runs it.
    """
    running_in = holder(folder)
    if running_in is None:
        say(f"{folder.name} does not run.")
        return 1
    if running_in.is_here:
        # Heard at once, before the first trial too.
        os.kill(running_in.pid, signal.SIGTERM)
    else:
        ask_to_stop(folder)
    say(f"Asked {running_in} to end {folder.name} in order.")
    while wait and holder(folder) == running_in:
        time.sleep(POLL_SECONDS)
    if wait:
        say(f"{folder.name} has ended; the same sweep run goes on.")
    return 0


def stop_job(cluster: Cluster, job: Job, *, wait: bool, say: Callable[[str], None]) -> int:
    """Ask the sweep of a job to end in order, by a small job beside it.

    Ray's own way to stop a job kills it after three seconds, before checkpoints are written.

    Returns:
        0: it has ended, or was asked to; 1: it does not run.
    """
    import tempfile

    from sweep.cluster.package import pack_program

    if job.is_over:
        say(f"{job.id} does not run: it is {job.status.lower()}.")
        return 1
    with tempfile.TemporaryDirectory() as packed:
        pack_program(Path(packed))
        command = ["python", "-m", "sweep.control.stop", job.sweep]
        answer = cluster.ask(command, Path(packed), job.output)
    if answer is None:  # not even its folder is there: nothing is lost
        cluster.client.stop_job(job.id)
        say(f"{job.id} had not begun; its job is ended.")
        return 0
    say(f"Asked {answer} to end {job.id} in order.")
    while wait and not job.is_over:
        time.sleep(POLL_SECONDS * 5)
        job = cluster.look(job)
    if wait:
        say(f"{job.id} has ended; submitting the sweep again goes on.")
    return 0


def _stop_here(name: str, output: Path) -> None:
    """Be the small job: answer with the process that was asked, or null."""
    import json

    folder = output.expanduser() / name
    asked: list[str] = []
    running_in = holder(folder)
    if running_in is not None:
        stop(folder, wait=False, say=asked.append)
    print("sweep-answer: " + json.dumps(None if running_in is None else str(running_in)))


if __name__ == "__main__":
    import sys

    _stop_here(sys.argv[1], Path(sys.argv[2]))
