"""`sweep status` tells the truth of a sweep that runs, has ended, or has died."""

from __future__ import annotations

import json
import re
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from sweep.errors import StudyError
from sweep.folder.lock import locked
from sweep.results.reading import read_sweep
from sweep.results.status import as_json, status_text
from sweep.storage.optuna_private import put_back
from sweep.storage.patient import storage_url

POINT = {"rank": 8, "alpha": 16.0, "learning_rate": 2e-4, "epochs": 1.0, "effective_batch_size": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep with a trial that has ended, one that runs, and one that was cut off."""
    study = optuna.create_study(study_name="tiny", storage=storage_url(tmp_path))
    study.set_user_attr("task", {"evaluations": 4})
    study.set_user_attr("base_eval_loss", 3.0)
    study.set_user_attr("gpu_seconds", 1800.0)
    study.set_user_attr("state", ["running", "", 1000.0])
    ended, runs, cut_off = study.ask(), study.ask(), study.ask()
    for trial in (ended, runs, cut_off):
        trial.set_user_attr("hyperparameters", POINT)
    for name, value in (("outcome", "overfit"), ("outcome_reason", "x"), ("eval_loss_best", 1.5)):
        ended.set_user_attr(name, value)
    study.tell(ended, 1.5)
    runs.report(2.0, 1)
    runs.report(float("nan"), 2)
    cut_off.set_user_attr("n_lost", 1)
    put_back(study, cut_off)
    return tmp_path


def printed(folder: Path) -> str:
    console = Console(width=120, record=True)
    console.print(status_text(read_sweep(folder)))
    return console.export_text()


def test_a_running_sweep_names_its_process_and_its_trials(folder: Path) -> None:
    with locked(folder):
        found = read_sweep(folder)
        words = printed(folder)
    assert found.state == "running" and found.runner is not None
    assert [(t.outcome, found.done(t), t.eval_loss) for t in found.trials] == [
        ("overfit", 0.0, 1.5),
        ("running", 0.5, 2.0),
        ("waiting", 0.0, None),
    ]
    assert found.trials[2].n_lost == 1
    assert (found.best, found.gpu_hours) == (0, 0.5)
    assert f"as process {found.runner.pid} on" in words
    assert "1 overfit, 1 running, 1 waiting" in words
    assert "1.5000 vs 3.0000" in words


def test_while_its_best_are_confirmed_a_sweep_does_not_run(folder: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage=storage_url(folder))
    study.set_user_attr("state", ["finished", "", 1000.0])
    with locked(folder, "confirm"):
        found, words = read_sweep(folder), printed(folder)
    assert (found.state, found.runner) == ("finished", None)
    assert found.confirmed_by is not None
    assert f"Process {found.confirmed_by.pid} is confirming its best trials." in words


def test_a_sweep_whose_process_died_was_broken_off_and_none_of_its_trials_runs(
    folder: Path,
) -> None:
    found = read_sweep(folder)
    assert (found.state, found.runner) == ("broken off", None)
    assert [trial.outcome for trial in found.trials] == ["overfit", "waiting", "waiting"]
    assert "ago; its process died; the same sweep run resumes it" in " ".join(
        printed(folder).split()
    )


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_a_sweep_that_ended_says_how(folder: Path, state: str) -> None:
    study = optuna.load_study(study_name="tiny", storage=storage_url(folder))
    study.set_user_attr("state", [state, "because", 2000.0])
    found = read_sweep(folder)
    assert (found.state, found.reason, found.since) == (state, "because", 2000.0)
    words = " ".join(printed(folder).split())
    assert ("ago; the same sweep run resumes it" in words) == (state == "stopped")


def test_a_price_stands_beside_gpu_hours(folder: Path) -> None:
    assert "; 0.50 GPU hours\n" in re.sub(" +\n", "\n", printed(folder))
    study = optuna.load_study(study_name="tiny", storage=storage_url(folder))
    study.set_user_attr("price_per_gpu_hour", 2.5)
    assert "; 0.50 GPU hours (1.25 at 2.5 an hour)" in printed(folder)
    assert as_json(read_sweep(folder))["price_per_gpu_hour"] == 2.5


def test_the_status_is_json_without_nan(folder: Path) -> None:
    text = json.dumps(as_json(read_sweep(folder)), allow_nan=False)
    assert [trial["eval_loss"] for trial in json.loads(text)["trials"]] == [1.5, 2.0, None]


def test_what_mlflow_lacks_is_counted(folder: Path) -> None:
    line = {"sequence": 3, "kind": "report", "arguments": {}, "time": 1}
    (folder / "mlflow_journal.jsonl").write_text(json.dumps(line) + "\n")
    assert read_sweep(folder).unsent == 1
    assert f"1 write not in MLflow yet: sweep sync {folder.name}" in printed(folder)


def test_a_folder_without_a_study_or_with_a_broken_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has no study.db"):
        read_sweep(tmp_path)
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(StudyError, match="but it is not a database"):
        read_sweep(tmp_path)
