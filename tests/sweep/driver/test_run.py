"""What `sweep run` puts together."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from sweep.driver.job import Options
from sweep.driver.recording import new_tracker
from sweep.driver.run import run
from sweep.space.loading import load_space
from sweep.study.final import Entry, Plan
from sweep.tracking.destination import destination
from trials.config import DataError

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


def test_artifacts_of_a_database_elsewhere_lie_in_the_sweeps_folder_too(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "tiny.yaml"
    file.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}")
    folder = tmp_path / "out" / "tiny"
    folder.mkdir(parents=True)
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    tracker = new_tracker("tiny", destination(folder, uri), folder)
    tracker.open_sweep({}, {}, file)
    tracker.close_sweep("FINISHED", None, "Done.")
    experiment = MlflowClient(uri).get_experiment_by_name("tiny")
    assert experiment.artifact_location.removeprefix("file://") == str(folder / "mlartifacts")


def test_a_broken_measurement_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "tiny.yaml"
    file.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}")
    final = tmp_path / "out" / "tiny" / "final"
    (final / "trials" / "000").mkdir(parents=True)
    Plan([Entry("all", None, "none", "")]).write(tmp_path / "out" / "tiny")
    (final / "trials" / "000" / "result.json").write_text("{")
    options = Options(output=tmp_path / "out", workers=1, gpus=None, mlflow=None)
    with pytest.raises(DataError, match=r"result\.json: must hold how the trial ended"):
        run(load_space(file), options, Console(quiet=True))
