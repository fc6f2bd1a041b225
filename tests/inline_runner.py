"""A runner without Ray: trials of this process, one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from sweep.events import Ended, Place, Reported, RunnerEvent, Started
from trials.config import EvalPoint, Report, Stop, TrialConfig, TrialResult


class InlineRunner:
    """Each trial has a thread, in which it waits for its verdicts.

    Args:
        trial: What a trial does. What it raises is raised by `wait`.
    """

    def __init__(self, trial: Callable[[TrialConfig, Report], TrialResult]) -> None:
        self._trial = trial
        self._next: tuple[int, TrialConfig] | None = None

    @property
    def n_free(self) -> int:
        """One trial at a time."""
        return 0 if self._next else 1

    def start(self, number: int, config: TrialConfig) -> None:
        """Keep the trial for `wait`."""
        assert self._next is None, "no slot is free"
        self._next = number, config

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        """Run the trial that was started."""
        assert self._next is not None, "no trial was started"
        (number, config), self._next = self._next, None
        said: queue.Queue[Reported | Ended | BaseException] = queue.Queue()
        verdicts: queue.Queue[Stop | None] = queue.Queue()

        def report(point: EvalPoint) -> Stop | None:
            said.put(Reported(number, point, verdicts.put))
            return verdicts.get()

        def work() -> None:
            try:
                said.put(Ended(number, self._trial(config, report)))
            except BaseException as error:
                said.put(error)

        yield Started(config, Place(node="localhost", device="this process"))
        threading.Thread(target=work, daemon=True).start()
        while not isinstance(event := said.get(), Ended):
            if isinstance(event, BaseException):
                raise event
            yield event
        yield event
