"""Ctrl-C and other signals while trials run: the first stops the sweep cleanly."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from sweep.workers.signals import heard_by

ONE_REQUEST_SECONDS = 1.0
"""Signals so near to each other are one: `timeout` sends two, a closing terminal three."""


@dataclass
class StopSignals:
    """Whether anybody wants the end of what runs."""

    is_asked: Callable[[], bool] = lambda: False
    """Whether somebody has left word in the sweep's folder."""
    heard: threading.Event = field(default_factory=threading.Event)
    """Set once anybody wants it, in whichever way."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set when nobody wants to wait for checkpoints."""

    def is_given(self) -> bool:
        """Whether anybody wants the end by now."""
        if not self.heard.is_set() and self.is_asked():
            self.heard.set()
        return self.heard.is_set()


@contextlib.contextmanager
def ends_in_order(signals: StopSignals, say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C (or another signal) stop the sweep cleanly; only the third one aborts.

    The second usually comes from somebody who did not see that the first was heard.
    """
    answers = iter(
        [
            "Stopping: running trials write a checkpoint …",
            "Skipping checkpoints; still saving the rest. Ctrl-C again aborts.",
        ]
    )

    latest = -math.inf

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal latest
        if time.monotonic() - latest < ONE_REQUEST_SECONDS:
            return
        latest = time.monotonic()
        if signals.heard.is_set():
            signals.hurry.set()
        signals.heard.set()
        answer = next(answers, None)
        if answer is None:
            raise KeyboardInterrupt
        say(answer)

    with heard_by(stop):
        yield
