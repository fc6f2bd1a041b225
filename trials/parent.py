"""Processes of ours: how one is started, and how it ends with the one that started it."""

import os
import sys
import threading
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1]
"""The folder that `sweep` and `trials` are imported from."""


def module_command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module in a process of its own, on this machine.

    A test sees that each module named here exists: no linter looks into strings.
    """
    # -P: a `torch.py` in the current folder is data, not a module.
    return [sys.executable, "-P", "-m", module, *words]


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

    The kernel closes it however the parent ends. Whoever reads the standard input from now on, to
    ask a person something, finds its end.
    """
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait, args=(pipe,), daemon=True, name="parent").start()


def _wait(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    os._exit(0)
