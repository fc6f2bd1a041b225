"""A small part of the campaign: see `tests.faults.mutated_files`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_mutated_files_end_in_words_or_in_a_valid_run() -> None:
    # A process of its own: it forks one for each file, and pytest's has threads.
    campaign = "tests.faults.mutated_files --yaml 25 --data 20 --commands 1 --seed 7"
    done = subprocess.run(
        [sys.executable, "-m", *campaign.split()],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
