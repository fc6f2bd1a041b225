"""`sweep run --on-end`: when the command runs, and what it is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.cli.on_end import and_then
from tests.sweep.reviewed import make_config, point, result, write_sweep
from trials.config import UserError

TELL = "env | grep ^SWEEP_ | sort >> told.txt"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def folder(here: Path) -> Path:
    """A sweep with a winner."""
    curves = [[point(1, loss)] for loss in (2.0, 1.5)]
    trials = [(make_config(n), result("completed", c), c) for n, c in enumerate(curves)]
    return write_sweep(here / "mine", trials)


def told(here: Path) -> dict[str, str]:
    lines = (here / "told.txt").read_text().splitlines()
    assert len({line.partition("=")[0] for line in lines}) == len(lines)  # it ran once
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize(("code", "outcome"), [(0, "finished"), (1, "failed"), (130, "stopped")])
def test_the_command_is_told_what_became_of_the_sweep(
    folder: Path, here: Path, code: int, outcome: str
) -> None:
    assert and_then(lambda: code, TELL, Path("mine")) == code
    assert told(here) == {
        "SWEEP_NAME": "mine",
        "SWEEP_FOLDER": str(folder),
        "SWEEP_OUTCOME": outcome,
        "SWEEP_EXIT_CODE": str(code),
        "SWEEP_BEST_TRIAL": "1",
        "SWEEP_BEST_VALUE": "1.5000",
    }


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "outcome"), [(KeyboardInterrupt(), "stopped"), (RuntimeError("a fault"), "failed")]
)
def test_it_runs_after_a_signal_and_after_a_fault_too(
    here: Path, error: BaseException, outcome: str
) -> None:
    with pytest.raises(type(error)):
        and_then(raising(error), TELL, Path("none"))
    assert (told(here)["SWEEP_OUTCOME"], told(here)["SWEEP_BEST_TRIAL"]) == (outcome, "")


def test_a_sweep_that_never_began_has_no_end(here: Path) -> None:
    with pytest.raises(UserError):
        and_then(raising(UserError("no such model")), TELL, Path("none"))
    assert not (here / "told.txt").exists()


def test_its_failure_is_said_and_changes_no_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert and_then(lambda: 0, "echo spoken; exit 3", Path("none")) == 0
    printed = capfd.readouterr()
    assert printed.out == ""  # it may be that of --json
    assert printed.err == (
        "spoken\n--on-end: it ended with exit code 3; the sweep's own exit code stays. "
        "echo spoken; exit 3\n"
    )


def test_a_signal_ends_the_command_and_changes_no_exit_code(
    capfd: pytest.CaptureFixture[str],
) -> None:
    interrupt_us = f"sleep 0.5; kill -INT {os.getpid()}; sleep 30"
    assert and_then(lambda: 1, interrupt_us, Path("none")) == 1
    assert (
        "--on-end: it was interrupted; the sweep's own exit code stays." in capfd.readouterr().err
    )


def test_submit_refuses_it_in_words(here: Path) -> None:
    (here / "rows.jsonl").write_text(json.dumps({"text": "a"}))
    (here / "my.yaml").write_text("base_model: smollm2-135m")
    done = CliRunner().invoke(app, ["submit", "my.yaml", "--on-end", "date"])
    assert done.exit_code == 2
    assert "--on-end: a command does not go to a cluster" in done.output
