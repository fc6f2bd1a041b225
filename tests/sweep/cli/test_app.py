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


HITS_EARLY = """
import os, signal, sys
class Hit:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Hit())
"""


@pytest.mark.parametrize("module", ["sweep.workers.signals", "sweep.cli.commands"])
def test_a_ctrl_c_before_others_are_heard_is_told_in_words_too(tmp_path: Path, module: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(HITS_EARLY.format(module=module))
    done = hit_while_it_imports(tmp_path, "import sys; sys.exit('reached typer')")
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


ASKS_LATE = """
import atexit, os, sys
atexit.register(os.kill, os.getpid(), {number})
sys.exit(1)
"""


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_when_all_is_done_does_not_change_the_exit_code(
    tmp_path: Path, number: signal.Signals
) -> None:
    done = hit_while_it_imports(tmp_path, ASKS_LATE.format(number=int(number)))
    assert (done.returncode, done.stderr) == (1, "")


ASKS_TWICE = """
import atexit, os, signal
atexit.register(os.kill, os.getpid(), {number})
os.kill(os.getpid(), {number})
"""


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_who_asks_again_while_a_command_ends_gets_no_traceback(
    tmp_path: Path, number: signal.Signals
) -> None:
    done = hit_while_it_imports(tmp_path, ASKS_TWICE.format(number=int(number)))
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
