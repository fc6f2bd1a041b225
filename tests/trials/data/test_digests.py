"""Prepared rows that were changed: seen before a trial reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trials.config import DataError
from trials.data.digests import as_prepared, digests_of, is_whole, see_whole
from trials.faults import RowsChanged, fault_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train.ids.npy", "generation.json"):
        (tmp_path / name).write_text("1234")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "report.json").write_text(json.dumps({"digests": digests_of(tmp_path)}))
    return tmp_path


@pytest.mark.parametrize("name", ["train.ids.npy", "generation.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("content", ["12", "1235", "", None])
def test_a_file_that_was_changed_is_named(folder: Path, name: str, content: str | None) -> None:
    see_whole(folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=f"must hold the rows as prepared, but {name} changed"):
        see_whole(folder)
    try:
        see_whole(folder)
    except DataError as error:
        assert fault_of(error) == "rows_changed"
    assert not is_whole(folder)


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("crashes", [True, False])
def test_nothing_stays_of_a_trial_that_was_trained_on_changed_rows(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, is_before: bool, crashes: bool
) -> None:
    made = tmp_path_factory.mktemp("trial")
    (made / "checkpoint.safetensors").touch()
    if is_before:
        (folder / "train.ids.npy").write_text("12")
    with pytest.raises(RowsChanged), as_prepared(folder, made):
        (folder / "train.ids.npy").write_text("12")
        (made / "result.json").touch()
        if crashes:
            raise IndexError
    assert not list(made.iterdir())


def test_a_trial_on_rows_as_prepared_keeps_what_it_has_made(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = tmp_path_factory.mktemp("trial")
    with as_prepared(folder, made):
        (made / "result.json").touch()
    assert list(made.iterdir())


def test_only_what_is_read_is_looked_at(folder: Path) -> None:
    (folder / "train.ids.npy").write_text("")
    see_whole(folder, ["generation.json"])


def test_rows_of_a_version_that_noted_no_digests_are_taken_as_they_are(folder: Path) -> None:
    (folder / "report.json").write_text("{}")
    (folder / "train.ids.npy").write_text("")
    see_whole(folder)
    assert is_whole(folder)


@pytest.mark.parametrize("text", ["", '{"content": "ab', "null"])
def test_a_half_written_report_is_told_in_words(folder: Path, text: str) -> None:
    (folder / "report.json").write_text(text)
    words = "report.json: must hold what the prepared rows are, but"
    with pytest.raises(RowsChanged, match=words):
        see_whole(folder)
    assert not is_whole(folder)
