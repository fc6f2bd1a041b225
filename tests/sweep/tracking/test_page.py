"""What makes a sweep's page in MLflow worth reading: view, links, plots, data sets, champion."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from sweep.tracking import run_data
from sweep.tracking.location import page_of, sweep_id
from sweep.tracking.mlflow_tracker import MlflowTracker
from sweep.tracking.run_index import RunIndex
from sweep.tracking.sqlite_tables import make_tables
from tests.sweep.reviewed import make_config
from tests.sweep.tracking.test_mlflow_tracker import COMPLETED, PLACE

# SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables, once, when imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

FOUND = {
    "train_fingerprint": "a" * 64,
    "eval_fingerprint": "b" * 64,
    "train": {"512": {"rows": 48, "tokens": 900, "supervised_tokens": 300}},
    "eval": {"rows": 16, "tokens": 300, "supervised_tokens": 100},
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_tables(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, database: Path) -> Path:
    """A sweep's folder, with a database beside it that other sweeps may share."""
    shutil.copy(database, tmp_path / "mlflow.db")
    return new_folder(tmp_path, "mine")


def new_folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    (parent / name / "space.yaml").write_text(f"name: {name}\n")
    return parent / name


def client(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder.parent}/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def index(folder: Path) -> RunIndex:
    """What another process knows of the sweep's runs: nothing yet."""
    return RunIndex(f"sqlite:///{folder.parent}/mlflow.db", folder.name, folder, None)


def opened(folder: Path) -> MlflowTracker:
    tracker = MlflowTracker(
        uri=f"sqlite:///{folder.parent}/mlflow.db",
        name=folder.name,
        artifacts_dir=folder / "mlartifacts",
        output_dir=folder,
    )
    datasets = run_data.datasets({"train": "/data/train.jsonl", "eval": "/data/eval.jsonl"}, FOUND)
    tracker.open_sweep({}, {}, folder / "space.yaml", datasets)
    return tracker


def run_trial(tracker: MlflowTracker, folder: Path, number: int, weights: str) -> None:
    trial = folder / "trials" / f"{number:03d}"
    (trial / "adapter").mkdir(parents=True)
    (trial / "adapter" / "adapter_model.safetensors").write_text(weights)
    tracker.trial_started(make_config(number), PLACE)
    tracker.trial_ended(number, COMPLETED)


def tags(eval_loss: float, task: str = "same") -> dict[str, str]:
    return {"value": str(eval_loss), "direction": "minimize", "sweep.task": task}


def registering(
    folder: Path, eval_loss: float, task: str = "same", number: int = 0
) -> MlflowTracker:
    """A sweep with one trial, registered as `adapter`, and ended."""
    tracker = opened(folder)
    run_trial(tracker, folder, number, f"weights {eval_loss}")
    tracker.register("adapter", number, tags(eval_loss, task), "It [won](#trial-0).")
    tracker.close_sweep("FINISHED", None, "Done.")
    assert (tracker.unsent, tracker.first_error) == (0, None)
    return tracker


def champion(folder: Path) -> Any:
    return client(folder).get_model_version_by_alias("adapter", "champion")


def test_a_saved_view_shows_outcome_loss_and_hyperparameters_the_best_first(folder: Path) -> None:
    tracker = opened(folder)
    tracker.close_sweep("FINISHED", None, "Done.", shown=[1.25, 2.5])
    experiment = client(folder).get_experiment(index(folder).experiment_id)
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{sweep_id(folder)}"])
    state = json.loads(view["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`eval_loss_best`", True)
    assert {"tags.`outcome`", "params.`rank`"} <= set(state["selectedColumns"])
    assert state["runsExpanded"] == {index(folder).parent_run_id: True}
    first = state["compareRunCharts"][0]
    assert (first["metricKey"], first["range"]) == ("eval_loss", {"yMin": 1.25, "yMax": 2.5})
    second = state["compareRunCharts"][1]
    assert second["selectedMetricKeys"] == ["train_loss", "eval_loss"]
    assert second["range"] == {"yMin": 0.0, "yMax": 3.75}  # train losses fall further
    address = page_of("http://server:5000/", index(folder).experiment_id, folder)
    assert address.startswith(
        f"http://server:5000/#/experiments/{index(folder).experiment_id}/runs?"
    )
    assert sweep_id(folder) in address


def test_links_and_pictures_of_the_description_lead_somewhere(folder: Path) -> None:
    tracker = opened(folder)
    run_trial(tracker, folder, 3, "weights")
    (folder / "plots").mkdir()
    (folder / "plots" / "best.png").write_bytes(b"PNG")
    text = "[3](#trial-3) [all](#curves) [4](#trial-4) ![best](plots/best.png)"
    tracker.close_sweep("FINISHED", None, text, plots=[folder / "plots" / "best.png"])
    parent = index(folder).parent()
    note = parent.data.tags["mlflow.note.content"]
    (run,) = client(folder).search_runs([index(folder).experiment_id], "tags.trial_number = '3'")
    assert f"[3](#/experiments/{index(folder).experiment_id}/runs/{run.info.run_id}?" in note
    assert "compareRunsMode=CHART" in note
    assert "[4](#trial-4)" in note  # it has no run
    assert f"get-artifact?run_uuid={index(folder).parent_run_id}&path=plots/best.png" in note
    there = client(folder).list_artifacts(index(folder).parent_run_id, "plots")
    assert [artifact.path for artifact in there] == ["plots/best.png"]


def test_a_sweep_that_runs_is_described_too(folder: Path) -> None:
    tracker = opened(folder)
    tracker.describe("3 trials so far")
    end = time.monotonic() + 20
    while tracker.unsent and time.monotonic() < end:
        time.sleep(0.05)
    run = index(folder).parent()
    assert run.data.tags["mlflow.note.content"] == "3 trials so far"
    tracker.close_sweep("FINISHED", None, "Done.")


def test_the_rows_are_inputs_once_however_often_the_sweep_goes_on(folder: Path) -> None:
    for _ in range(2):
        tracker = opened(folder)
        tracker.close_sweep("FINISHED", None, "Done.")
    inputs = index(folder).parent().inputs.dataset_inputs
    found = {
        (i.tags[0].value, i.dataset.name, json.loads(i.dataset.profile)["num_rows"]) for i in inputs
    }
    assert found == {("training", "train.jsonl", 48), ("evaluation", "eval.jsonl", 16)}
    assert len(inputs) == 2


def test_of_a_share_held_out_the_input_says_so() -> None:
    _, held_out = run_data.datasets({"train": "org/rows", "eval": 0.1, "test": None}, FOUND)
    assert held_out["name"] == "rows (0.1 held out)"
    assert held_out["source_type"] == "hugging_face"


def test_of_several_files_the_input_names_each() -> None:
    given = {"train": ["/data/a.jsonl", "/data/b.csv"], "eval": ["/data/c.csv"]}
    train, evaluation = run_data.datasets(given, FOUND)
    assert (train["name"], evaluation["name"]) == ("a.jsonl, b.csv", "c.csv")
    assert train["source_type"] == "local"


def test_the_winner_is_a_version_whose_files_can_be_had_by_the_alias(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = registering(folder, 1.5)
    assert tracker.registered == "adapter, version 1, champion."
    assert champion(folder).tags["value"] == "1.5"
    uri = f"sqlite:///{folder.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    there = mlflow.artifacts.download_artifacts(
        "models:/adapter@champion", dst_path=str(tmp_path / "had")
    )
    assert (Path(there) / "adapter_model.safetensors").read_text() == "weights 1.5"
    assert re.search(r"\[won\]\(#/experiments/\d+/runs/", champion(folder).description)


def test_the_same_winner_is_registered_once(folder: Path) -> None:
    registering(folder, 1.5)
    again = opened(folder)
    again.register("adapter", 0, tags(1.5), "It won.")
    again.close_sweep("FINISHED", None, "Done.")
    assert len(client(folder).search_model_versions("name = 'adapter'")) == 1
    assert again.registered == "adapter, version 1, champion."


@pytest.mark.parametrize(
    ("eval_loss", "task", "version"),
    [(1.4, "same", "2"), (1.6, "same", "1"), (1.6, "another", "2")],
    ids=["better", "worse", "on another task"],
)
def test_a_better_champion_of_the_same_task_stays(
    folder: Path, eval_loss: float, task: str, version: str
) -> None:
    registering(folder, 1.5)
    other = registering(new_folder(folder.parent, "other"), eval_loss, task)
    assert str(champion(folder).version) == version
    if version == "1":
        assert other.registered == (
            "adapter, version 2; champion stays with version 1, which has 1.5000 on the same task."
        )


def test_the_files_of_a_registered_version_stay_when_better_adapters_come(folder: Path) -> None:
    registering(folder, 1.5)
    tracker = opened(folder)
    run_trial(tracker, folder, 1, "other weights")
    for number in (0, 1):
        tracker.drop_adapter(number, folder / "trials" / f"{number:03d}" / "adapter")
    tracker.close_sweep("FINISHED", None, "Done.")
    assert tracker.first_error is None
    kept = {p.read_text() for p in (folder / "mlartifacts").rglob("adapter_model.safetensors")}
    assert kept == {"weights 1.5"}
