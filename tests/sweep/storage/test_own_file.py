"""A study's own file that is not what was begun: refused before anything is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest

from sweep.errors import StudyError
from sweep.results.reading import read_sweep
from sweep.storage.of_folder import open_folder, study_name
from sweep.storage.patient import Patience, own_storage, storage_url
from tests.sweep.reviewed import make_config, point, result, write_sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of one trial, as a version left it that noted neither name nor place."""
    curve = [point(4, 1.5)]
    return write_sweep(tmp_path / "mine", [(make_config(), result("completed", curve), curve)])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribbled(path: Path) -> None:
    path.write_text("not a database, but some notes\n" * 40)


def overwritten(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[8192:16384] = bytes(8192)
    path.write_bytes(whole)


def another(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE recipes (name TEXT)")


def of_another_study(path: Path) -> None:
    path.unlink()
    optuna.create_study(study_name="other", storage=storage_url(path.parent))


def without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE trial_user_attributes")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Path.unlink, "is gone"),
        (emptied, "is empty (0 bytes)"),
        (cut, ""),
        (scribbled, "it is not a database"),
        (overwritten, ""),
        (another, "is another database"),
        (of_another_study, "has only other"),
        (without_a_table, "lacks the tables trial_user_attributes"),
    ],
)
def test_a_broken_study_is_refused_and_left_as_it_is(
    folder: Path, broken: Callable[[Path], object], words: str
) -> None:
    path = folder / "study.db"
    (folder / "sweep.json").write_text('{"schema": 1, "version": "0.1.0", "name": "mine"}')
    broken(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(StudyError) as told:
        open_folder(folder)
    rule = f"{path}: must hold the study mine of the sweep's trials, but {words}"
    assert str(told.value).startswith(rule)
    assert "--name mine-2" in str(told.value)
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("broken", [Path.unlink, emptied, another, without_a_table])
def test_a_study_that_is_lost_is_told_to_whoever_looks(
    folder: Path, broken: Callable[[Path], object]
) -> None:
    broken(folder / "study.db")
    with pytest.raises(StudyError, match=r"must hold the study .*, but (is|lacks) "):
        read_sweep(folder)


def test_a_study_of_another_version_of_optuna_is_told_in_words(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "study.db")) as database, database:
        database.execute("UPDATE version_info SET schema_version = 99")
        database.execute("UPDATE alembic_version SET version_num = 'v9.9.0.a'")
    with pytest.raises(StudyError, match="study.db: cannot be used: The runtime optuna version"):
        own_storage(folder, Patience())


def test_an_empty_file_without_trials_is_a_study_to_begin(tmp_path: Path) -> None:
    open_folder(tmp_path / "mine")
    (tmp_path / "mine" / "study.db").touch()  # a process was killed before its tables were made
    open_folder(tmp_path / "mine")


def test_a_study_that_another_program_holds_is_refused_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.storage.own_file.PATIENCE_SECONDS", 0.1)
    with closing(sqlite3.connect(folder / "study.db")) as held:
        held.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StudyError, match="another program holds it .*: close that one"):
            open_folder(folder)


def test_trials_without_sweep_json_are_not_begun_anew(folder: Path) -> None:
    for name in ("sweep.json", "study.db"):
        (folder / name).unlink()
    with pytest.raises(StudyError, match=r"has trials, but no sweep.json: it is gone"):
        open_folder(folder)
    assert not (folder / "sweep.json").exists()


@pytest.mark.parametrize(
    "text", ["", '{"schema": 1, "ver', "null", "\x00" * 20, "[1]", '{"schema": 1, "path": 5}']
)
def test_a_broken_sweep_json_is_refused_with_what_mends_it(folder: Path, text: str) -> None:
    (folder / "sweep.json").write_text(text)
    with pytest.raises(StudyError, match=r"sweep.json: must hold what the folder is, but"):
        open_folder(folder)
    assert (folder / "sweep.json").read_text() == text
    (folder / "sweep.json").write_text('{"schema": 1}')  # as the words say
    open_folder(folder)
    assert read_sweep(folder).name == "mine"


def test_an_older_folder_that_was_renamed_has_its_studys_name(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("old"))
    assert study_name(renamed) == "mine"
    open_folder(renamed)
    assert read_sweep(renamed).name == "mine" and read_sweep(renamed).title == "old (study mine)"
