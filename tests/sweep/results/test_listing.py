"""`sweep list`: all sweeps of a folder, also those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from sweep.folder.lock import locked
from sweep.results.listing import as_json, read_all, sweeps_table, unended
from tests.sweep.reviewed import make_config, point, result, write_sweep


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two sweeps, one of them broken off later, and one whose study is no database."""
    curve = [point(1, 2.0), point(2, 1.5)]
    for name in ("older", "younger"):
        write_sweep(tmp_path / name, [(make_config(0), result("overfit", curve), curve)])
    import optuna

    study = optuna.load_study(
        study_name="younger", storage=f"sqlite:///{tmp_path / 'younger' / 'study.db'}"
    )
    study.set_user_attr("state", ["running", "", 2000.0])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text("{}")
    (tmp_path / "broken" / "study.db").write_text("no database")
    (tmp_path / "no sweep").mkdir()
    return tmp_path


def printed(output: Path) -> str:
    console = Console(width=160, record=True)
    console.print(sweeps_table(read_all(output), output))
    return console.export_text()


def test_all_sweeps_are_there_the_latest_first(output: Path) -> None:
    found = as_json(read_all(output))
    assert [each["name"] for each in found] == ["younger", "older", "broken"]
    assert [each["state"] for each in found] == ["broken off", "finished", "unreadable"]
    assert (found[1]["trials"], found[1]["best_trial"], found[1]["best_eval_loss"]) == (1, 0, 1.5)
    json.dumps(found, allow_nan=False)


def test_the_list_in_words(output: Path) -> None:
    words = " ".join(printed(output).split())
    assert "eval loss 1.5000 (trial 0)" in words
    assert "it is not a database" in words


def test_a_running_sweep_is_said_to_run(output: Path) -> None:
    with locked(output / "older"):
        assert as_json(read_all(output))[0]["state"] == "running"


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert "no sweeps. Look elsewhere with --output." in printed(tmp_path)


def test_what_has_not_ended_and_does_not_run_can_go_on(output: Path) -> None:
    for name in ("older", "younger", "broken"):
        (output / name / "space.yaml").touch()
    assert [sweep.name for sweep in unended(output)] == ["younger"]
    with locked(output / "younger"):
        assert unended(output) == []
    (output / "younger" / "space.yaml").unlink()  # it was refused before it began
    assert unended(output) == []
