"""How often somebody has asked for the end."""

from __future__ import annotations

import os
import signal

import pytest

from sweep.driver import interrupt
from sweep.driver.interrupt import StopSignals, ends_in_order


def test_signals_that_come_together_are_one_request() -> None:
    stop, said = StopSignals(), list[str]()
    with ends_in_order(stop, said.append):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):  # `timeout`, a terminal
            os.kill(os.getpid(), number)
    assert stop.heard.is_set() and not stop.hurry.is_set()
    assert said == ["Stopping: running trials write a checkpoint …"]


def test_the_third_request_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "ONE_REQUEST_SECONDS", 0.0)
    stop = StopSignals()
    with pytest.raises(KeyboardInterrupt), ends_in_order(stop, lambda _: None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
