"""`sweep stop`: stop a sweep cleanly, from another terminal, another machine or off the cluster."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from sweep.folder.lock import Holder, holder
from sweep.folder.requests import ask_to_stop

POLL_SECONDS = 0.2


def stop(folder: Path, *, wait: bool, say: Callable[[str], None]) -> int:
    """Ask the process that runs the sweep to stop cleanly.

    Returns:
        0: it has ended, or was asked to; 1: no process runs it.
    """
    running_in = holder(folder)
    if running_in is None:
        say(f"{folder.name} is not running.")
        return 1
    if not _has_signalled(running_in):
        ask_to_stop(folder)
    say(f"Asked {running_in} to stop {folder.name}.")
    while wait and holder(folder) == running_in:
        time.sleep(POLL_SECONDS)
    if wait:
        say(f"{folder.name} has stopped; the same sweep run resumes it.")
    return 0


def _has_signalled(process: Holder) -> bool:
    """Whether it hears at once, before the first trial too: it runs here, and is ours."""
    if not process.is_here:
        return False
    try:
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)  # one that Ctrl-Z has suspended hears it too
    except PermissionError:
        return False
    return True
