"""The search space that a command is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweep.cli.space_file import load_file
from sweep.errors import SpaceError

SPACE = """\
base_model: org/model
data: {train: train.jsonl, eval: 0.1}
search: {rank: [8, 16]}
budget: {trials: 4}
"""


@pytest.fixture
def began(tmp_path: Path) -> Path:
    """A sweep's folder, whose file lay elsewhere."""
    there, folder = tmp_path / "there", tmp_path / "sweeps" / "mine"
    there.mkdir()
    folder.mkdir(parents=True)
    (there / "train.jsonl").write_text('{"text": "a row"}\n')
    (folder / "space.yaml").write_text(SPACE)
    (folder / "sweep.json").write_text(json.dumps({"name": "mine", "space": str(there)}))
    return folder


def test_a_sweeps_own_copy_is_read_as_the_file_that_it_was(began: Path) -> None:
    space = load_file(began / "space.yaml", {})
    assert space.name == "mine"
    assert space.folder == began.parents[1] / "there"


def test_what_is_missing_is_said_with_where_paths_begin(began: Path) -> None:
    there = began.parents[1] / "there"
    (there / "train.jsonl").unlink()
    with pytest.raises(SpaceError, match=f"no such file(.|\n)*Relative paths begin in {there}."):
        load_file(began / "space.yaml", {})


def test_another_file_of_that_name_is_read_where_it_lies(began: Path) -> None:
    (began / "sweep.json").unlink()
    with pytest.raises(SpaceError, match="data.train: no such file"):
        load_file(began / "space.yaml", {})
