"""Every command says how it is called; a shell completes commands and the names of sweeps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sweep.cli.commands import app

COMMANDS = sorted(typer.main.get_group(app).commands)
SWEEP = [sys.executable, "-m", "sweep"]


def test_there_are_commands() -> None:
    assert {"run", "check", "status", "best", "report", "submit"} <= set(COMMANDS)


def test_help_lists_every_command_uncut_at_80_columns() -> None:
    listed = CliRunner().invoke(app, ["--help"], terminal_width=80, env={"COLUMNS": "80"}).output
    for name, command in typer.main.get_group(app).commands.items():
        summary = str(command.help).split("\n\n")[0].rstrip(".")
        assert len(summary) <= 60, summary
        assert re.search(rf"^  {name} +{re.escape(summary)}\.$", listed, re.MULTILINE), listed


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_told_in_at_most_60_characters(command: str) -> None:
    for each in typer.main.get_group(app).commands[command].params:
        told = str(getattr(each, "help", None) or "")
        assert 0 < len(told) <= 60, (each.name, told)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example_that_is_right(command: str) -> None:
    found = CliRunner().invoke(app, [command, "--help"])
    assert found.exit_code == 0
    assert " ".join(found.output.split()).count("Example: sweep") == 1
    group = typer.main.get_group(app)
    paragraphs = str(group.commands[command].help).split("\n\n")
    said = next(" ".join(each.split()) for each in paragraphs if "Example: sweep" in each)
    examples = re.findall(rf"Example: sweep ({command}\b.*)", said)
    assert len(examples) == 1, said
    # To the end of its sentence, or to what a shell would do with it.
    words = re.split(r"\. |\.$|;| > ", examples[0])[0]
    name, *given = shlex.split(words)
    assert group.commands[name].make_context(name, given).args == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sweeps in the usual folder, one in another, and a folder that is none."""
    for place in ("sweeps/quick", "sweeps/quiet-2", "other/queue"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "sweep.json").write_text("{}")
    (tmp_path / "sweeps" / "qualms").mkdir()
    return tmp_path


def completed_by_bash(folder: Path, line: str) -> list[str]:
    """What bash offers at the end of a line, after the script that `--show-completion` prints."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "sweep"
    program.write_text(f"#!{sys.executable}\nfrom sweep.cli.app import main\nmain()\n")
    program.chmod(0o755)
    words = line.split(" ")
    script = f"""
        eval "$(sweep --show-completion bash)"
        COMP_WORDS=({" ".join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1}
        function=$(complete -p sweep | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function sweep
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",  # there is no terminal to ask
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sweep sta", ["status"]),
        ("sweep status ", ["quick", "quiet-2"]),
        ("sweep show qui", ["quick", "quiet-2"]),
        ("sweep stop quie", ["quiet-2"]),
        ("sweep clean quic", ["quick"]),
        ("sweep best --output other ", ["queue"]),
        ("sweep status --output nowhere ", []),
        ("sweep best quick --yam", ["--yaml"]),
        ("sweep best quick --yaml ax", ["axolotl"]),
        ("sweep status x", []),
    ],
)
def test_bash_completes(folder: Path, line: str, offered: list[str]) -> None:
    assert completed_by_bash(folder, line) == offered
