"""`sweep clean`: what it finds, what it never touches, and that it deletes only when told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.control.clean import Garbage, _deleted, clean
from sweep.folder.lock import locked
from tests.sweep.reviewed import make_config, point, result, write_sweep
from trials.data.tokens import TokenSplit
from trials.rendering import token_cache
from trials.rendering.renderer import RowCounts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep with a trial that has ended and one that has not, each with a checkpoint."""
    curve = [point(1, 2.0)]
    folder = write_sweep(tmp_path / "mine", [(make_config(0), result("completed", curve), curve)])
    for number in ("000", "001"):
        (folder / "trials" / number).mkdir(exist_ok=True)
        (folder / "trials" / number / "checkpoint.safetensors").write_bytes(b"0" * 1000)
    (folder / "trials" / "000" / "adapter.123.tmp").mkdir()
    (folder / "trials" / "000" / "adapter.123.tmp" / "half").write_bytes(b"0" * 500)
    (folder / "best").mkdir()
    (folder / "best" / "README.md").write_text("the best")
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_without_being_told_it_deletes_nothing(folder: Path) -> None:
    before = files(folder)
    found, left_alone = clean([folder], caches=False, delete=False)
    assert [(each.path.name, each.n_bytes) for each in found] == [
        ("checkpoint.safetensors", 1000),
        ("adapter.123.tmp", 500),
    ]
    assert left_alone == []
    assert files(folder) == before


def test_it_deletes_what_it_found_and_nothing_else(folder: Path) -> None:
    before = files(folder)
    clean([folder], caches=False, delete=True)
    assert before - files(folder) == {
        "trials/000/checkpoint.safetensors",
        "trials/000/adapter.123.tmp/half",
    }


def test_a_running_sweep_is_left_alone(folder: Path) -> None:
    before = files(folder)
    with locked(folder):
        found, [left_alone] = clean([folder], caches=False, delete=True)
    assert found == []
    assert left_alone.startswith("Skipped mine: it runs as process ")
    assert files(folder) == before


def test_tokenised_data_stays_while_a_sweep_is_linked_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "cache_dir", lambda: tmp_path / "tokens")

    def make() -> token_cache.Made:
        split = TokenSplit.of(
            ids=np.arange(4, dtype=np.int32),
            supervised=np.ones(4, np.bool_),
            lengths=np.array([4], np.int64),
        )
        return split, RowCounts()

    (tmp_path / "data").mkdir()
    token_cache.place(tmp_path / "data" / "train", "used", make)
    token_cache.place(tmp_path / "data" / "eval", "unused", make)
    for path in (tmp_path / "data").glob("eval.*"):
        path.unlink()
    found, _ = clean([], caches=True, delete=True)
    assert [each.path.name for each in found] == ["unused"]
    assert found[0].n_bytes > 0
    assert (tmp_path / "tokens" / "used").exists()
    assert not (tmp_path / "tokens" / "unused").exists()


def test_it_wants_a_name_or_all(folder: Path) -> None:
    for arguments in ([], ["mine", "--all"]):
        done = CliRunner().invoke(app, ["clean", *arguments, "--output", str(folder.parent)])
        assert done.exit_code == 2
        assert "needs the name of a sweep, or --all" in done.output
    done = CliRunner().invoke(app, ["clean", "mine", "--output", str(folder.parent)])
    assert (done.exit_code, "0.0 MB can be freed; --yes deletes it." in done.output) == (0, True)


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, ["clean", *arguments]).output


def test_all_sweeps_take_three_lines_and_the_list_comes_when_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "unused", lambda: [tmp_path / "tokens"])
    (tmp_path / "tokens").write_bytes(b"0" * 900_000)
    assert run("--all", "--output", str(tmp_path)).splitlines() == [
        "Sweeps: 0.0 MB (checkpoint of an ended trial: 1, left by a dead process: 1)",
        "Cache: 0.9 MB (tokenised data that no sweep uses: 1)",
        "0.9 MB can be freed; --yes deletes it, --verbose lists it.",
    ]
    assert "adapter.123.tmp" in run("--all", "--verbose", "--output", str(tmp_path))


def test_what_is_skipped_is_not_nothing_to_delete(folder: Path) -> None:
    with locked(folder):
        output = run("mine", "--yes", "--output", str(folder.parent))
    assert output.startswith("Skipped mine: it runs as process ")
    assert "Nothing" not in output


def test_what_cannot_be_deleted_is_said_and_not_counted_as_freed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:  # root may delete anything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    found: list[Garbage] = [Garbage(folder / "best" / "README.md", "a file", 8)]
    left_alone: list[str] = []
    assert list(_deleted(found, left_alone)) == []
    assert left_alone == [f"Skipped {folder / 'best' / 'README.md'}: Permission denied."]
