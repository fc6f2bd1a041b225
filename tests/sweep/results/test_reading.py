"""A command reads a stored sweep once, so all that it says is of one moment."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.folder.lock import locked
from sweep.results.reading import read_sweep
from sweep.storage.patient import storage_url
from tests.sweep.reviewed import make_config, point, result, write_sweep


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two sweeps of two trials; the first is confirmed."""
    curve = [point(index, 2.0 - index / 10) for index in range(1, 5)]
    for name in ("mine", "other"):
        ended = [(make_config(number), result("completed", curve), curve) for number in (0, 1)]
        write_sweep(tmp_path / name, ended)
    (tmp_path / "mine" / "confirm").mkdir()
    (tmp_path / "mine" / "confirm" / "plan.json").write_text("[[0, 8]]")
    return tmp_path


def sweep(output: Path, command: str) -> str:
    done = CliRunner().invoke(app, [*command.split(), "--output", str(output)])
    assert done.exit_code == 0, done.output
    return done.stdout


def before_each_opening(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    opens = optuna.load_study

    def acts_and_opens(**given: Any) -> optuna.Study:
        act()
        return opens(**given)

    monkeypatch.setattr(optuna, "load_study", acts_and_opens)


@pytest.mark.parametrize(
    ("command", "n_opened"),
    [
        ("status mine", 1),
        ("show mine", 1),
        ("show mine 0", 1),
        ("best mine", 1),
        ("best mine --yaml trl", 1),
        ("report mine", 1),
        ("compare mine other", 2),
        ("compare mine:0 mine:1", 1),
        ("confirm mine --json", 1),
        ("list", 2),
        ("clean mine", 1),
    ],
)
def test_a_command_opens_a_study_once(
    output: Path, monkeypatch: pytest.MonkeyPatch, command: str, n_opened: int
) -> None:
    opened: list[None] = []
    before_each_opening(monkeypatch, lambda: opened.append(None))
    sweep(output, command)
    assert len(opened) == n_opened


def test_a_trial_that_ends_meanwhile_is_the_same_on_both_sides(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.load_study(study_name="mine", storage=storage_url(output / "mine"))

    def a_trial_ends() -> None:
        trial = study.ask()
        trial.set_user_attr("hyperparameters", study.trials[0].user_attrs["hyperparameters"])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)

    before_each_opening(monkeypatch, a_trial_ends)
    one, other = json.loads(sweep(output, "compare mine:0 mine:1 --json"))["sides"]
    assert one["outcomes"] == other["outcomes"]


def test_a_sweep_that_begins_meanwhile_is_not_broken_off(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = output / "mine"
    study = optuna.load_study(study_name="mine", storage=storage_url(folder))
    with ExitStack() as process:

        def begins() -> None:
            monkeypatch.undo()
            process.enter_context(locked(folder))
            study.set_user_attr("state", ["running", "", 2000.0])

        before_each_opening(monkeypatch, begins)
        assert read_sweep(folder).state == "running"
