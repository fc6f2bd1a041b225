"""What tests of `run` and `confirm` share."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.workers import connection
    from tests.without_ray import NoRay

    monkeypatch.setattr("sweep.workers.runner.RayRunner", NoRay)
    monkeypatch.setattr(connection, "connect", lambda *, n_cpu_workers: 1)
    monkeypatch.setattr(connection, "disconnect", lambda: None)


@pytest.fixture
def full_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has no room when it is first asked, and then it has."""
    free = iter([0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, next(free, 10**12)))
