"""Single keys from a terminal, which is given back as it was, whatever happens."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

try:
    import termios
    import tty
except ImportError:  # Windows: no keys
    termios = None  # type: ignore[assignment]

POLL_SECONDS = 0.2


def has_keys() -> bool:
    """Whether keys can be had: on a terminal of a system that has termios."""
    try:
        return termios is not None and sys.stdin.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


@contextmanager
def read_keys(
    press: Callable[[str], None], *, show_cursor: Callable[[bool], object]
) -> Iterator[Callable[[], bool]]:
    """Pass on what is typed, at once and without its echo, from a thread of its own.

    In the background nothing is read or set: the terminal is then somebody else's, and its kernel
    would stop us. Ctrl-C stays a signal. Gives what tells whether keys come here now.

    Args:
        press: Called with what was typed, one key or a sequence.
        show_cursor: While the process is suspended (Ctrl-Z), the shell wants to have it.
    """
    reader = _Reader(press, show_cursor)
    reader.start()
    try:
        yield lambda: reader.is_foreground
    finally:
        reader.close()


class _Reader:
    def __init__(self, press: Callable[[str], None], show_cursor: Callable[[bool], object]) -> None:
        self._press = press
        self._show_cursor = show_cursor
        self._terminal = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._terminal)
        self._is_set = False
        """Whether the terminal is as we want it."""
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="keys", daemon=True)
        self._suspends = False

    @property
    def is_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:  # the terminal is gone
            return False

    def start(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._suspend)
            self._suspends = True
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._give_back()
        if self._suspends:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        self._thread.join(5 * POLL_SECONDS)

    def _read(self) -> None:
        # Between the look who is in the foreground and the call, that may change: an error then,
        # in place of a stop of the whole process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN, signal.SIGTTOU})
        while not self._is_over.is_set():
            if not self.is_foreground:
                self._is_set = False  # the shell sets it as it likes
                self._is_over.wait(POLL_SECONDS)
                continue
            with suppress(OSError, termios.error):
                self._set()
                ready, _, _ = select.select([self._terminal], [], [], POLL_SECONDS)
                if ready and not self._is_over.is_set():
                    typed = os.read(self._terminal, 64)
                    if not typed:
                        return  # the terminal is gone
                    self._press(typed.decode(errors="ignore"))
                continue
            self._is_over.wait(POLL_SECONDS)

    def _set(self) -> None:
        with self._lock:
            if not self._is_set and not self._is_over.is_set():
                tty.setcbreak(self._terminal, termios.TCSADRAIN)
                self._is_set = True

    def _give_back(self) -> None:
        with self._lock, suppress(OSError, termios.error):
            if self._is_set and self.is_foreground:
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
            self._is_set = False

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Take Ctrl-Z: the shell gets its terminal, and `fg` gets ours."""
        with self._lock:  # so that the reading thread does not set it again meanwhile
            self._give_back()
            self._show_cursor(True)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._show_cursor(False)
