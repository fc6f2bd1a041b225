"""Ends what is left of Ray when the command that started it was killed.

`python -m sweep.workers.leftovers PID FOLDER`, with a pipe as its standard input that PID holds
open. Ray's own processes end with the command, save two agents: these take a minute to notice, and
the longer the younger they are.
"""

import math
import shutil
import sys
import time
from pathlib import Path

import psutil

from trials.unfinished import is_gone

QUIET_SECONDS = 3.0
"""Without a process of the session: what is being started has been started by then."""
LONGEST_SECONDS = 60.0


def main(pid: int, folder: Path) -> None:
    """Wait for the end of `pid`, then end all processes of the Ray that has its logs in `folder`.

    The folder goes with them.
    """
    sys.stdin.read()
    while not is_gone(pid, math.inf):  # it closes the pipe some moments before it ends
        time.sleep(0.1)
    began = quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        left = processes_of(folder)
        if left:
            quiet_since = time.monotonic()
        if time.monotonic() - began > 1.0:  # Ray's own way comes first
            for process in left:
                process.kill()
        if time.monotonic() - began > LONGEST_SECONDS:
            return
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that write into the folder of a Ray.

    Neither their titles nor their environments tell: Ray writes over both.
    """
    return [
        process
        for process in psutil.process_iter()
        if any(path.is_relative_to(folder) for path in _written_by(process))
    ]


def _written_by(process: psutil.Process) -> list[Path]:
    try:
        return [Path(file.path) for file in process.open_files() if file.mode != "r"]
    except (psutil.Error, OSError):
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
