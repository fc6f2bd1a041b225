"""MLflow's own variables say where a sweep is recorded, until it has begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep.driver.doctor import _mlflow
from sweep.driver.recording import new_tracker
from sweep.errors import TrackingError
from sweep.storage.of_folder import open_folder
from sweep.tracking.destination import destination, known_address
from sweep.tracking.earlier import best_in_mlflow
from sweep.tracking.location import own_database, to_be_shown

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

SERVER = "http://mlflow.example:5000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    open_folder(tmp_path / "sweeps" / "mine")
    return tmp_path / "sweeps" / "mine"


def says(monkeypatch: pytest.MonkeyPatch, uri: str, experiment: str = "") -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)


def begun(folder: Path, uri: str, **more: str) -> None:
    about = {"uri": uri, "experiment_id": "1", **more}
    (folder / "mlflow.json").write_text(json.dumps(about))


def test_a_sweep_begins_where_the_variable_says_and_tells_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, "http://me:secret@mlflow.example:5000", "ours")
    at = destination(folder, None)
    assert (at.uri, at.experiment) == ("http://me:secret@mlflow.example:5000", "ours")
    assert f"MLflow: {SERVER}, as MLFLOW_TRACKING_URI says" in at.words
    assert "in the experiment ours, as MLFLOW_EXPERIMENT_NAME says" in at.words
    assert "secret" not in at.words


def test_without_variables_it_has_its_own_database(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, "")
    at = destination(folder, None)
    assert (at.uri, at.experiment, at.words) == (own_database(folder), "mine", "")


def test_the_command_line_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "databricks")
    assert destination(folder, SERVER).uri == SERVER
    assert destination(folder, SERVER).words == ""


def test_a_sweep_that_has_begun_stays_and_tells_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(folder, "http://other:1", experiment="theirs")
    says(monkeypatch, f"{SERVER}/", "ours")
    at = destination(folder, None)
    assert (at.uri, at.experiment) == ("http://other:1", "theirs")
    words = "but this sweep has begun at http://other:1: it stays. To move it: --mlflow"
    assert f"{words} {SERVER}" in at.words
    assert "MLFLOW_EXPERIMENT_NAME is ours, but this sweep has begun in theirs" in at.words
    says(monkeypatch, "databricks://me")  # it is not asked for anything
    assert destination(folder, None).uri == "http://other:1"


def test_a_sweep_that_is_there_takes_the_login_of_the_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(folder, SERVER)
    says(monkeypatch, "http://me:secret@mlflow.example:5000/")
    assert known_address(folder) == "http://me:secret@mlflow.example:5000"
    assert destination(folder, None).uri == known_address(folder)
    says(monkeypatch, "http://elsewhere:5000")
    assert known_address(folder) == SERVER


@pytest.mark.parametrize(
    "uri",
    ["databricks", "databricks://me", "file:///tmp/mlruns", "./mlruns", "postgresql://u:p@h/d"],
)
def test_what_is_not_spoken_is_refused_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    says(monkeypatch, uri)
    words = r"MLFLOW_TRACKING_URI must start with http://, .*Unset it .* --mlflow"
    with pytest.raises(TrackingError, match=words) as refused:
        destination(folder, None)
    assert "u:p" not in str(refused.value)
    (finding,) = _mlflow()
    assert finding.grade == "cannot" and "MLFLOW_TRACKING_URI must start" in finding.found


def test_sweeps_of_one_experiment_keep_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    says(monkeypatch, "sqlite:///all.db", "ours")
    folders = [tmp_path / "sweeps" / name for name in ("one", "two")]
    for folder in folders:
        open_folder(folder)
        (folder / "space.yaml").touch()
        tracker = new_tracker(folder.name, destination(folder, None), folder)
        tracker.open_sweep({}, {}, folder / "space.yaml")
        tracker.close_sweep("FINISHED", None, "Done.")
        assert tracker.unsent == 0
    uri = f"sqlite:///{tmp_path}/all.db"
    experiment = MlflowClient(uri).get_experiment_by_name("ours")
    assert experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()
    runs = MlflowClient(uri).search_runs([experiment.experiment_id])
    assert sorted(str(run.info.run_name) for run in runs) == ["one", "two"]
    found = best_in_mlflow(uri, "one", 3)
    assert found is not None and list(found.best) == []
    monkeypatch.chdir("/")
    says(monkeypatch, "", "")
    assert to_be_shown(folders[1]) == (uri, experiment.experiment_id)
    assert destination(folders[1], None).experiment == "ours"


def test_doctor_tries_the_server_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, "http://127.0.0.1:9")
    assert _mlflow()[0].grade == "cannot"
    says(monkeypatch, f"sqlite:///{tmp_path}/all.db")
    assert "sweeps that begin are recorded there" in _mlflow()[0].found
    says(monkeypatch, "")
    assert _mlflow() == []
