"""What a user got wrong is told in words; a fault of ours shows its traceback."""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import pytest
import typer

import sweep.errors
from sweep.cli import app, commands
from sweep.cli.errors import errors_in_words
from sweep.errors import SweepFailed
from trials.config import ConfigError, DataError
from trials.models.smollm2 import ModelError

ROOT = Path(__file__).parents[3]
OF_SWEEP = [kind for kind in vars(sweep.errors).values() if isinstance(kind, type)]
TOLD = [kind for kind in OF_SWEEP if kind is not SweepFailed] + [ConfigError, DataError, ModelError]


def test_no_error_of_ours_is_a_value_error_of_its_own() -> None:
    files = [path for folder in ("sweep", "trials") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    classes = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and "ValueError" in map(ast.unparse, node.bases)
    ]
    assert [kind.name for kind in classes] == ["UserError"]


@pytest.mark.parametrize(
    "kind",
    [k for k in OF_SWEEP if issubclass(k, ValueError)] + [ConfigError, DataError, ModelError],
)
def test_what_a_user_got_wrong_is_told_in_words(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise kind("search.rank: must be above 0.")

    monkeypatch.setattr(commands, "app", fails)
    with pytest.raises(SystemExit, match="2"):
        app.main()
    assert "search.rank: must be above 0." in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_file_that_this_user_may_not_use_is_told_in_words(number: int) -> None:
    words = errors_in_words(OSError(number, "Not allowed", "out/tiny/lock"))
    assert words is not None
    assert words.startswith("out/tiny/lock: Not allowed. Ask its owner")
    assert errors_in_words(OSError(number, "Not allowed")) is None  # no file's


def test_a_plain_value_error_gets_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(commands, "app", fails)
    with pytest.raises(ValueError, match="a fault of ours"):
        app.main()


def test_ctrl_c_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = typer.Typer()

    @waiting.command()
    def _wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "app", lambda: waiting([]))
    with pytest.raises(SystemExit, match="130"):
        app.main()
    assert capsys.readouterr().err == "Interrupted.\n"
