"""A study for tests of runners: it hands out given trials and writes down what it hears."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweep.events import Place
from sweep.study.ask_tell import AskTell
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult


class Recording(AskTell):
    """Asks for `configs` in turn; `events` holds what happened, in order."""

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        on_report: Callable[[int, EvalPoint], Stop | None] = lambda number, point: None,
    ) -> None:
        self._waiting = list(configs)
        self._on_report = on_report
        self.events: list[tuple[str, int]] = []
        self.places: dict[int, Place] = {}
        self.points: dict[int, list[EvalPoint]] = {}
        self.results: dict[int, TrialResult] = {}

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        config = self._waiting.pop(0)
        return config.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        self.events.append(("started", config.number))
        self.places[config.number] = place

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        self.points.setdefault(number, []).append(point)
        return self._on_report(number, point)

    def tell(self, number: int, result: TrialResult) -> bool:
        self.events.append(("ended", number))
        self.results[number] = result
        return True

    def n_ended(self) -> int:
        return 0

    def is_exhausted(self) -> bool:
        return not self._waiting

    def running_together(self) -> list[set[int]]:
        """The sets of trials that ran at the same time, one after each start."""
        running: set[int] = set()
        sets = []
        for what, number in self.events:
            if what == "started":
                running.add(number)
                sets.append(set(running))
            else:
                running.discard(number)
        return sets
