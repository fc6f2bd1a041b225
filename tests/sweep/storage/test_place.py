"""A folder that was moved, renamed or copied, and libraries that were changed meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweep.errors import StudyError
from sweep.folder.lock import holder
from sweep.storage import place
from sweep.storage.of_folder import open_folder, study_name
from sweep.storage.place import held, note_place, note_run, say_versions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep that has run."""
    folder = tmp_path / "mine"
    open_folder(folder)
    (folder / "mlflow_sweep_id.txt").write_text("one\n")
    (folder / "best").mkdir()
    note_run(folder, folder.parent)
    return folder


def said_of(folder: Path) -> list[str]:
    said: list[str] = []
    with held(folder, said.append):
        note_place(folder)
    return said


def test_a_renamed_folder_keeps_its_studys_name_and_says_so_once(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("old"))
    assert study_name(renamed) == "mine"
    assert said_of(renamed) == [
        f"{renamed}: the sweep goes on here. It was {folder} when it last ran. Its study and its "
        f"MLflow experiment stay mine."
    ]
    assert said_of(renamed) == []
    assert study_name(renamed) == "mine"


def test_a_folder_that_was_not_moved_says_nothing_by_whatever_path(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder.parent)
    assert said_of(folder) == said_of(folder.parent / "link" / "mine") == []


def test_a_copy_does_not_run_while_its_original_is_there(folder: Path) -> None:
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    with pytest.raises(StudyError, match=f"this is a copy of {folder}, which is still there"):
        said_of(copy)
    assert holder(copy) is None
    shutil.rmtree(folder)
    assert f"It was {folder} when it last ran" in said_of(copy)[0]


def test_another_sweep_where_the_folder_was_is_not_its_original(folder: Path) -> None:
    moved = folder.rename(folder.with_name("moved"))
    open_folder(folder)
    (folder / "mlflow_sweep_id.txt").write_text("two\n")
    assert f"It was {folder} when it last ran" in said_of(moved)[0]


def test_another_name_of_the_same_folder_is_refused(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    with pytest.raises(StudyError, match=f"--name link: {link} leads to {folder}, the sweep mine"):
        open_folder(link)


def test_other_versions_of_libraries_are_told_where_they_were_noted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    say_versions(folder, said.append)
    about = json.loads((folder / "sweep.json").read_text())
    assert said == [] and set(about["libraries"]) == set(place.LIBRARIES)
    about["libraries"] |= {"torch": "1.0", "bitsandbytes": None}
    (folder / "sweep.json").write_text(json.dumps(about))
    monkeypatch.setattr(place, "_version", lambda name: "2.0" if name == "torch" else "9.9")
    say_versions(folder, said.append)
    assert said[0].startswith("Other versions than in the sweep's last run: torch 1.0 → 2.0, ")
    assert "bitsandbytes none → 9.9. Losses" in said[0]
    del about["libraries"]  # an older version noted none
    (folder / "sweep.json").write_text(json.dumps(about))
    said.clear()
    say_versions(folder, said.append)
    assert said == []
