"""What killed processes left half done goes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trials.unfinished import scratch_dir, unfinished

DIES = """
import os, sys; from pathlib import Path; from trials.unfinished import scratch_dir, unfinished
half = unfinished(Path(sys.argv[1]))
half.mkdir() if sys.argv[2] == "folder" else half.touch()
scratch = scratch_dir(half.parent)
print(half.name, Path(scratch.name).name, flush=True)
os._exit(0)
"""


def died(path: Path, kind: str) -> set[str]:
    command = [sys.executable, "-c", DIES, str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_halves_of_dead_processes_go_when_the_next_one_begins(tmp_path: Path, kind: str) -> None:
    def there() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    alive = f"mine.{os.getppid()}.tmp"
    kept = {alive, "mine.tmp", "mine.html.tmp", "other.999999999.tmp", "mine"}
    for name in kept:
        (tmp_path / name).mkdir()
    half, scratch = sorted(died(tmp_path / "mine", kind))
    assert there() == kept | {half, scratch}
    assert unfinished(tmp_path / "mine").name == f"mine.{os.getpid()}.tmp"
    assert there() == kept | {scratch}
    with scratch_dir(tmp_path) as mine, scratch_dir(tmp_path) as another:
        assert there() == kept | {Path(mine).name, Path(another).name}
    assert there() == kept


def test_a_number_that_another_process_has_by_now_is_no_excuse(tmp_path: Path) -> None:
    leftover = tmp_path / f"mine.{os.getppid()}.tmp"
    leftover.mkdir()
    os.utime(leftover, (0, 0))  # before that process began
    unfinished(tmp_path / "mine")
    assert not leftover.exists()


def test_another_machines_scratch_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, scratch = sorted(died(tmp_path / "mine", "file"))
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with scratch_dir(tmp_path):
        assert (tmp_path / scratch).exists()
