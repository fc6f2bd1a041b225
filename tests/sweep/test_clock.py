"""Nothing ends before it began, whoever sets the machine's clock."""

from __future__ import annotations

import time

import pytest

from sweep.clock import Clock

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
