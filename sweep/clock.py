"""The time of day, without the leaps that it makes backwards."""

import time


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
