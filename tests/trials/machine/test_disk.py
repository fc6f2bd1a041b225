"""Room on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from trials.machine.disk import cache_room, room


def test_a_folder_that_is_not_there_yet_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    found = room(tmp_path / "a/b", "output")
    assert (found.grade, found.mend) == ("ready", None)
    assert found.found.startswith(f"{tmp_path}/a/b, ")


def test_a_folder_cannot_be_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "sweeps").touch()
    for folder in (tmp_path / "sweeps", tmp_path / "sweeps/more"):
        found = room(folder, "output")
        assert found.grade == "cannot"
        assert found.found == f"{folder} cannot be: {tmp_path}/sweeps is a file"


def test_a_cache_that_cannot_be_is_no_end_of_sweeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = cache_room()
    assert found.grade == "slower"
    assert found.mend is not None and "Set XDG_CACHE_HOME to a folder of yours" in found.mend
