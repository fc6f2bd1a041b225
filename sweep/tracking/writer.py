"""Writes that reach a server later: in order, once, on a thread that nobody waits for."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from sweep.clock import WORK
from sweep.tracking.journal import Event, Journal
from trials.foreign_text import in_a_line

_LONGEST_WAIT_SECONDS = 60.0
"""Between two attempts; the first waits are 1, 2, 4, … s."""
_CLOSING_WAIT_SECONDS = 4.0
"""The longest wait once the sweep has ended and somebody waits for the prompt."""
_CLOSING_PATIENCE_SECONDS = 60.0
"""Without one successful write, the rest is left in the journal."""
_SYNC_SECONDS = 1.0
_IDLE_SECONDS = 10.0


class Writer:
    """Send a journal's events in order on one background thread, so that no GPU waits for a server.

    An event that cannot be sent is sent again, for ever; one that is wrong for good is counted and
    skipped.

    Args:
        send: Sends one event, perhaps for the second time.
        is_final: Whether an error will be the same every time.
        idle: Called every 10 seconds between two events; its failures do not matter.
        error: Why the server could not be reached before; None if it could.
    """

    def __init__(
        self,
        journal: Journal,
        send: Callable[[Event], object],
        *,
        is_final: Callable[[Exception], bool],
        idle: Callable[[], object],
        error: str | None = None,
    ) -> None:
        self.n_refused = 0
        self.first_refusal: str | None = None
        self.error = error
        """Why the latest attempt failed; None after one that succeeded."""
        self._journal = journal
        self._send = send
        self._is_final = is_final
        self._idle = idle
        self._n_done = 0
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def close(
        self,
        on_progress: Callable[[], object] = lambda: None,
        patience_seconds: float | None = None,
    ) -> None:
        """Wait for what is left; leave it in the journal after so long without success.

        Args:
            patience_seconds: None: a minute.
        """
        patience = _CLOSING_PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        self._closing.set()
        n_done, since = self._n_done, WORK.now()
        while self._thread.is_alive() and WORK.now() - since < patience:
            self._thread.join(0.05)
            if self._n_done > n_done:
                n_done, since = self._n_done, WORK.now()
                on_progress()
        self._given_up.set()
        self._journal.sync()

    def _work(self) -> None:
        next_idle = time.monotonic() + _IDLE_SECONDS
        while not self._given_up.is_set():
            event = self._journal.first(timeout=0.0 if self._closing.is_set() else 0.1)
            if event is not None:
                self._send_until_sent(event)
            elif self._closing.is_set():
                return
            elif time.monotonic() >= next_idle:
                with suppress(Exception):
                    self._idle()
                next_idle = time.monotonic() + _IDLE_SECONDS

    def _send_until_sent(self, event: Event) -> None:
        wait = 1.0
        while not self._given_up.is_set():
            try:
                self._send(event)
            # Exception: artifact stores raise their own (boto3, azure, google), and a thread that
            # dies of one would lose every event after it.
            except Exception as error:
                if self._is_final(error):
                    self.n_refused += 1
                    self.first_refusal = self.first_refusal or in_a_line(error)
                    break
                self.error = in_a_line(error)
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            else:
                break
        else:
            return
        self.error = None
        self._journal.sent(event)
        self._n_done += 1

    def _sleep(self, seconds: float) -> None:
        """Wait, not for long once the sweep closes; keep the journal safe meanwhile."""
        began = time.monotonic()
        while not self._given_up.is_set():
            self._journal.sync()
            longest = _CLOSING_WAIT_SECONDS if self._closing.is_set() else seconds
            left = began + min(seconds, longest) - time.monotonic()
            if left <= 0:
                return
            self._given_up.wait(min(left, _SYNC_SECONDS))
