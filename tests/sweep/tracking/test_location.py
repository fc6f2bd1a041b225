"""Where a sweep is in MLflow, though its folder was moved or copied, or its files are broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils

from sweep.errors import TrackingError
from sweep.storage.of_folder import open_folder
from sweep.tracking.journal import Journal
from sweep.tracking.location import own_database, see_tracked, sweep_id, to_be_shown, tracked_at
from sweep.tracking.mlflow_tracker import MlflowTracker, send_rest
from sweep.tracking.sqlite_tables import make_tables

# SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables, once, when imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose parent run has an artifact, the space, and a registered model."""
    folder = tmp_path_factory.mktemp("sweeps") / "mine"
    open_folder(folder)
    (folder / "space.yaml").write_text("name: mine\n")
    tracker = tracker_of(folder)
    tracker.open_sweep({}, {}, folder / "space.yaml")
    tracker.close_sweep("FINISHED", None, "Done.")
    assert tracker.unsent == 0
    return folder


def tracker_of(folder: Path, uri: str | None = None) -> MlflowTracker:
    return MlflowTracker(
        uri=uri or own_database(folder),
        name="mine",
        artifacts_dir=(folder / "mlartifacts").resolve(),
        output_dir=folder,
    )


@pytest.fixture(autouse=True)
def other_process() -> None:
    """MLflow remembers where a run's files are; whoever resumes a sweep is another process."""
    utils._artifact_repos_cache.clear()


@pytest.fixture
def moved(whole: Path, tmp_path: Path) -> Path:
    """The same as it lies elsewhere; its database still says where it was."""
    return Path(shutil.copytree(whole, tmp_path / "it's #1"))


def artifacts_of(folder: Path) -> list[str]:
    """Where MLflow looks for the files of all runs of a sweep."""
    client = MlflowClient(own_database(folder))
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    addresses = [experiment.artifact_location, *(run.info.artifact_uri for run in runs)]
    return [unquote(urlsplit(address).path) for address in addresses]


def test_the_runs_of_a_moved_folder_have_their_files_where_it_is_now(moved: Path) -> None:
    (moved / "new.yaml").touch()
    tracker = tracker_of(moved)
    tracker.open_sweep({}, {}, moved / "new.yaml")
    tracker.close_sweep("FINISHED", None, "Done again.")
    assert tracker.unsent == 0
    places = artifacts_of(moved)
    assert len(places) == 2 and all(place.startswith(f"{moved}/mlartifacts") for place in places)
    assert (Path(places[1]) / "new.yaml").exists()


def test_the_page_of_a_copy_shows_the_copys_runs_and_files(whole: Path, moved: Path) -> None:
    assert tracked_at(moved) == to_be_shown(moved)[0] == own_database(moved)
    assert all(place.startswith(f"{moved}/mlartifacts") for place in artifacts_of(moved))
    assert all(place.startswith(f"{whole}/mlartifacts") for place in artifacts_of(whole))


def test_what_confirms_a_moved_sweep_is_in_the_sweeps_own_database(moved: Path) -> None:
    (moved / "confirm").mkdir()
    shutil.copy(moved / "mlflow.json", moved / "confirm")
    assert tracked_at(moved / "confirm") == own_database(moved)


def test_a_database_that_several_share_keeps_the_places_of_those_that_are_there(
    tmp_path: Path,
) -> None:
    uri, folders = f"sqlite:///{tmp_path / 'all.db'}", [tmp_path / n / "mine" for n in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "space.yaml").touch()
        tracker = tracker_of(folder, uri)
        tracker.open_sweep({}, {}, folder / "space.yaml")
        tracker.close_sweep("FINISHED", None, "Done.")
    experiment = MlflowClient(uri).get_experiment_by_name("mine")
    assert experiment.artifact_location == (folders[0] / "mlartifacts").as_uri()
    there = folders[0].rename(tmp_path / "a" / "moved")
    tracker_of(there, uri)
    experiment = MlflowClient(uri).get_experiment_by_name("mine")
    assert experiment.artifact_location == (there / "mlartifacts").as_uri()


def test_events_that_waited_are_sent_with_the_files_of_a_moved_folder(
    tmp_path: Path, whole: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "mine"))
    for name in ("report.html", "space.yaml"):
        (folder / name).write_text("new")
    relative = tracker_of(folder)._within(folder / "report.html")
    Journal(folder / "mlflow_journal.jsonl").append(
        "close", {"status": "FINISHED", "winner": None, "summary": "", "report_path": relative}
    )
    there = folder.rename(tmp_path / "there")
    said: list[str] = []
    assert send_rest(there, None, said.append) == 0
    assert not any("rejected" in words for words in said), said
    assert list((there / "mlartifacts").rglob("report.html"))


@pytest.mark.parametrize("text", ["null", "", '{"uri": "sqli', "[]", '{"uri": null}', "\x00\x00"])
def test_an_mlflow_json_that_cannot_be_read_is_told_and_stays(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "mine"
    open_folder(folder)
    (folder / "mlflow.json").write_text(text)
    for ask in (
        lambda: see_tracked(folder, own_database(folder)),
        lambda: to_be_shown(folder),
        lambda: tracker_of(folder),
        lambda: send_rest(folder, None, lambda _: None),
    ):
        with pytest.raises(TrackingError, match=r"mlflow.json: must hold where the sweep is in M"):
            ask()
    assert (folder / "mlflow.json").read_text() == text


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (Path.unlink, "is gone"),
        (lambda path: path.write_text("no database" * 99), "it is not a database"),
        (lambda path: path.write_bytes(path.read_bytes()[:99_000]), "malformed|damaged"),
    ],
)
def test_a_lost_or_broken_database_is_not_begun_anew(
    moved: Path, broken: Callable[[Path], object], words: str
) -> None:
    about = {"uri": own_database(moved), "experiment_id": "1"}
    (moved / "mlflow.json").write_text(json.dumps(about))
    broken(moved / "mlflow.db")
    with pytest.raises(TrackingError, match=f"must hold the sweep's runs .*, but .*({words})"):
        see_tracked(moved, own_database(moved))
    see_tracked(moved, "http://127.0.0.1:9")  # it goes on elsewhere


def test_an_empty_id_of_the_sweeps_runs_is_told(moved: Path) -> None:
    (moved / "mlflow_sweep_id.txt").write_text("")
    with pytest.raises(TrackingError, match=r"mlflow_sweep_id.txt: must hold .*, but is empty"):
        sweep_id(moved)


def test_tables_without_the_experiment_have_no_places(tmp_path: Path) -> None:
    make_tables(tmp_path / "mlflow.db")
    (tmp_path / "mlflow.json").write_text(
        json.dumps({"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment_id": "1"})
    )
    assert to_be_shown(tmp_path)[1] == "1"
