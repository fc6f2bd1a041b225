"""Ray's sockets lie in a short path that can be written, or words say where they could."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.driver.session import check_ray
from sweep.errors import ClusterError
from sweep.workers import ray_folder


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_it_is_tmp_whatever_tmpdir_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", f"/tmp/{'t' * 200}")
    assert ray_folder.parent() == Path("/tmp").resolve()


def test_one_that_is_too_long_for_a_socket_is_refused_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    n_bytes = len(os.fsencode(tmp_path.resolve()))
    with pytest.raises(ClusterError, match=rf"has {n_bytes} bytes\. Set RAY_TMPDIR to a folder"):
        check_ray()


def test_so_is_one_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc")
    with pytest.raises(ClusterError, match=r"/proc cannot be written: .+ Set RAY_TMPDIR to"):
        check_ray()


def test_a_limit_of_files_that_has_no_room_for_rays_store_is_refused() -> None:
    asks = "from sweep.driver.session import check_ray; check_ray()"
    done = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -f 64; {sys.executable} -c '{asks}'"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Raise it: ulimit -f unlimited" in done.stderr


def test_the_longest_that_is_taken_is_short_enough() -> None:
    assert ray_folder.MOST_BYTES + len(ray_folder._BELOW) == 107
