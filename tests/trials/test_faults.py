"""Faults are told apart from failures, and a process that hangs ends itself."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from trials.faults import BEGINS, fault_of, has_stalled, place_in_words


def caused_by(error: Exception) -> Exception:
    outer = RuntimeError("no adapter could be saved")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (caused_by(OSError(errno.ENOSPC, "No space left on device")), "disk_full"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "machine_lost"),
        (RuntimeError("CUDA-capable device(s) is/are busy or unavailable"), "machine_lost"),
        (OSError(errno.ENOENT, "No such file"), None),
        (RuntimeError("CUDA error: device-side assert triggered"), None),
        (ValueError("a bug"), None),
    ],
    ids=str,
)
def test_what_is_not_the_trials_own_doing_is_known(error: Exception, expected: str | None) -> None:
    assert fault_of(error) == expected


HANGS = """
import threading, time
from trials.faults import Watchdog
with Watchdog(1 / 60):
    with Watchdog(0.5 / 60) as watchdog:
        for _ in range(4):
            time.sleep(0.2); watchdog.sign_of_life()  # 0.8 s in all: longer than its patience
        watchdog.stand_by(); time.sleep(0.8)
        watchdog.sign_of_life(); print("alive", flush=True)
        threading.Lock().acquire()
        def stuck(): lock = threading.Lock(); lock.acquire(); lock.acquire()
        stuck()
"""


def test_a_process_that_takes_no_step_ends_and_says_where_it_stood() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout == "alive\n"
    assert has_stalled(done.stderr) and "in stuck" in done.stderr


def test_only_the_latest_attempt_counts() -> None:
    assert not has_stalled(f"{BEGINS} 3\nTimeout (0:00:30)!\nThread …\n{BEGINS} 3\nstep")


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EROFS, "name another place"),
        (errno.EACCES, "Ask its owner"),
        (errno.ENAMETOOLONG, "Use shorter names"),
        (errno.EFBIG, "ulimit -f unlimited"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOSPC, "Free some space"),
    ],
)
def test_what_a_place_lacks_is_told_with_the_mend(number: int, mend: str) -> None:
    error = OSError(number, os.strerror(number), "/there")
    assert re.match(rf"/there: {os.strerror(number)}\. .*{mend}", place_in_words(error) or "")


def test_a_file_that_is_missing_is_a_fault_of_ours() -> None:
    assert place_in_words(FileNotFoundError(errno.ENOENT, "No such file", "/there")) is None
