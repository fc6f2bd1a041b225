"""What a campaign has found of one fault: a row of the table."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field

from tests.faults import states
from tests.faults.campaign import SweepUnderTest

HOPELESS = 100
"""So many things wrong, or sweeps in which no fault could be injected, end a fault's turn."""


@dataclass
class Tally:
    """Counts faults and what was wrong after them; each is printed as it happens."""

    fault: str
    n_wanted: int
    reference: dict[int, states.Ended]
    n_injected: int = 0
    n_sweeps: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self.ended_at: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether as many faults were injected as were wanted, or there is no use in going on."""
        is_hopeless = len(self.found) > HOPELESS or self.n_sweeps > self.n_wanted + HOPELESS
        return self.n_injected >= self.n_wanted or is_hopeless

    @property
    def seconds(self) -> float:
        """From the first of them to the last."""
        return (self.ended_at or time.monotonic()) - self._began

    @property
    def found(self) -> list[str]:
        """All that was wrong."""
        return [*self.lost, *self.wrong, *self.left]

    def injected(self, sweep: SweepUnderTest, words: str) -> None:
        """Count a fault and say which."""
        self.n_injected += 1
        moment = time.monotonic() - sweep.started_at
        self._say(f"{self.n_injected}/{self.n_wanted}", f"{words}, {moment:.1f} s after the start")

    def check_readable(self, sweep: SweepUnderTest) -> None:
        """Count what cannot be read, the sweep running or not."""
        self._count(self.wrong, "wrong", states.unreadable(sweep))

    def check_gone(self, sweep: SweepUnderTest) -> None:
        """Count the processes that are left half a minute after the command."""
        self._count(self.left, "left", sweep.gone())

    def check_none_runs(self, sweep: SweepUnderTest) -> None:
        """Count the trials and runs that are said to run."""
        self._count(self.wrong, "wrong", list(states.running(sweep)))

    def is_wrong(self, words: str) -> None:
        """Count what a fault's own function has found."""
        self._count(self.wrong, "wrong", [words])

    def check_end(self, sweep: SweepUnderTest, code: int | None) -> None:
        """Count all that an undisturbed sweep would not leave behind."""
        self.n_sweeps += 1
        n_before = len(self.found)
        if code is None:
            self.is_wrong("the sweep has not come to its end")
        elif code != 0:
            self.is_wrong(f"the sweep has ended with {code}")
        self._count(self.wrong, "wrong", states.tracebacks(sweep))
        self.check_gone(sweep)
        self.check_readable(sweep)
        try:
            self._count(self.lost, "lost", states.lost(sweep, self.reference))
            self._count(self.wrong, "wrong", list(states.wrong(sweep, self.reference)))
        except Exception as error:
            self.is_wrong(f"the ended sweep cannot be looked at: {error!r}")
        if len(self.found) == n_before:
            self._say("right", f"a sweep has ended as if nothing had happened ({self.n_sweeps})")
        elif sweep.output.exists() and sweep.output.parent != sweep.space.parent:
            # It lies on a disk of the campaign's own, which goes.
            shutil.copytree(sweep.output, sweep.space.parent / "found")

    def _count(self, column: list[str], kind: str, found: list[str]) -> None:
        for words in found:
            column.append(words)
            self._say(kind.upper(), words)

    def _say(self, kind: str, words: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {self.fault:8} {kind:7} {words}", flush=True)
