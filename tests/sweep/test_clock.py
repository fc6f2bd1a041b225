"""Nothing ends before it began, whoever sets the machine's clock."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from sweep.clock import Clock, WorkClock

HOUR = 3600.0


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the machine's clock says; the last one counts."""
    said = [1000.0]
    monkeypatch.setattr(time, "time", lambda: said[-1])
    return said


def test_a_clock_that_is_set_back_goes_on_from_where_it_was(at: list[float]) -> None:
    clock = Clock()
    told = [clock.now()]
    for seconds in (10.0, -HOUR, 5.0, HOUR, 5.0):
        at.append(at[-1] + seconds)
        told.append(clock.now())
    assert told == [1000.0, 1010.0, 1010.0, 1015.0, 1015.0 + HOUR, 1020.0 + HOUR]


def test_it_goes_on_from_what_was_told_before(at: list[float]) -> None:
    clock = Clock(latest=1000.0 + HOUR)
    assert clock.now() == 1000.0 + HOUR
    at.append(1002.0)
    assert clock.now() == 1002.0 + HOUR


def test_a_stop_is_no_work() -> None:
    now = [100.0]
    clock = WorkClock(lambda: now[0])
    began = clock.now()
    with clock.looked_at(print):
        for seconds in (2.0, HOUR, 3.0):
            now[0] += seconds
            clock.now()
    assert clock.now() - began == 5.0


def test_where_nobody_looks_all_time_is_work() -> None:
    now = [100.0]
    clock = WorkClock(lambda: now[0])
    began = clock.now()
    now[0] += HOUR
    assert clock.now() - began == HOUR


STOPPED = """
import time
from sweep.clock import WORK
began = WORK.now(), time.monotonic()
with WORK.looked_at(lambda seconds: print("stood still", flush=True)):
    print("ready", flush=True)
    input()
    print(WORK.now() - began[0], time.monotonic() - began[1])
"""


def test_a_process_that_goes_on_after_a_stop_knows_how_long_it_has_worked() -> None:
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(7.0)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "stood still\n"
        print(file=process.stdin, flush=True)
        worked, passed = map(float, process.stdout.readline().split())
    assert worked < passed - 6.0
