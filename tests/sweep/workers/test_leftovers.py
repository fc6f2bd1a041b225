"""Nothing of Ray outlives a command that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from sweep.workers.leftovers import processes_of

CONNECTS = """
from sweep.workers import connection
connection.connect(n_cpu_workers=1)
print("up", flush=True)
import time; time.sleep(100)
"""


@pytest.mark.parametrize("named", [[], ["TMPDIR", "RAY_TMPDIR"]], ids=["usual", "elsewhere"])
def test_every_process_of_ray_ends_soon_after_a_killed_command(named: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # a socket's path has 107 bytes
        environment = {**os.environ, **dict.fromkeys(named, short)}
        ends_with_its_command(environment)
        assert list(Path(short).iterdir()) == []


def ends_with_its_command(environment: dict[str, str]) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", CONNECTS], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert command.stdout is not None and command.stdout.readline() == "up\n"
    started = psutil.Process(command.pid).children(recursive=True)
    titles = {process.name() for process in started}
    assert "raylet" in titles and len(started) > 3
    command.kill()
    command.wait()
    command.stdout.close()
    psutil.wait_procs(started, timeout=15)
    assert [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_only_who_writes_into_the_logs_of_that_command_is_meant(tmp_path: Path) -> None:
    writes = "import sys, time; file = open(sys.argv[1], sys.argv[2]); print(1); time.sleep(60)"

    def process(session: str, mode: str) -> subprocess.Popen[str]:
        log = tmp_path / session / "raylet.out"
        log.parent.mkdir(exist_ok=True)
        log.touch()
        command = [sys.executable, "-u", "-c", writes, str(log), mode]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    meant = process("session_2026_4711", "a")
    others = [process("session_2026_4711", "r"), process("session_2026_14711", "a")]
    for started in (meant, *others):
        assert started.stdout is not None and started.stdout.readline() == "1\n"
    assert [found.pid for found in processes_of(tmp_path / "session_2026_4711")] == [meant.pid]
    for started in (meant, *others):
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()
