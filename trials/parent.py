"""Processes of ours: how one is started, and how it ends with the one that started it."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).resolve().parents[1]
"""The folder that `sweep` and `trials` are imported from."""
GRACE_SECONDS = 5.0
"""For a server that is told to end."""


def module_command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module in a process of its own, on this machine.

    A test sees that each module named here exists: no linter looks into strings.
    """
    # -P: a `torch.py` in the current folder is data, not a module.
    return [sys.executable, "-P", "-m", module, *words]


def child_command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module, which knows nothing of it, until its input ends."""
    return module_command("trials.parent", module, *words)


def run_module(module: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a module in a process that ends with this one, however that ends; wait for it.

    Args:
        options: Of `subprocess.run`.
    """
    # Not subprocess.PIPE: `run` would close that at once.
    theirs, ours = os.pipe()
    try:
        return subprocess.run(
            child_command(module, *words),
            stdin=theirs,
            text=True,
            errors="replace",
            check=False,
            **options,
        )
    finally:
        os.close(theirs)
        os.close(ours)


def serve(command: list[str], **options: Any) -> int:
    """Run a `child_command` until it ends, or this process does, and all that it has started.

    Args:
        options: Of `subprocess.Popen`.

    Returns:
        Its exit code.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, **options
    ) as server:
        try:
            return server.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):  # then its input ends
                server.wait(GRACE_SECONDS)


def job_command(module: str, *words: str) -> list[str]:
    """Return the command of a job on a cluster: its own folder brings the program."""
    return ["python", "-m", module, *words]


def module_environment() -> dict[str, str]:
    """Return the environment of a process that imports from where this one does.

    Not from the current folder, unless the program itself lies there.
    """
    taken = [folder for folder in filter(None, sys.path) if _is_ours_or_elsewhere(Path(folder))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(taken)}


def _is_ours_or_elsewhere(folder: Path) -> bool:
    path = folder.resolve()
    return path == PROGRAM or path != Path.cwd()


def end_with_parent() -> None:
    """End this process when its standard input does: it is a pipe that the parent holds open.

    The kernel closes it however the parent ends. Where the process leads a group, all of that end.
    Whoever reads the standard input from now on, to ask a person something, finds its end.
    """
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait, args=(pipe,), daemon=True, name="parent").start()


def _wait(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # what it has started, too
    os._exit(0)


if __name__ == "__main__":  # of a `child_command`
    end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
