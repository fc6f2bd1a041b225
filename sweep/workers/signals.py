"""Signals that ask this process to end; those that it starts do not hear them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
r"""Ctrl-C; `kill`, `timeout` and batch systems; a terminal that closes; Ctrl-\."""
Handler = Callable[[int, FrameType | None], Any] | signal.Handlers


def hear(handler: Handler) -> dict[signal.Signals, Any]:
    """Give the signals that ask for an end to `handler`; return who had them.

    What a command finds ignored (by nohup, by a shell's `&`) stays ignored.
    """
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def unheard() -> None:
    """Ignore them from now on: this process ends already."""
    hear(signal.SIG_IGN)


@contextlib.contextmanager
def heard_by(handler: Handler) -> Iterator[None]:
    """Give them to `handler` while this lasts, then back to whoever had them."""
    before = hear(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def unheard_by_children() -> Iterator[None]:
    """Let what is started meanwhile never hear them, nor what it starts; SIGKILL ends these.

    A handler would be theirs to replace, and Ray's processes do.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupted(KeyboardInterrupt):
    """Not exactly that one: out of `exec`, as of a dataclass, it would end Python by SIGINT."""


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Let them raise KeyboardInterrupt, wherever this process is, and for good."""
    hear(_interrupt)
    before, sys.unraisablehook = sys.unraisablehook, _send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised while it collects garbage, which it does at every import."""
    if isinstance(lost.exc_value, Interrupted):
        threading.Timer(0.1, os.kill, (os.getpid(), *lost.exc_value.args)).start()
    else:
        sys.__unraisablehook__(lost)
