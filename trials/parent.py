"""A process that must not outlive the one that started it."""

from __future__ import annotations

import os
import sys
import threading


def end_with_parent() -> None:
    """End this process when its standard input does: it is a pipe that the parent holds open.

    The kernel closes it however the parent ends.
    """
    threading.Thread(target=_wait, daemon=True, name="parent").start()


def _wait() -> None:
    sys.stdin.read()
    os._exit(0)
