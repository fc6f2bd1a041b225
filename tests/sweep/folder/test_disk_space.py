"""A full disk pauses a sweep."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sweep.folder.disk_space import FREE_BYTES, DiskSpace
from trials.config import TrialResult

Usage = namedtuple("Usage", "total used free")
NO_ROOM = TrialResult(outcome="interrupted", reason="", fault="disk_full")


class Disk:
    """A disk and a clock."""

    def __init__(self) -> None:
        self.free = 10**9
        self.now = 0.0
        self.said: list[str] = []


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 0, made.free))
    return made


def room(disk: Disk) -> DiskSpace:
    return DiskSpace(Path("sweeps/x"), 100 * 2**20, disk.said.append, clock=lambda: disk.now)


def test_a_full_disk_pauses_once_in_words_and_goes_on_by_itself(disk: Disk) -> None:
    there = room(disk)
    assert there.has_room()
    disk.free = 100 * 2**20 + FREE_BYTES - 1
    disk.now += 2
    assert not there.has_room() and not there.has_room()
    disk.now += 2
    assert not there.has_room()
    assert len(disk.said) == 1 and "needs 116 MiB, but sweeps/x has 116 MiB free." in disk.said[0]
    disk.free += 1
    disk.now += 2
    assert there.has_room()
    assert disk.said[1:] == ["There is space again: the sweep continues."]


def test_trials_that_find_no_room_are_waited_for_longer_each_time(disk: Disk) -> None:
    there = room(disk)
    for rest in (5, 10, 20):
        there.trial_ended(0, NO_ROOM)
        disk.now += rest - 0.1
        assert not there.has_room()
        disk.now += 1.2
        assert there.has_room()
    there.trial_ended(0, TrialResult(outcome="completed", reason=""))
    there.trial_ended(0, NO_ROOM)
    disk.now += 5.1
    assert there.has_room()
