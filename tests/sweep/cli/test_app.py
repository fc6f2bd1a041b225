"""Signals are heard from the first moment of a command on, and told in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.workers.signals import ENDING

HIT = """
import os, signal
exec("os.kill(os.getpid(), {number})")  # as each dataclass is made
print("goes on", flush=True)
os._exit(0)
"""


def hit_while_it_imports(folder: Path, typer: str) -> subprocess.CompletedProcess[str]:
    """Start a command that gets a signal where it imports typer."""
    (folder / "typer.py").write_text(typer)
    return subprocess.run(
        [sys.executable, "-m", "sweep", "run", "mine.yaml"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_while_it_imports_ends_a_command_in_words(
    tmp_path: Path, number: signal.Signals
) -> None:
    done = hit_while_it_imports(tmp_path, HIT.format(number=int(number)))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_that_is_ignored_when_a_command_starts_stays_ignored(
    tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.signal(number, signal.SIG_IGN)  # as nohup does, or a shell's `&`
    try:
        done = hit_while_it_imports(tmp_path, HIT.format(number=int(number)))
    finally:
        signal.signal(number, before)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


DROPS = """
import os, signal, time, weakref
class Collected: pass
collected = Collected()
weakref.finalize(collected, os.kill, os.getpid(), signal.SIGTERM)
del collected
time.sleep(10)
os._exit(0)
"""


def test_a_signal_that_python_drops_is_heard_again(tmp_path: Path) -> None:
    done = hit_while_it_imports(tmp_path, DROPS)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
