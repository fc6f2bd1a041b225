"""A database lies in the folder of its sweep, whatever that is called."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from sweep.errors import StudyError
from sweep.results.reading import read_sweep
from sweep.storage.of_folder import open_folder
from sweep.storage.sqlite import MOST_BYTES, address_of, file_of
from sweep.tracking.client import client_of
from sweep.tracking.location import checked

ODD = ("?", "a%41", "%s", "{SCHEMA_VERSION}", "it's", "a#b", "a@b:c", "a b", "größe", "a\nb", "-a")


@pytest.mark.parametrize("name", ODD)
def test_a_study_is_in_its_own_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "study.db"
    file.parent.mkdir()
    optuna.create_study(study_name="mine", storage=address_of(file))
    assert [path.name for path in tmp_path.rglob("*")] == [name, "study.db"]
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT study_name FROM studies").fetchall() == [("mine",)]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
@pytest.mark.parametrize("name", ["a%3Fb?", "{größe} it's"])
def test_so_are_its_runs_in_mlflow(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "mlflow.db"
    client_of(address_of(file)).create_experiment("mine")
    assert [path.name for path in tmp_path.rglob("*")] == [name, "mlflow.db"]


@pytest.mark.parametrize("name", ["plain", *ODD])
def test_an_address_leads_back_to_its_file(name: str) -> None:
    assert file_of(address_of(Path("/folder") / name)) == Path("/folder") / name


def test_a_usual_address_is_as_people_write_it() -> None:
    assert address_of(Path("/folder/my-sweep_1.db")) == "sqlite:////folder/my-sweep_1.db"


def test_addresses_of_servers_have_no_file() -> None:
    assert file_of("http://localhost:5000") is None
    assert file_of("postgresql://user@host/database") is None


def test_an_address_is_compared_in_one_form() -> None:
    assert checked("sqlite:////a b'c.db") == address_of(Path("/a b'c.db"))
    assert checked("sqlite:////a.db?timeout=5") == "sqlite:////a.db?timeout=5"


def test_the_longest_path_that_is_taken_can_be_opened(tmp_path: Path) -> None:
    missing = MOST_BYTES - len(str(tmp_path)) - len("/" + "/study.db")
    folder = tmp_path / "/".join(["d" * 99] * (missing // 100) + ["e" * (missing % 100)])
    file = folder / "study.db"
    folder.mkdir(parents=True)
    assert len(str(file)) in (MOST_BYTES, MOST_BYTES - 1)
    optuna.create_study(study_name="mine", storage=address_of(file))
    assert file.exists()


@pytest.mark.parametrize(
    ("folder", "words"),
    [("d" * 250 + "/" + "d" * 250, r"at most 504 bytes"), (os.fsdecode(b"l\xe4tin"), "in UTF-8")],
    ids=["long", "latin"],
)
def test_a_path_that_sqlite_cannot_have_is_refused_before_anything_is_written(
    folder: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=words):
        open_folder(tmp_path / folder)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / folder).mkdir(parents=True)  # one that was copied there is told likewise
    (tmp_path / folder / "study.db").touch()
    with pytest.raises(StudyError, match=words):
        read_sweep(tmp_path / folder)
