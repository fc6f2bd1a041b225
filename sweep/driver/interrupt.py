"""Ctrl-C and SIGTERM while trials run: the first stops the sweep cleanly."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from sweep.workers.signals import heard_by


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
    """Let Ctrl-C (or SIGTERM) stop the sweep cleanly; only the third one aborts.

    The second usually comes from somebody who did not see that the first was heard.
    """
    answers = iter(
        [
            "Stopping: running trials write a checkpoint …",
            "Skipping checkpoints; still saving the rest. Ctrl-C again aborts.",
        ]
    )

    def stop(number: int, frame: FrameType | None) -> None:
        if signals.heard.is_set():
            signals.hurry.set()
        signals.heard.set()
        answer = next(answers, None)
        if answer is None:
            raise KeyboardInterrupt
        say(answer)

    with heard_by(stop):
        yield
