"""`sweep run` from end to end, without Ray and without data. Of `confirm`: confirm/test_run.py."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from sweep.driver import preparation, recording
from sweep.driver.job import Options
from sweep.driver.run import run
from sweep.errors import StudyError
from sweep.folder import layout
from sweep.folder.requests import ask_to_stop
from sweep.report.page import write_report
from sweep.results.reading import StoredSweep, read_sweep
from sweep.space.loading import load_space
from tests.faults.space_mutants import REPORT

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

FOUND = {
    **REPORT,
    **dict.fromkeys(("train_fingerprint", "eval_fingerprint", "tokenizer", "chat"), "x"),
}


def ran(folder: Path, name: str = "tiny", *, trials: int = 2) -> tuple[int, str]:
    """Run a sweep of two trials; the exit code and what was said."""
    (folder / "rows.jsonl").write_text("{}")
    file = folder / f"{name}.yaml"
    file.write_text(
        "base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8, 16, 32]}\n"
        f"evaluate: {{times: 4}}\nbudget: {{trials: {trials}}}\n"
    )
    said = io.StringIO()
    options = Options(output=folder / "sweeps", workers=1, gpus=None, mlflow=None)
    return run(load_space(file), options, Console(file=said, width=500)), said.getvalue()


@pytest.fixture(autouse=True)
def prepared(without_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = preparation.Check(Path("data"), FOUND, on_gpus=False)
    monkeypatch.setattr(preparation, "prepare_data", lambda *_, **__: found)


def test_on_a_full_disk_it_pauses_and_goes_on_by_itself(
    tmp_path: Path, full_at_first: None
) -> None:
    code, said = ran(tmp_path)
    assert code == 0
    assert said.index("Paused") < said.index("There is space again") < said.index("trial 0")
    assert "All trials have run." in said
    assert "The sweep has finished" in (tmp_path / "sweeps/tiny/report.html").read_text()
    code, said = ran(tmp_path)
    assert (code, "tiny: all trials have run; raise --trials to go on." in said) == (0, True)


def renamed(folder: Path, name: str) -> Path:
    """Rename the sweep, and its file after it; returns the sweep's folder."""
    (folder / "tiny.yaml").rename(folder / f"{name}.yaml")
    return (folder / "sweeps" / "tiny").rename(folder / "sweeps" / name)


def test_a_renamed_sweep_goes_on_in_its_own_study_and_experiment(tmp_path: Path) -> None:
    assert ran(tmp_path)[0] == 0
    was, there = tmp_path / "sweeps" / "tiny", renamed(tmp_path, "old")
    code, said = ran(tmp_path, "old", trials=3)
    assert code == 0
    assert f"{there}: the sweep goes on here. It was {was} when it last ran. Its study" in said
    assert "Resuming tiny: 2 done" in said
    stored = read_sweep(there)
    assert (stored.name, stored.title, len(stored.trials)) == ("tiny", "old (study tiny)", 3)
    client = MlflowClient(f"sqlite:///{there / layout.MLFLOW_DATABASE}")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert client.get_experiment_by_name("old") is None
    assert len([run for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.info.artifact_uri.startswith(there.as_uri()) for run in runs)
    assert "goes on here" not in ran(tmp_path, "old", trials=3)[1]


def test_a_copy_of_a_sweep_is_read_but_not_run(tmp_path: Path) -> None:
    assert ran(tmp_path)[0] == 0
    there = tmp_path / "sweeps"
    shutil.copytree(there / "tiny", there / "copy")
    assert len(read_sweep(there / "copy").trials) == 2
    before = {path: path.stat().st_mtime_ns for path in (there / "copy").rglob("*")}
    with pytest.raises(StudyError, match="must not run in two places, but this is a copy of"):
        ran(tmp_path, "copy", trials=3)
    del before[there / "copy" / layout.LOCK]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_versions_of_libraries_are_told_before_a_sweep_goes_on(tmp_path: Path) -> None:
    assert ran(tmp_path)[0] == 0
    about = tmp_path / "sweeps" / "tiny" / layout.SWEEP
    known = json.loads(about.read_text())
    about.write_text(json.dumps({**known, "libraries": {**known["libraries"], "peft": "0.1"}}))
    (tmp_path / "sweeps" / "tiny" / layout.BEST).mkdir(exist_ok=True)
    said = ran(tmp_path, trials=3)[1]
    words = "Other versions than in the sweep's last run: peft 0.1 → "
    assert said.index(words) < said.index("Resuming")
    assert words not in ran(tmp_path, trials=3)[1]


def test_word_that_is_left_while_it_prepares_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = preparation.Check(Path("data"), FOUND, on_gpus=False)

    def prepare(*_: object, **__: object) -> preparation.Check:
        ask_to_stop(tmp_path / "sweeps" / "tiny")
        return found

    monkeypatch.setattr(preparation, "prepare_data", prepare)
    assert ran(tmp_path)[0] == 130
    assert read_sweep(tmp_path / "sweeps" / "tiny").trials == []


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_signal_while_the_report_is_written_is_heard_and_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_resumed: bool
) -> None:
    if is_resumed:
        assert ran(tmp_path)[0] == 0
        sent = (tmp_path / "sweeps/tiny" / layout.JOURNAL).with_suffix(".sent")
        sent.unlink()  # as if it had been killed before its end

    def write_hit(stored: StoredSweep) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return write_report(stored)

    monkeypatch.setattr(recording, "write_report", write_hit)
    assert ran(tmp_path)[0] == 130
    assert "The sweep has finished" in (tmp_path / "sweeps/tiny/report.html").read_text()
