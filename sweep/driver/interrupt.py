"""Ctrl-C and SIGTERM while trials run: the first ends the sweep in order."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from sweep.driver import loop


@contextlib.contextmanager
def ends_in_order(budget: loop.Budget, say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C (or SIGTERM) end the sweep in order; only the third one breaks it off.

    The second usually comes from somebody who did not see that the first was heard.
    """
    answers = iter(
        [
            "Stopping: running trials write a checkpoint, everything is written down …",
            "Without checkpoints; still writing down the rest. Once more breaks that off.",
        ]
    )

    def stop(number: int, frame: FrameType | None) -> None:
        if budget.stop.is_set():
            budget.hurry.set()
        budget.stop.set()
        answer = next(answers, None)
        if answer is None:
            raise KeyboardInterrupt
        say(answer)

    with heard_by(stop):
        yield


@contextlib.contextmanager
def heard_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Give Ctrl-C and SIGTERM to `handler` while this lasts, then back to whoever had them."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
