"""A sweep goes on though nobody can read what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PRINTS = """
import sys
from rich.console import Console
from sweep.screen.output import dropped_if_it_fails
with dropped_if_it_fails():
    for say in (print, Console().print, Console(stderr=True).print, sys.stderr.write):
        say("ä" * 60 + "\\n")
"""


def test_output_that_cannot_be_written_is_dropped() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS], stdout=full, stderr=full, check=False)
    assert done.returncode == 0


def test_output_that_can_be_written_is_whole() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PRINTS], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("ä") == done.stderr.count("ä") == 120
