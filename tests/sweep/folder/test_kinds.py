"""A folder in the place of a file, or a file in that of a folder: words, all at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweep.errors import StudyError
from sweep.folder.kinds import see_kinds
from sweep.folder.lock import holder, locked
from sweep.storage.of_folder import open_folder


def test_every_place_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    for name in ("lock", "sweep.json", "mlflow_journal.jsonl", "prune-007"):
        (tmp_path / name).mkdir()
    for name in ("trials", "best"):
        (tmp_path / name).touch()
    (tmp_path / "confirm").mkdir()
    os.mkfifo(tmp_path / "confirm" / "plan.json")
    (tmp_path / "data").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudyError) as told:
        open_folder(tmp_path)
    lines = sorted(line.removeprefix(f"{tmp_path}/") for line in str(told.value).splitlines())
    assert lines == [
        "best: must be a folder, but is a file. Move it away.",
        "confirm/plan.json: must be a file, but is none. Move it away.",
        "data: must be a folder, but is none. Move it away.",
        "lock: must be a file, but is a folder. Move it away.",
        "mlflow_journal.jsonl: must be a file, but is a folder. Move it away.",
        "prune-007: must be a file, but is a folder. Move it away.",
        "sweep.json: must be a file, but is a folder. Move it away.",
        "trials: must be a folder, but is a file. Move it away.",
    ]


def test_the_trials_own_files_are_looked_at_before_trials_run(tmp_path: Path) -> None:
    (tmp_path / "trials" / "000" / "result.json").mkdir(parents=True)
    (tmp_path / "trials" / "001").touch()
    see_kinds(tmp_path)
    with pytest.raises(StudyError, match=r"000/result.json: must be a file(.|\n)*001: must be a f"):
        see_kinds(tmp_path, with_trials=True)


def test_a_pipe_in_the_place_of_the_winners_configuration_is_told(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    os.mkfifo(tmp_path / "best" / "config.json")
    with pytest.raises(StudyError, match=r"best/config\.json: must be a file, but is none"):
        see_kinds(tmp_path)


def test_a_sweeps_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(StudyError, match="mine: must be a folder, but is a file"):
        open_folder(tmp_path / "mine")


def test_whoever_looks_at_a_lock_that_is_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StudyError, match="lock: must be a file, but is a folder"):
        holder(tmp_path)
    with pytest.raises(StudyError, match="lock: must be a file"), locked(tmp_path):
        pass


@pytest.mark.parametrize("part", ["confirm", "final"])
def test_so_are_the_files_of_what_is_measured_after_them(tmp_path: Path, part: str) -> None:
    (tmp_path / part / "trials" / "000" / "result.json").mkdir(parents=True)
    with pytest.raises(StudyError, match=rf"{part}/trials/000/result.json: must be a file"):
        see_kinds(tmp_path, with_trials=True)
