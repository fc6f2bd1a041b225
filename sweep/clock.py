"""Clocks: the time of day without its leaps backwards; the time that this process has worked."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_SECONDS = 1.0
STOPPED_SECONDS = 5.0
"""Who looks every second and finds so many gone was stopped."""


class Clock:
    """Goes on where somebody sets the machine's clock back, so that nothing ends before it began.

    Args:
        latest: A time that has been told before, in seconds of the epoch; none is told before it.
    """

    def __init__(self, latest: float = 0.0) -> None:
        self._latest = latest
        self._ahead = 0.0

    def now(self) -> float:
        """Return the seconds of the epoch."""
        self._ahead += max(0.0, self._latest - (time.time() + self._ahead))
        self._latest = max(self._latest, time.time() + self._ahead)
        return self._latest


class WorkClock:
    """Stands still while this process is stopped: by Ctrl-Z, with its container, by sleep.

    It sees that from how long nobody has looked, so somebody must (`looked_at`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # a signal may come amid a look, and look itself
        self._latest = clock()
        self._stopped = 0.0
        self._n_looking = 0

    def now(self) -> float:
        """Return seconds; only their differences mean anything."""
        with self._lock:
            now = self._clock()
            if self._n_looking and now - self._latest > STOPPED_SECONDS:
                self._stopped += now - self._latest
            self._latest = now
            return now - self._stopped

    @contextmanager
    def looked_at(self, stood_still: Callable[[float], object]) -> Iterator[None]:
        """Look every second while this lasts, whatever else the process waits for.

        Args:
            stood_still: Told after each stop how many seconds it took.
        """
        is_over = threading.Event()

        def look() -> None:
            known = self._stopped
            while not is_over.wait(LOOK_SECONDS):
                self.now()
                if self._stopped > known:
                    stood_still(self._stopped - known)
                known = self._stopped

        self.now()
        self._n_looking += 1
        threading.Thread(target=look, name="clock", daemon=True).start()
        try:
            yield
        finally:
            is_over.set()
            self._n_looking -= 1


WORK = WorkClock()
"""Of this process: whatever has a limit, or is paid for, counts by it."""
