"""Ends what is left of Ray when the command that started it was killed.

`python -m sweep.workers.leftovers PID`, with a pipe as its standard input that PID holds open.
Ray's own processes end with the command, save two agents: these take a minute to notice, and the
longer the younger they are.
"""

import sys
import time
from pathlib import Path

import psutil

QUIET_SECONDS = 3.0
"""Without a process of the session: what is being started has been started by then."""
LONGEST_SECONDS = 60.0


def main(pid: int, temporary_dir: Path = Path("/tmp/ray")) -> None:
    """Wait for the end of `pid`, then end all processes of the sessions of Ray that it began."""
    sys.stdin.read()
    while _runs(pid):  # it closes the pipe some moments before it ends
        time.sleep(0.1)
    began = quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < QUIET_SECONDS:
        left = processes_of(pid, temporary_dir)
        if left:
            quiet_since = time.monotonic()
        if time.monotonic() - began > 1.0:  # Ray's own way comes first
            for process in left:
                process.kill()
        if time.monotonic() - began > LONGEST_SECONDS:
            return
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(pid: int, temporary_dir: Path) -> list[psutil.Process]:
    """Processes that write into the logs of a session of Ray which process `pid` has begun.

    Neither their titles nor their environments tell: Ray writes over both.
    """
    return [
        process
        for process in psutil.process_iter()
        if any(_is_of(path, pid, temporary_dir) for path in _written_by(process))
    ]


def _written_by(process: psutil.Process) -> list[Path]:
    try:
        return [Path(file.path) for file in process.open_files() if file.mode != "r"]
    except (psutil.Error, OSError):
        return []


def _is_of(path: Path, pid: int, temporary_dir: Path) -> bool:
    if not path.is_relative_to(temporary_dir):
        return False
    session = path.relative_to(temporary_dir).parts[0]
    return session.startswith("session_") and session.endswith(f"_{pid}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
