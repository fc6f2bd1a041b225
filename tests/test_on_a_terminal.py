"""`sweep run` on a real terminal: its table, and its keys."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tests.faults.campaign import write_space
from tests.ptys import OnTerminal

SWEEP = [sys.executable, "-m", "sweep"]


@pytest.fixture
def space(tmp_path: Path, tiny_base: Path) -> Path:
    """Trials that take some ten seconds."""
    return write_space(tmp_path / "space", tiny_base, n_trials=20, epochs="200")


@pytest.fixture
def terminal(space: Path) -> Iterator[OnTerminal]:
    output = str(space.parent / "out")
    unpaused = ("--set", "pruning.outclassed=false")
    command = [*SWEEP, "run", str(space), "--workers", "2", "--output", output, *unpaused]
    on_terminal = OnTerminal(command, XDG_CACHE_HOME=str(space.parent / "cache"))
    yield on_terminal
    on_terminal.close()


@pytest.mark.long
def test_keys_prune_a_trial_and_end_the_sweep_in_order(space: Path, terminal: OnTerminal) -> None:
    folder = space.parent / "out" / "tiny"
    terminal.until("s stop  p prune a trial  ? help")
    terminal.until("000 r16")
    terminal.until("001 r")
    assert not terminal.echoes
    terminal.type("?")
    terminal.until("From another terminal: sweep stop, sweep prune.")
    terminal.type("p19\r")
    terminal.until("Trial 19 is not running.")
    terminal.type("p0\r")
    terminal.until("Trial 0 will stop at its next evaluation.")
    terminal.until("stopped by hand at")
    elsewhere = prune(folder, 1)
    assert (elsewhere.returncode, elsewhere.stdout) == (
        0,
        "Trial 1 of tiny will stop at its next evaluation.\n",
    )
    terminal.until("stopped by hand at")
    assert prune(folder, 0).returncode == 1
    no_such = prune(folder, 77)
    assert no_such.returncode == 2
    assert "tiny: no trial 77; its trials are 0 to " in no_such.stderr
    terminal.until("busy ")
    terminal.type("s\r")
    terminal.until("Stopping: running trials write a checkpoint")
    assert terminal.wait() == 130
    assert "stopped" in terminal.shown
    assert terminal.modes() == terminal.before
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/study.db")
    first, second = study.trials[:2]
    assert {first.state.name, second.state.name} == {"PRUNED"}
    assert {t.user_attrs["outcome"] for t in (first, second)} == {"stopped"}
    assert all(t.state.name == "WAITING" for t in study.trials[2:])
    assert list(folder.glob("prune-*")) == []
    # A word for a trial of a sweep that does not run is not heard.
    assert prune(folder, 2).stdout == "tiny is not running.\n"
    assert json.loads(shown(folder, 0))["outcome"] == "stopped"


def prune(folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    """`sweep prune`, from elsewhere."""
    command = [*SWEEP, "prune", "tiny", str(number), "--output", str(folder.parent)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shown(folder: Path, number: int) -> str:
    """`sweep show --json`."""
    command = [*SWEEP, "show", "tiny", str(number), "--json", "--output", str(folder.parent)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
