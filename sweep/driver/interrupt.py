"""Ctrl-C and SIGTERM while trials run: the first ends the sweep in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import FrameType

from sweep.study.budget import Budget
from sweep.workers.signals import heard_by


@contextlib.contextmanager
def ends_in_order(budget: Budget, say: Callable[[str], None]) -> Iterator[None]:
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
