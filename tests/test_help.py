"""`--help` of every command, and the shell's completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sweep.cli import app

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_there_are_commands() -> None:
    assert {"run", "confirm", "compare", "export"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], terminal_width=200).stdout
    assert f"sweep {command}" in text.partition("Example: ")[2]


def completed(words: str, folder: Path) -> list[str]:
    """What bash is offered, asked as the script that `--install-completion` installs asks."""
    n_words = len(words.split(" "))
    asked = {
        "_SWEEP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(n_words - 1),
    }
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['sweep']; from sweep.cli import app; app(prog_name='sweep')",
        ],
        cwd=folder,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for output, name in (("sweeps", "mine"), ("sweeps", "more"), ("elsewhere", "theirs")):
        (tmp_path / output / name).mkdir(parents=True)
        (tmp_path / output / name / "sweep.json").write_text("{}")
    return tmp_path


def test_commands_are_completed(folder: Path) -> None:
    assert completed("sweep con", folder) == ["confirm"]


def test_a_sweep_is_completed_by_its_name(folder: Path) -> None:
    assert completed("sweep best m", folder) == ["mine", "more"]
    assert completed("sweep best mi", folder) == ["mine"]


def test_of_the_folder_that_stands_before(folder: Path) -> None:
    assert completed("sweep status --output elsewhere t", folder) == ["theirs"]
