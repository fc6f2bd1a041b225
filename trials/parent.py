"""Processes of ours: how one is started, and how it ends with the one that started it."""

import os
import sys
import threading


def module_command(module: str, *words: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs one of our modules in a process of its own.

    A test sees that each module named here exists: no linter looks into strings.

    Args:
        python: The interpreter; `python` where the command runs on another machine.
    """
    return [python, "-m", module, *words]


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
