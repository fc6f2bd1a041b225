"""A command on a terminal of its own, for tests: what it shows, what is typed to it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from typing import Any


class OnTerminal:
    """Starts a command with a terminal as its controlling one, as a shell's user has it."""

    def __init__(
        self, command: Sequence[str], *, columns: int = 140, lines: int = 40, **environment: str
    ) -> None:
        self.master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = self.modes()
        self.shown = ""
        self.process = subprocess.Popen(
            list(command),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )

    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._slave)

    @property
    def echoes(self) -> bool:
        """Whether what is typed is shown, as in a shell."""
        return bool(self.modes()[3] & termios.ECHO)

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def until(self, words: str, seconds: float = 120) -> str:
        """Wait until something is shown, since the last such wait; returns all since then."""
        deadline = time.monotonic() + seconds
        while words not in self.shown:
            if not self._read(0.1) and time.monotonic() > deadline:
                raise AssertionError(f"not shown in {seconds} s: {words}\n{self.shown[-3000:]}")
        shown, self.shown = self.shown, ""
        return shown

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        return bool(ready)

    def wait(self, seconds: float = 120) -> int:
        """Read on until the command has ended; returns its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self._read(0.1)
            assert time.monotonic() < deadline, self.shown[-3000:]
        while self._read(0.0):
            pass
        return self.process.returncode

    def close(self) -> None:
        """End what still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)
