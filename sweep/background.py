"""Writes that reach a server later: in order, once, on a thread that nobody waits for."""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_RETRY_WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # a minute: a server is restarted in less
_CLOSING_WAIT_SECONDS = 4.0
"""The longest wait for a retry once the sweep has ended and somebody waits for the prompt."""
_CLOSING_PATIENCE_SECONDS = 60.0
"""Without one successful write, the rest is given up."""
_IDLE_SECONDS = 10.0


class Writer:
    """Make calls in order on one background thread, so that no GPU waits for a server.

    A call that raises is made again for a minute, then counted and left.

    Args:
        is_final: Whether an error will be the same every time.
        idle: Called every 10 seconds between two writes; its failures do not matter.
    """

    def __init__(
        self, *, is_final: Callable[[Exception], bool], idle: Callable[[], object]
    ) -> None:
        self.first_error: str | None = None
        self._n_put = self._n_sent = 0
        self._is_final = is_final
        self._idle = idle
        self._writes: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    @property
    def unsent(self) -> int:
        """Calls that have not succeeded."""
        return self._n_put - self._n_sent

    def put(self, write: Callable[[], object]) -> None:
        """Make a call after those put before it."""
        self._n_put += 1
        self._writes.put(write)

    def close(self) -> None:
        """Wait for what is left; give it up after a minute without success."""
        self._closing.set()
        self._writes.put(None)
        n_sent, since = self._n_sent, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < _CLOSING_PATIENCE_SECONDS:
            self._thread.join(0.1)
            if self._n_sent > n_sent:
                n_sent, since = self._n_sent, time.monotonic()
        self._given_up.set()

    def _work(self) -> None:
        next_idle = time.monotonic() + _IDLE_SECONDS
        while not self._given_up.is_set():
            if time.monotonic() >= next_idle and not self._closing.is_set():
                with suppress(Exception):
                    self._idle()
                next_idle = time.monotonic() + _IDLE_SECONDS
            try:
                write = self._writes.get(timeout=max(0.0, next_idle - time.monotonic()))
            except queue.Empty:
                continue
            if write is None:
                return
            self._send(write)

    def _send(self, write: Callable[[], object]) -> None:
        for wait in (*_RETRY_WAITS_SECONDS, math.inf):
            try:
                write()
            # Exception: artifact stores raise their own (boto3, azure, google), and a thread that
            # dies of one would lose every write after it.
            except Exception as error:
                closing = self._closing.is_set()
                longest = _CLOSING_WAIT_SECONDS if closing else _RETRY_WAITS_SECONDS[-1]
                if wait > longest or self._is_final(error) or self._given_up.is_set():
                    self.first_error = self.first_error or in_a_line(error)
                    return
                (self._given_up if closing else self._closing).wait(wait)
            else:
                self._n_sent += 1
                return


def in_a_line(error: Exception) -> str:
    """Return the first line of what was raised, without secrets."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # urllib3's own words, out of the three messages around them
    if cause := re.search(r"Caused by \w+\(['\"](?:\w+\(.*?\): )?(.+?)['\"]\)", text):
        text = cause[1]
    text = without_secrets(text)[:300]
    return text if text.endswith(".") else f"{text}."


def without_secrets(text: str) -> str:
    """Return `text` without the user, password and query of every address in it."""
    return re.sub(r"\?[\w.%~-]+=[^\s'\")]*", "", re.sub(r"://[^\s'\"]*@", "://", text))
