"""Files that are there whole or not at all, and who may read them."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest

from trials.whole_file import usual_mode, write_new, write_whole

TOKEN = "hf_" + "aB3" * 11


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    "text", [TOKEN, "train: s3://key:secret@bucket/a.jsonl", "postgresql://host/db?password=x"]
)
def test_a_file_with_a_secret_is_for_its_owner_alone(tmp_path: Path, text: str) -> None:
    write_whole(tmp_path / "space.yaml", text)
    assert mode(tmp_path / "space.yaml") == 0o600


@pytest.mark.parametrize("text", ["s3://bucket/a?region=x", "http://host:5000", "me@host", "hf_x"])
def test_every_other_file_has_the_mode_that_the_umask_gives(tmp_path: Path, text: str) -> None:
    write_whole(tmp_path / "space.yaml", text)
    assert mode(tmp_path / "space.yaml") == usual_mode()


def test_a_new_file_that_finds_no_room_leaves_none_and_one_that_is_there_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "my.yaml"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_new(path, "x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
    write_new(path, "first")
    with pytest.raises(FileExistsError):
        write_new(path, "second")
    assert path.read_text() == "first"
