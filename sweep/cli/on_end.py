"""`sweep run --on-end`: a command of the user's own, once the sweep has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sweep.cli.options import echo

_OUTCOMES = {0: "finished", 1: "failed", 130: "stopped"}
"""By the exit code; with 2 there was no sweep to end."""


def and_then(run: Callable[[], int], command: str | None, folder: Path) -> int:
    """Run the sweep; once it has ended, in whichever way, the command. Return the sweep's code.

    Raises:
        UserError: Of the sweep, which has not begun: then no command runs.
    """
    if command is None:
        return run()

    from trials.config import UserError

    code = 1
    try:
        code = run()
    except UserError:
        code = 2
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        if code != 2:
            _run(command, _told(folder, code))
    return code


def _run(command: str, told: dict[str, str]) -> None:
    """Run a command of the shell; its failure is said, and changes nothing."""
    try:
        process = subprocess.Popen(
            command,
            shell=True,
            env=os.environ | told,
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__,  # `--json` has standard output for itself
            start_new_session=True,  # a signal ends it with all that it has started
        )
        try:
            words = f"it ended with exit code {code}" if (code := process.wait()) else None
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            words = "it was interrupted"
    except OSError as error:  # too long, or no memory for a process
        words = f"it cannot be started: {error.strerror}"
    if words is not None:
        echo(f"--on-end: {words}; the sweep's own exit code stays. {command}", err=True)


def _told(folder: Path, code: int) -> dict[str, str]:
    """The variables of the environment that a command reads; empty where there is no winner."""
    told = {
        "SWEEP_NAME": folder.name,
        "SWEEP_FOLDER": str(folder.resolve()),
        "SWEEP_OUTCOME": _OUTCOMES[code],
        "SWEEP_EXIT_CODE": str(code),
    }
    return told | dict.fromkeys(("SWEEP_BEST_TRIAL", "SWEEP_BEST_VALUE"), "") | _best(folder)


def _best(folder: Path) -> dict[str, str]:
    from sweep.results.reading import read_sweep
    from sweep.results.trial_record import record_of
    from trials.config import UserError

    with suppress(UserError, OSError):  # none yet; or its study is away
        best = record_of(read_sweep(folder)).trial
        value = "" if best.value is None else f"{best.value:.4f}"
        return {"SWEEP_BEST_TRIAL": str(best.number), "SWEEP_BEST_VALUE": value}
    return {}
