"""What the places for trials do: how busy they are, and how far their trials have come."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sweep.clock import WORK


@dataclass
class Usage:
    """Slot-seconds since the first slot was there, and those in which a trial ran.

    A slot that loads the base model, waits for a trial or is held by one that has not begun is not
    busy. A trial's evaluations count as its run.
    """

    slot_seconds: float = 0.0
    busy_seconds: float = 0.0
    n_slots: int = 0
    """At the latest count."""
    clock: Callable[[], float] = WORK.now
    steps: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Steps that a running trial has taken, and all of its run, by its number; as last heard."""

    def __post_init__(self) -> None:
        self._n_busy = 0
        self._at = self.clock()

    def count(self, n_slots: int, n_busy: int) -> None:
        """Take how many slots there are from now on, and how many of them run a trial."""
        now = self.clock()
        self.slot_seconds += self.n_slots * (now - self._at)
        self.busy_seconds += self._n_busy * (now - self._at)
        self.n_slots, self._n_busy, self._at = n_slots, n_busy, now

    @property
    def seconds(self) -> dict[str, float]:
        return {"slot_seconds": self.slot_seconds, "busy_seconds": self.busy_seconds}

    @property
    def busy_share(self) -> float | None:
        """Of all slot-seconds so far; None before there was a slot."""
        return self.busy_seconds / self.slot_seconds if self.slot_seconds else None
