"""A process that was started ends with the one that started it, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from trials.parent import run_module

RUNS = "from trials.parent import run_module; run_module('http.server', '0', '--bind', '127.0.0.1')"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_module_that_runs_ends_with_a_killed_command(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", RUNS]) as command:
        me = psutil.Process(command.pid)
        while not (started := me.children()):
            assert command.poll() is None
        command.send_signal(number)
    _, left = psutil.wait_procs(started, timeout=15)
    assert left == []


SERVES = """
from trials.parent import child_command, serve
serve(child_command("timeit", "-n1", "-r1", "import os; os.system('sleep 60; sleep 60')"))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_server_has_started_ends_with_it(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVES]) as command:
        me = psutil.Process(command.pid)
        while "sleep" not in [process.name() for process in me.children(recursive=True)]:
            assert command.poll() is None
        started = me.children(recursive=True)
        command.send_signal(number)
    _, left = psutil.wait_procs(started, timeout=15)
    assert left == []


def test_what_it_prints_and_how_it_ends_is_known() -> None:
    done = run_module("json.tool", "/nowhere", capture_output=True)
    assert done.returncode != 0 and "nowhere" in done.stderr
    done = run_module("trials.machine.libraries", "json", capture_output=True)
    assert (done.returncode, "json" in done.stdout) == (0, True)
