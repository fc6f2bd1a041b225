"""A sweep's folder and its study on a PostgreSQL server: which belongs to which."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import optuna
import pytest

from sweep.errors import StudyError
from sweep.results.reading import read_sweep
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage.of_folder import open_folder, study_writer, sweep_id
from sweep.storage.patient import Patience
from sweep.storage.postgresql import Address
from sweep.study.opening import open_study
from sweep.study.task import rows_so_far
from tests.servers.postgresql import PASSWORD, PostgresServer

POINT = {"rank": 8, "alpha": 8.0, "learning_rate": 1e-4, "epochs": 1.0, "effective_batch_size": 8}


def a_space(folder: Path) -> Space:
    """The space of the sweep in a folder; it goes by the folder's name."""
    path = folder.parent / f"{folder.name}.yaml"
    (folder.parent / "rows.jsonl").write_text("{}")
    path.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}")
    return load_space(path)


def run(folder: Path, address: str | None, *, n_trials: int = 1) -> list[int]:
    """Do with folder and study what `sweep run` does; returns the numbers of all trials."""
    server = Address.parse(address) if address else None
    open_folder(folder, server)
    with study_writer(folder, server, Patience()) as storage:
        study = open_study(a_space(folder), storage, sweep_id=sweep_id(folder))
        study.set_user_attr("task", {"sample_rows": 96, "evaluations": 4})
        study.set_user_attr("evaluate_rows", 256)
        for _ in range(n_trials):
            trial = study.ask()
            trial.set_user_attr("hyperparameters", POINT)
            trial.set_user_attr("outcome", "completed")
            trial.set_user_attr("eval_loss_best", 1.5)
            (folder / "trials" / f"{trial.number:03d}").mkdir(parents=True)
            study.tell(trial, 1.5)
        return [trial.number for trial in study.trials]


def test_a_folder_remembers_where_its_study_is_without_the_password(
    database: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    assert run(folder, postgres.secret_address(database.rpartition("/")[2])) == [0]
    assert json.loads((folder / "sweep.json").read_text())["study"] == database
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert all(PASSWORD.encode() not in path.read_bytes() for path in written)
    assert not (folder / "study.db").exists()
    assert run(folder, None) == [0, 1]
    assert rows_so_far(a_space(folder), folder).sample == 96
    found = read_sweep(folder)
    assert [trial.number for trial in found.trials] == [0, 1]
    assert found.best == 0


def test_one_sweep_has_one_study(database: str, postgres: PostgresServer, tmp_path: Path) -> None:
    on_a_server, on_disk = tmp_path / "server", tmp_path / "disk"
    run(on_a_server, database)
    run(on_disk, None)
    other = postgres.create(f"{database.rpartition('/')[2]}_other")
    with pytest.raises(
        StudyError, match=f"study is in {database}, not in {other}.*--name server-2"
    ):
        run(on_a_server, other)
    with pytest.raises(StudyError, match=r"study is in .*study.db, not in .*Leave --study out"):
        run(on_disk, other)
    assert run(on_a_server, database) == [0, 1]


def test_the_first_address_may_have_been_wrong(database: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        run(tmp_path / "tiny", f"{database}_misspelt")
    assert run(tmp_path / "tiny", database) == [0]


def test_a_study_of_another_sweep_is_left_alone(database: str, tmp_path: Path) -> None:
    run(tmp_path / "mine" / "tiny", database)
    with pytest.raises(
        StudyError, match=r"already has a study tiny, of another sweep.*--name tiny-2"
    ):
        run(tmp_path / "yours" / "tiny", database)
    assert run(tmp_path / "mine" / "tiny", database) == [0, 1]
    assert run(tmp_path / "yours" / "tiny-2", database) == [0]
    assert run(tmp_path / "yours" / "tiny", None) == [0]


def test_a_study_that_no_sweep_made_is_left_alone(database: str, tmp_path: Path) -> None:
    run(tmp_path / "first", database)  # makes the tables
    storage = Address.parse(database).reader()
    optuna.create_study(study_name="tiny", storage=storage).ask()
    with pytest.raises(StudyError, match="already has a study tiny, of something else"):
        run(tmp_path / "tiny", database)


def test_a_study_that_was_deleted_is_not_begun_anew(database: str, tmp_path: Path) -> None:
    run(tmp_path / "tiny", database)
    optuna.delete_study(study_name="tiny", storage=Address.parse(database).reader())
    with pytest.raises(StudyError, match="no longer has a study tiny. Restore it"):
        run(tmp_path / "tiny", None)
    with pytest.raises(StudyError, match="has no study yet"):
        read_sweep(tmp_path / "tiny")


def test_a_status_says_that_the_server_is_away(
    database: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    run(tmp_path / "tiny", database)
    postgres.stop("fast")
    try:
        with pytest.raises(StudyError, match=f"{database}: the study cannot be read: .*refused"):
            read_sweep(tmp_path / "tiny")
        with pytest.raises(StudyError, match="tiny: the study cannot be read: .*refused"):
            rows_so_far(a_space(tmp_path / "tiny"), tmp_path / "tiny")
    finally:
        postgres.start()


def test_a_server_that_goes_before_the_first_trial_is_waited_for(
    database: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    server = Address.parse(database)
    open_folder(folder, server)
    with study_writer(folder, server, Patience()) as storage:
        postgres.stop("fast")
        back = threading.Timer(1.5, postgres.start)
        back.start()
        study = open_study(a_space(folder), storage, sweep_id=sweep_id(folder))
        back.join()
        assert study.user_attrs["sweep_id"] == sweep_id(folder)
