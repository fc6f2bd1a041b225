"""Users who share an XDG_CACHE_HOME do not run or train on what another has put there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trials.config import ConfigError
from trials.machine.cache import cache_dir, make

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another's folder")


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_cache_of_ones_own_is_used_and_so_is_one_that_is_not_there_yet(shared: Path) -> None:
    assert cache_dir() == shared / "sweep"
    (shared / "sweep").mkdir()
    assert cache_dir() == shared / "sweep"


@needs_root
def test_a_cache_that_another_user_filled_is_left_alone(shared: Path) -> None:
    (shared / "sweep").mkdir()
    os.chown(shared / "sweep", 65534, 65534)
    assert cache_dir() == shared / f"sweep-{os.geteuid()}"


def test_so_is_one_that_everybody_may_fill(shared: Path) -> None:
    (shared / "sweep").mkdir()
    (shared / "sweep").chmod(0o777)
    assert cache_dir() == shared / f"sweep-{os.geteuid()}"


def test_where_both_are_taken_the_mend_is_said(shared: Path) -> None:
    for name in ("sweep", f"sweep-{os.geteuid()}"):
        (shared / name).mkdir()
        (shared / name).chmod(0o777)
    with pytest.raises(ConfigError, match=r"Set XDG_CACHE_HOME to a folder of yours\."):
        cache_dir()


def test_every_cache_of_the_program_is_found_by_this_one_function() -> None:
    root = Path(__file__).parents[3]
    users = {
        path.relative_to(root).as_posix()
        for part in ("sweep", "trials")
        for path in (root / part).rglob("*.py")
        if "user_cache_path" in path.read_text(encoding="utf-8")
    }
    assert users == {"trials/machine/cache.py"}


NAMELESS = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


@needs_root
def test_a_user_without_a_home_is_told_what_to_set() -> None:
    environment = {n: v for n, v in os.environ.items() if n not in ("HOME", "XDG_CACHE_HOME")}
    asks = [sys.executable, "-c", "from trials.machine.cache import cache_dir; cache_dir()"]
    done = subprocess.run(
        [*NAMELESS, *asks],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip(f"there are no namespaces of users here: {done.stderr}")
    assert "user 12345 has no home here. Set XDG_CACHE_HOME to a folder of yours." in done.stderr


def test_where_the_cache_cannot_be_written_the_mend_is_said() -> None:
    with pytest.raises(ConfigError, match=r"/dev/null/sweep is not: .+ Set XDG_CACHE_HOME to"):
        make(Path("/dev/null/sweep"))
