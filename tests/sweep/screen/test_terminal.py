"""Keys from a real terminal, and the terminal given back."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.ptys import OnTerminal

SCRIPT = """
import sys, time
from sweep.screen.terminal import has_keys, read_keys
assert has_keys()
typed = []
def press(text):
    print(f"typed <{text}>", flush=True)
    typed.append(text)
with read_keys(press, show_cursor=lambda on: print("cursor", on, flush=True)) as is_heard:
    print("ready", flush=True)
    while "q" not in typed:
        time.sleep(0.05)
        if "x" in typed:
            raise RuntimeError("a fault")
print("over", flush=True)
"""

# The shell `sh` puts a command in the background of its terminal, in a process group of its own.
IN_BACKGROUND = """
set -m
"$0" -c 'import time
from sweep.screen.terminal import read_keys
with read_keys(print, show_cursor=print) as is_heard:
    time.sleep(1)
    print("heard", is_heard(), flush=True)
' &
wait $!
echo "ended with $?"
"""


@pytest.fixture
def start() -> Iterator[Callable[..., OnTerminal]]:
    started: list[OnTerminal] = []

    def make(*command: str) -> OnTerminal:
        started.append(OnTerminal(command))
        return started[-1]

    yield make
    for terminal in started:
        terminal.close()


def eventually(fact: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not fact() and time.monotonic() < deadline:
        time.sleep(0.02)
    return fact()


def test_keys_come_one_by_one_and_the_terminal_is_given_back(
    start: Callable[..., OnTerminal],
) -> None:
    terminal = start(sys.executable, "-c", SCRIPT)
    terminal.until("ready")
    assert eventually(lambda: not terminal.echoes)
    terminal.type("a")
    terminal.until("typed <a>")
    terminal.type("q")
    terminal.until("over")
    assert terminal.wait() == 0
    assert terminal.modes() == terminal.before


@pytest.mark.parametrize(("typed", "exit_code"), [("x", 1), ("\x03", 1)])
def test_a_fault_and_ctrl_c_leave_the_terminal_as_it_was(
    start: Callable[..., OnTerminal], typed: str, exit_code: int
) -> None:
    terminal = start(sys.executable, "-c", SCRIPT)
    terminal.until("ready")
    assert eventually(lambda: not terminal.echoes)
    terminal.type(typed)
    assert terminal.wait() in (exit_code, -signal.SIGINT)
    assert terminal.modes() == terminal.before


def test_ctrl_z_gives_the_terminal_back_until_the_command_goes_on(
    start: Callable[..., OnTerminal],
) -> None:
    terminal = start(sys.executable, "-c", SCRIPT)
    terminal.until("ready")
    assert eventually(lambda: not terminal.echoes)
    terminal.type("\x1a")
    terminal.until("cursor True")
    assert os.WIFSTOPPED(os.waitpid(terminal.process.pid, os.WUNTRACED)[1])
    assert terminal.modes() == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until("cursor False")
    assert eventually(lambda: not terminal.echoes)
    terminal.type("q")
    terminal.until("over")
    assert terminal.wait() == 0
    assert terminal.modes() == terminal.before


def test_in_the_background_nothing_is_read_and_nothing_stops_it(
    start: Callable[..., OnTerminal],
) -> None:
    terminal = start("sh", "-c", IN_BACKGROUND, sys.executable)
    terminal.type("s\n")
    assert "heard False" in terminal.until("ended with 0")
    assert terminal.modes() == terminal.before
